"""The predictions on the validation part that a bundle carries: what calibration and abstention start from."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpo.errors import BundleError


class Validation(NamedTuple):
    """Predictions on the validation part, in its order."""

    labels: npt.NDArray[np.int64]
    """(n,) int64."""
    logits: npt.NDArray[np.float32]
    """(n, C) float32, before calibration."""

    def to_bytes(self) -> bytes:
        """As an .npz; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, labels=self.labels.astype(np.int64), logits=self.logits.astype(np.float32))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, source: Path) -> Validation:
        """What `to_bytes` gave; BundleError naming `source` for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = cls(arrays["labels"], arrays["logits"])
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"{source} holds no predictions ({error}); export the bundle again") from None
        if found.labels.shape != found.logits.shape[:1] or found.logits.ndim != 2:
            shapes = f"labels {found.labels.shape}, logits {found.logits.shape}"
            raise BundleError(f"{source} has {shapes}, but must have (n,) and (n, C); export the bundle again")
        return found

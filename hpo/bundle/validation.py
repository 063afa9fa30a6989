"""validation.npz of a bundle: the predictions on the validation part that calibration and abstention start from."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpo.errors import BundleError
from hpo.evaluation.metrics import Logits


class Validation(NamedTuple):
    """Predictions on the validation part, in its order."""

    labels: npt.NDArray[np.int64]
    """(n,) int64."""
    logits: npt.NDArray[np.float32]
    """(n, C) float32, before calibration."""

    def fits(self, classes: int) -> bool:
        """Whether all labels are among that many classes and the logits are finite and of as many."""
        labels, logits = self
        if logits.shape[1] != classes or not np.isfinite(logits).all():
            return False
        return bool(np.issubdtype(labels.dtype, np.integer) and ((labels >= 0) & (labels < classes)).all())

    def to_bytes(self, crossed: Logits | None = None) -> bytes:
        """Return an .npz file, with `Bundle.crossed` where there is one; the same arrays give the same bytes."""
        buffer = io.BytesIO()
        labels, logits = self.labels.astype(np.int64), self.logits.astype(np.float32)
        if crossed is None:
            np.savez(buffer, labels=labels, logits=logits)
        else:
            np.savez(buffer, labels=labels, logits=logits, crossed=crossed.astype(np.float32))
        return buffer.getvalue()


def read_validation(content: bytes, *, source: Path) -> tuple[Validation, Logits | None]:
    """Return the predictions that `to_bytes` wrote; BundleError naming `source` for any other content."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Validation(arrays["labels"], arrays["logits"])
            crossed = arrays.get("crossed")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{source} holds no predictions ({error}); export the bundle again") from None
    if found.labels.shape != found.logits.shape[:1] or found.logits.ndim != 2:
        shapes = f"labels {found.labels.shape}, logits {found.logits.shape}"
        raise BundleError(f"{source} has {shapes}, but must have (n,) and (n, C); export the bundle again")
    if crossed is not None and crossed.shape != found.logits.shape:
        raise BundleError(f"{source} has logits {found.logits.shape} and crossed {crossed.shape}; export it again")
    return found, crossed

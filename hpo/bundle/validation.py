"""validation.npz of a bundle: predictions on the validation part, from which calibration, abstention and sets start."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

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

    def to_bytes(self, crossed: Logits | None = None, altered: AlteredPredictions | None = None) -> bytes:
        """Return an .npz file, with those of `Bundle` that there are; the same arrays give the same bytes."""
        arrays: dict[str, Any] = {"labels": self.labels.astype(np.int64), "logits": self.logits.astype(np.float32)}
        if crossed is not None:
            arrays["crossed"] = crossed.astype(np.float32)
        if altered is not None:
            arrays |= {"altered_rows": altered.rows.astype(np.int64), "altered": altered.logits.astype(np.float32)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


class AlteredPredictions(NamedTuple):
    """Predictions on altered images of the validation part; of an ensemble or a soup by members chosen without it."""

    rows: npt.NDArray[np.int64]
    """(m,) the row of the validation part that each altered image shows."""
    logits: Logits
    """(m, C) float32, before calibration."""

    def fits(self, validation: Validation) -> bool:
        """Whether rows and logits are of images and classes of `validation`, and finite."""
        rows, logits = self
        images, classes = validation.logits.shape
        if rows.shape != logits.shape[:1] or logits.shape[1:] != (classes,) or not np.isfinite(logits).all():
            return False
        return bool(np.issubdtype(rows.dtype, np.integer) and ((rows >= 0) & (rows < images)).all())


class StoredPredictions(NamedTuple):
    """The content of validation.npz."""

    validation: Validation
    crossed: Logits | None
    altered: AlteredPredictions | None


def read_validation(content: bytes, *, source: Path) -> StoredPredictions:
    """Return the predictions that `to_bytes` wrote; BundleError naming `source` for any other content."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Validation(arrays["labels"], arrays["logits"])
            crossed = arrays.get("crossed")
            altered = AlteredPredictions(arrays["altered_rows"], arrays["altered"]) if "altered" in arrays else None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{source} holds no predictions ({error}); export the bundle again") from None
    if found.labels.shape != found.logits.shape[:1] or found.logits.ndim != 2:
        shapes = f"labels {found.labels.shape}, logits {found.logits.shape}"
        raise BundleError(f"{source} has {shapes}, but must have (n,) and (n, C); export the bundle again")
    if crossed is not None and crossed.shape != found.logits.shape:
        raise BundleError(f"{source} has logits {found.logits.shape} and crossed {crossed.shape}; export it again")
    if altered is not None and not altered.fits(found):
        raise BundleError(f"{source} has predictions on altered images that are not of these; export the bundle again")
    return StoredPredictions(found, crossed, altered)

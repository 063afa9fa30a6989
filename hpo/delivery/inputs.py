"""What `Model.predict` takes: paths or arrays of any size, brought to the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data import decode, fit_array
from hpo.errors import DataError

Images = npt.NDArray[np.uint8]
Inputs = Images | Sequence[Images] | Sequence[str | PathLike[str]]
"""(n, H, W, 3) uint8; or n arrays (H, W), (H, W, 3) or (H, W, 4) of any sizes; or n paths of image files."""


def batches_of(images: Inputs, size: int, batch_size: int) -> Iterator[Images]:
    """(b, S, S, 3) uint8, S = `size`, read and resized `batch_size` at a time.

    Raises DataError for one path or image where several are meant, and for the first path that cannot be read.
    """
    _refuse_single(images)
    return (
        np.stack([_square(image, size) for image in images[start : start + batch_size]])
        for start in range(0, len(images), batch_size)
    )


def names_of(images: Inputs) -> list[str]:
    """The path of each image; its position where it came as an array."""
    return [str(i) if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]


def _refuse_single(images: Inputs) -> None:
    """DataError for one path or one image where several are meant: its letters or rows are no images."""
    if isinstance(images, str | PathLike):
        raise DataError(f"{images} is one path, but a list is meant: [{str(images)!r}]")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise DataError(f"an array of shape {images.shape} is given, but must be (n, height, width, 3): add an axis")


def _square(image: Any, size: int) -> Images:
    """One image as (S, S, 3) uint8."""
    if isinstance(image, np.ndarray):
        return fit_array(image, size)
    try:
        return decode(Path(image).read_bytes(), size)
    except (DataError, OSError) as error:
        raise DataError(f"{image}: {error}") from None

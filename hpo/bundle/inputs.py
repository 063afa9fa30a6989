"""The images that `Model.predict` takes, in the forms in which a program may have them, and its predictions.

An image is the path of a file, the bytes of one, a file that is open for reading, a Pillow image, an array (H, W),
(H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or bool, or a tensor, channels last or first. All of them get the
preprocessing of files: upright by EXIF, 16 bits by the model's white level, over white where transparent.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hpo.data import fit, read_file
from hpo.data.dataset import Images
from hpo.errors import DataError, UsageError
from hpo.evaluation.calibration import Probabilities
from hpo.evaluation.conformal import SetRule

Inputs = Iterable[Any]
"""Any number of images in the forms above, or an array (N, H, W, 1, 3 or 4) or a tensor of N images."""

_CHANNELS = (1, 3, 4)

_FORMS = "a path, the bytes of an image file, an open file, a Pillow image, an array or a tensor"


def batches_of(
    images: Inputs, size: int, batch_size: int, white: int | None = None
) -> Iterator[tuple[list[str], Images]]:
    """Yield names and pixels (b, S, S, 3) uint8, S = `size`, of `batch_size` images at a time; no more are in memory.

    `white` is the value of 16-bit images that becomes 255; None is 65535. The name of an image is its path, or its
    position where it has none. Raises DataError at once for one image where several are meant, and in its turn for the
    first that cannot be read; UsageError for a batch size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}, but must be at least 1")
    return _batches(enumerate(_one_by_one(images)), partial(fit, size=size, white=white), batch_size)


def _batches(
    numbered: Iterator[tuple[int, Any]], fitting: Callable[..., Images], batch_size: int
) -> Iterator[tuple[list[str], Images]]:
    while some := list(islice(numbered, batch_size)):
        yield [_name(image, number) for number, image in some], np.stack([_read_image(*one, fitting) for one in some])


def _one_by_one(images: Any) -> Iterable[Any]:
    """Return the images one by one; DataError for a single image, whose letters, bytes or rows are no images."""
    if isinstance(images, str | PathLike):
        raise DataError(f"{images} is one path, but a list is meant: [{str(images)!r}]")
    if isinstance(images, bytes | bytearray | memoryview | Image.Image) or hasattr(images, "read"):
        raise DataError("one image is given, but a list is meant: put it into a list, [image]")
    if isinstance(images, Mapping):
        raise DataError("a mapping is given, but a list is meant: give its values, list(images.values())")
    if not isinstance(images, torch.Tensor) and hasattr(images, "__array__"):
        images = np.asarray(images)
    if isinstance(images, np.ndarray | torch.Tensor) and not _holds_images(images):
        raise DataError(
            f"an array of shape {tuple(images.shape)} is given, but must be (n, height, width, 3): add an axis"
        )
    if not isinstance(images, Iterable):
        raise DataError(f"{type(images).__name__} is given, but a list is meant of images: {_FORMS}")
    return images


def _holds_images(array: Any) -> bool:
    """Whether the rows of an array are images or paths; an empty array counts as either."""
    return array.ndim == 4 or (array.ndim == 1 and (not len(array) or getattr(array.dtype, "kind", "") in "UO"))


def _name(image: Any, number: int) -> str:
    return str(image) if isinstance(image, str | PathLike) else str(number)


def _read_image(number: int, image: Any, fitting: Callable[..., Images]) -> Images:
    """Return one image as (S, S, 3) uint8; DataError names it."""
    try:
        return fitting(_decodable(image))
    except DataError as error:
        raise DataError(f"{_described(image, number)}: {error}") from None
    except OSError as error:
        raise DataError(f"{_described(image, number)}: cannot be opened ({error.strerror or error})") from None


def _described(image: Any, number: int) -> str:
    name = _name(image, number)
    return name if isinstance(image, str | PathLike) else f"image {name}"


def _decodable(image: Any) -> bytes | npt.NDArray[Any] | Image.Image:
    """Return the image in a form that `hpo.data.fit` takes; DataError for an object that is no image."""
    if isinstance(image, str | PathLike):
        return read_file(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        return _tensor_pixels(image)
    if hasattr(image, "read"):
        return _read_open_file(image)
    if hasattr(image, "__array__"):
        array = np.asarray(image)
        _refuse_channels_first(array)
        return array
    raise DataError(f"{type(image).__name__} is no image: give {_FORMS}")


def _read_open_file(file: Any) -> bytes:
    try:
        content = file.read()
    except (ValueError, io.UnsupportedOperation) as error:
        raise DataError(f"the file cannot be read ({error})") from None
    if not isinstance(content, bytes | bytearray | memoryview):
        raise DataError('the file is open as text: open it with "rb"')
    return bytes(content)


def _refuse_channels_first(array: npt.NDArray[Any]) -> None:
    """Raise DataError for an array with its channels first: they might be rows, so it is not transposed here."""
    if array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[2] not in _CHANNELS:
        raise DataError(
            f"pixels have shape {array.shape}, but must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): "
            "give image.transpose(1, 2, 0)"
        )


def _tensor_pixels(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Return (H, W) or (H, W, C) of a tensor, whose channels may be first, as in torch, or last."""
    if tensor.ndim == 3:
        first, last = tensor.shape[0] in _CHANNELS, tensor.shape[2] in _CHANNELS
        if first and last:
            raise DataError(
                f"a tensor of shape {tuple(tensor.shape)} has its channels first or last, which cannot be told apart: "
                "give an array (H, W, C)"
            )
        tensor = tensor.permute(1, 2, 0) if first else tensor
    if tensor.dtype not in (torch.uint8, torch.uint16, torch.bool):
        raise DataError(f"pixels are {tensor.dtype}, but must be uint8 (0 to 255), uint16 or bool")
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return np.ascontiguousarray(array)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    name: str
    """Path or key of the image; its position where it has neither."""
    label: str
    index: int
    """Position of `label` in the model's classes."""
    probability: float
    probabilities: dict[str, float]
    """Calibrated, by class name."""
    abstained: bool = False
    """Whether `probability` is below the threshold for the accuracy that was asked for, so that `label` is a guess."""
    prediction_set: tuple[str, ...] | None = None
    """The classes among which the true one is with the probability that was asked for, the most probable first; None
    where no sets were asked for."""


def predictions(
    names: Sequence[str],
    probabilities: Probabilities,
    classes: Sequence[str],
    threshold: float = 0.0,
    sets: SetRule | None = None,
) -> list[Prediction]:
    """Return predictions from n names and (n, C) probabilities; those below `threshold` abstain, `sets` makes sets."""

    def one(name: str, row: list[float], members: list[bool] | None) -> Prediction:
        index = max(range(len(row)), key=row.__getitem__)
        by_class = dict(zip(classes, row, strict=True))
        chosen = None
        if members is not None:
            order = sorted(range(len(row)), key=lambda label: -row[label])
            chosen = tuple(classes[label] for label in order if members[label])
        return Prediction(name, classes[index], index, row[index], by_class, row[index] < threshold, chosen)

    members = sets.members(probabilities).tolist() if sets is not None else [None] * len(names)
    return [one(*values) for values in zip(names, probabilities.tolist(), members, strict=True)]

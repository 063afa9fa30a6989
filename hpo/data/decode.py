"""From a stored image to (S, S, 3) uint8 RGB: the one preprocessing that training, evaluation and prediction share.

First the image is brought to its plain form: stored size, upright by its EXIF orientation, RGB with 8 bits, over
white where it is transparent; 16-bit values are scaled to 8 bits over their whole range, never clipped. Then the centre
square is resampled to S x S with an antialiased bicubic filter. So a picture gives the same pixels from every lossless
format, as a file, in an archive or as an array, and equal plain forms are duplicates at every S.
"""

from __future__ import annotations

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from hpo.data.dataset import Images
from hpo.data.records import SUFFIXES, Payload
from hpo.errors import DataError

MAX_MEGAPIXELS = 64
MAX_BYTES = 4 * MAX_MEGAPIXELS * 1_000_000
"""Of one stored image: what the largest one takes uncompressed with four channels."""

_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
_LARGE_PIXELS = 8_000_000
_one_large_image = threading.Lock()
_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow raises on damaged files, gathered from its plugins and by feeding them noise."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation (Exif 2.32, tag 0x0112) -> the transposition that undoes it."""


def fit(payload: Payload | Image.Image, size: int) -> Images:
    """An image as it is stored, as (size, size, 3) uint8 RGB; DataError says why where it cannot be."""
    with original(payload) as image:
        return squared(image, size)


def decode(data: bytes, size: int) -> Images:
    """`fit` of the bytes of an image file."""
    return fit(data, size)


def fit_array(array: npt.NDArray[Any], size: int) -> Images:
    """`fit` of pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or bool."""
    return fit(array, size)


@contextmanager
def original(payload: Payload | Image.Image) -> Iterator[Image.Image]:
    """The image at its stored size: upright, RGB, 8 bits, over white where it is transparent.

    What is packed, and what tells duplicates, is made of this image alone. So it is decoded in full: a JPEG decoded
    at a fraction of its size would differ from the same picture in another format. A large image is held by one
    thread at a time, so that many threads need no more memory than one. Raises DataError where there is no image.
    """
    with ExitStack() as held:
        if isinstance(payload, bytes):
            yield _from_file(payload, held)
        elif isinstance(payload, Image.Image):
            with _faults_told():
                image = _from_picture(payload, held)
            yield image
        else:
            yield _from_array(payload, held)


def squared(image: Image.Image, size: int) -> Images:
    """The centre square of an RGB image, resampled where it must be, as (size, size, 3) uint8."""
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        # The box is resampled in place of the whole, so a strip of 1 x 10^7 pixels never grows to size x 10^9.
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    return np.array(image)


def refuse_large(pixels: int) -> None:
    """DataError for an image of more pixels than are ever decoded."""
    if pixels > MAX_MEGAPIXELS * 1_000_000:
        raise DataError(_too_large(pixels))


def refuse_long(stored: int) -> None:
    """DataError for a file of more bytes than any image within the limit can need."""
    if stored > MAX_BYTES:
        raise DataError(f"{stored / 1e6:.0f} MB, more than the limit of {MAX_BYTES / 1e6:.0f} MB for one image")


@contextmanager
def pillow_unheard() -> Iterator[None]:
    """Silence Pillow's warnings: what it warns of ends in an image or in a reason of ours. Not for use in threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _too_large(pixels: int) -> str:
    megapixels = pixels / 1e6
    return f"{megapixels:.1f} megapixels, more than the limit of {MAX_MEGAPIXELS} megapixels: scale it down"


def _take_turn(pixels: int, held: ExitStack) -> None:
    """DataError for an image that is too large; a large one waits until no other is decoded, as long as it is held."""
    refuse_large(pixels)
    if pixels > _LARGE_PIXELS:
        held.enter_context(_one_large_image)


def _from_file(data: bytes, held: ExitStack) -> Image.Image:
    if not data:
        raise DataError("empty file (0 bytes)")
    with _faults_told(), Image.open(BytesIO(data), formats=_FORMATS) as image:
        return _from_picture(image, held)


def _from_picture(image: Image.Image, held: ExitStack) -> Image.Image:
    """An opened image, which is not changed."""
    _take_turn(image.width * image.height, held)
    image.load()
    # Asked after loading: Pillow turns a TIFF upright by itself and then drops the tag.
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return _upright(_rgb(image), orientation)


@contextmanager
def _faults_told() -> Iterator[None]:
    """Turns what Pillow raises into a DataError."""
    try:
        yield
    except UnidentifiedImageError:
        raise DataError(f"not an image of a known format ({', '.join(SUFFIXES)})") from None
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(int(re.findall(r"\d+", str(error))[0]))) from None
    except _FAULTS as error:
        raise DataError(f"truncated or damaged ({' '.join(str(error).split())})") from None


def _from_array(array: npt.NDArray[Any], held: ExitStack) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise DataError(f"pixels have shape {array.shape}, but must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _take_turn(array.shape[0] * array.shape[1], held)
    return _rgb(Image.fromarray(_eight_bits(array)))


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    """A loaded image with three channels of 8 bits, over white where it is transparent."""
    if image.mode in ("I", "F"):
        raise DataError(f"32-bit pixels (mode {image.mode}) without a known range: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    over_white = Image.new("RGB", image.size, "white")
    over_white.paste(image, mask=image)
    return over_white


def _eight_bits(array: npt.NDArray[Any]) -> Images:
    """uint8 as it is, uint16 scaled from 0..65535 to 0..255, bool as 0 and 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.newbyteorder("=") == np.uint16:
        return np.take(_scale_table(), array)
    raise DataError(f"pixels are {array.dtype}, but must be uint8 (0 to 255), uint16 or bool")


@cache
def _scale_table() -> Images:
    """(65536,) uint8: v -> round(v / 257). A table, because 64 megapixels leave no room for wider temporaries."""
    return ((np.arange(65_536) + 128) // 257).astype(np.uint8)

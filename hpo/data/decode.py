"""From a stored image to (S, S, 3) uint8 RGB: the one preprocessing that training, evaluation and prediction share.

First the image is brought to its plain form: stored size, first page or frame, upright by its EXIF orientation, RGB,
over white where it is transparent. 16 bits become 8 by a white level (`depth`). Then the centre square is resampled to
S x S with an antialiased bicubic filter. So a picture gives the same pixels from every lossless format, as a file, in
an archive or as an array, and equal plain forms are duplicates at every S.
"""

from __future__ import annotations

import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from hpo.data import digests
from hpo.data.dataset import Images
from hpo.data.depth import FULL, DeepImage, deep_image_from_array, deep_image_from_file
from hpo.data.formats import PILLOW_FORMATS, describe_content, without_metadata
from hpo.data.records import Payload
from hpo.errors import DataError

MAX_MEGAPIXELS = 64

MAX_BYTES = 4 * MAX_MEGAPIXELS * 1_000_000
"""Of one stored image: what the largest one takes uncompressed with four channels."""

_COUNTED_BY_SEEKING = ("GIF", "TIFF")

_LARGE_PIXELS = 8_000_000

_one_large_image = threading.Lock()

_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
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


@dataclass(frozen=True, slots=True)
class PlainImage:
    """An image in its plain form."""

    picture: Image.Image | DeepImage
    """RGB of 8 bits, or 16 bits whose white level is not decided yet."""
    pages: int = 1
    """Pages or frames of the file; the picture is the first."""

    @property
    def largest(self) -> int | None:
        """The largest value of 16 bits for which the white level must be known from elsewhere; else None."""
        return self.picture.largest if isinstance(self.picture, DeepImage) else None

    def digest(self) -> str:
        """32 hex digits; equal ones are duplicates. The white level plays no role."""
        plain = self.picture.plain() if isinstance(self.picture, DeepImage) else self.picture
        if isinstance(plain, Image.Image):
            return digests.of_image(plain)
        return digests.of_image(_rgb(Image.fromarray(plain))) if plain.dtype == np.uint8 else digests.of_payload(plain)

    def centre_square(self, size: int, white: int | None = None) -> Images:
        """The centre square as (size, size, 3) uint8; `white` as in `fit`."""
        if isinstance(self.picture, DeepImage):
            return centre_square(_rgb(Image.fromarray(self.picture.eight_bits(white or FULL))), size)
        return centre_square(self.picture, size)


def fit(payload: Payload | Image.Image, size: int, white: int | None = None) -> Images:
    """An image as it is stored, as (size, size, 3) uint8 RGB; DataError says why where it cannot be.

    `white` is the value of 16 bits that becomes 255, where the file gives no other; None is 65535.
    """
    with plain_image(payload) as image:
        return image.centre_square(size, white)


def decode(data: bytes, size: int, white: int | None = None) -> Images:
    """`fit` of the bytes of an image file."""
    return fit(data, size, white)


def fit_array(array: npt.NDArray[Any], size: int, white: int | None = None) -> Images:
    """`fit` of pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or bool."""
    return fit(array, size, white)


@contextmanager
def plain_image(payload: Payload | Image.Image) -> Iterator[PlainImage]:
    """The image in its plain form.

    What is packed, and what tells duplicates, is made of this image alone. So it is decoded in full: a JPEG decoded
    at a fraction of its size would differ from the same picture in another format. A large image is held by one
    thread at a time, so that many threads need no more memory than one. Raises DataError where there is no image.
    """
    with ExitStack() as held:
        if isinstance(payload, bytes):
            yield _from_file(payload, held)
        elif isinstance(payload, Image.Image):
            yield _from_picture(payload, held)
        else:
            yield _from_array(payload, held)


def centre_square(image: Image.Image, size: int) -> Images:
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
def silence_pillow() -> Iterator[None]:
    """Silence Pillow's warnings: what it warns of ends in an image or in a reason of ours. Not for use in threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _too_large(pixels: int) -> str:
    megapixels = pixels / 1e6
    return f"{megapixels:.1f} megapixels, more than the limit of {MAX_MEGAPIXELS} megapixels: scale it down"


def _wait_if_large(pixels: int, held: ExitStack) -> None:
    """DataError for an image that is too large; a large one waits until no other is decoded, as long as it is held."""
    refuse_large(pixels)
    if pixels > _LARGE_PIXELS:
        held.enter_context(_one_large_image)


def _from_file(data: bytes, held: ExitStack) -> PlainImage:
    """The first page of a file. Metadata are no reason to lose an image: where it fails, it is read without them."""
    if not data:
        raise DataError("empty file (0 bytes)")
    with _translate_faults(data):
        try:
            return _decode_file(data, held)
        except _FAULTS:
            plain = without_metadata(data)
            if plain is None:
                raise
            held.close()
            return _decode_file(plain, held)


def _decode_file(data: bytes, held: ExitStack) -> PlainImage:
    with Image.open(BytesIO(data), formats=PILLOW_FORMATS) as image:
        _wait_if_large(image.width * image.height, held)
        return PlainImage(_plain(image, data), _pages(image, data))


def _from_picture(image: Image.Image, held: ExitStack) -> PlainImage:
    """An image that the caller has opened, at the page where it stands; it is not changed."""
    _wait_if_large(image.width * image.height, held)
    with _translate_faults(b""):
        return PlainImage(_plain(image, None))


def _plain(image: Image.Image, data: bytes | None) -> Image.Image | DeepImage:
    """An opened image in its plain form; `data` are the bytes of its file."""
    if deep := deep_image_from_file(image, data):
        return deep.upright(_orientation(image))
    image.load()
    rgb, orientation = _rgb(image), _orientation(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


@contextmanager
def _translate_faults(data: bytes) -> Iterator[None]:
    """Turns what Pillow raises into a DataError; `data` are the bytes of the file."""
    try:
        yield
    except UnidentifiedImageError:
        raise DataError(describe_content(data)) from None
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(int(re.findall(r"\d+", str(error))[0]))) from None
    except _FAULTS as error:
        raise DataError(f"truncated or damaged ({' '.join(str(error).split())})") from None


def _pages(image: Image.Image, data: bytes) -> int:
    """How many pages or frames the file of an opened image has; 1 where the others are damaged."""
    if image.format not in _COUNTED_BY_SEEKING:
        return int(getattr(image, "n_frames", 1))
    try:
        # In an image of its own, because the count goes to other pages, and the picture would go with it.
        with Image.open(BytesIO(data), formats=(image.format,)) as counted:
            return int(counted.n_frames)  # type: ignore[attr-defined]
    except _FAULTS:
        return 1


def _orientation(image: Image.Image) -> int:
    """By EXIF; 1, upright, where there is none or it is damaged.

    Asked after loading: Pillow turns a TIFF upright by itself and then drops the tag.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _FAULTS:
        return 1


def _from_array(array: npt.NDArray[Any], held: ExitStack) -> PlainImage:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise DataError(f"pixels have shape {array.shape}, but must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _wait_if_large(array.shape[0] * array.shape[1], held)
    if array.dtype.newbyteorder("=") == np.uint16:
        return PlainImage(deep_image_from_array(array))
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise DataError(f"pixels are {array.dtype}, but must be uint8 (0 to 255), uint16 or bool")
    return PlainImage(_rgb(Image.fromarray(array)))


def _rgb(image: Image.Image) -> Image.Image:
    """A loaded image of 8 bits or fewer with three channels, over white where it is transparent."""
    if image.mode in ("I", "F"):
        raise DataError(f"32-bit pixels (mode {image.mode}) without a known range: save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    over_white = Image.new("RGB", image.size, "white")
    over_white.paste(image, mask=image)
    return over_white

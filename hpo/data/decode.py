"""The preprocessing of a stored image to (S, S, 3) uint8 RGB, which training, evaluation and prediction share.

First the image is brought to its plain form: stored size, first page or frame, upright by its EXIF orientation, RGB,
over white if it is transparent. 16 bits become 8 by a white level (`depth`). Then the centre square is resampled to
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
from hpo.data.formats import PILLOW_FORMATS, describe_content, size_of_plain_jpeg, without_metadata
from hpo.data.records import Payload
from hpo.data.signatures import (
    ALPHA,
    CMYK,
    GREY,
    LARGEST,
    PALETTE,
    SIXTEEN_BIT,
    UnmeasuredSignature,
    small_pictures,
)
from hpo.errors import DataError

MAX_MEGAPIXELS = 64

MAX_BYTES = 4 * MAX_MEGAPIXELS * 1_000_000
"""The most bytes of a stored image: those of the largest one, uncompressed with four channels."""

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
"""The errors that Pillow raises on damaged files, collected from its plugins and by fuzzing."""

_MODES = {
    "1": GREY,
    "L": GREY,
    "LA": GREY,
    "La": GREY,
    "F": GREY,
    "CMYK": CMYK,
    "P": PALETTE,
    "PA": PALETTE,
}
"""Mode of Pillow -> the bits of a signature's mode, without transparency; for "I…" see `_mode`."""

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
    """RGB of 8 bits, or 16 bits before the white level is applied."""
    pages: int = 1
    """The number of pages or frames of the file; the picture is the first."""
    mode: int = 0
    """How the image was stored, as in `signatures.SIGNATURE`, without the bit for 16 bits."""
    orientation: int = 1
    """The EXIF orientation that was undone; 1 is upright."""

    def signature(self, white: int | None = None, square: Images | None = None) -> UnmeasuredSignature:
        """Return what the signature of the image is made of; `white` is as in `fit`, `square` as in `digest`."""
        mode = self.mode
        if isinstance(self.picture, DeepImage):
            mode |= SIXTEEN_BIT
            height, width = self.picture.values.shape[:2]
        else:
            width, height = self.picture.size
        if square is None or square.shape[:2] != (height, width):
            square = _measured_square(self.rgb(white))
        pages = min(self.pages, 65535)
        return UnmeasuredSignature(width, height, mode, self.orientation, pages, *small_pictures(square))

    @property
    def largest(self) -> int | None:
        """The largest 16-bit value of an image that does not state its white level; else None."""
        return self.picture.largest if isinstance(self.picture, DeepImage) else None

    def digest(self, square: Images | None = None) -> str:
        """Return 32 hex digits, equal for duplicates. The white level plays no role.

        `square` is what `centre_square` has given: it may spare reading the picture once more.
        """
        plain = self.picture.plain() if isinstance(self.picture, DeepImage) else self.picture
        if square is not None and isinstance(plain, Image.Image) and plain.size == square.shape[1::-1]:
            return digests.of_rgb(square)
        if isinstance(plain, Image.Image):
            return digests.of_image(plain)
        return digests.of_image(_rgb(Image.fromarray(plain))) if plain.dtype == np.uint8 else digests.of_payload(plain)

    def centre_square(self, size: int, white: int | None = None) -> Images:
        """Return the centre square as (size, size, 3) uint8; `white` is as in `fit`."""
        return centre_square(self.rgb(white), size)

    def rgb(self, white: int | None = None) -> Image.Image:
        """Return the picture with 8 bits; `white` is as in `fit`."""
        if isinstance(self.picture, DeepImage):
            return _rgb(Image.fromarray(self.picture.eight_bits(white or FULL)))
        return self.picture


def fit(payload: Payload | Image.Image, size: int, white: int | None = None) -> Images:
    """Return a stored image as (size, size, 3) uint8 RGB. Raise DataError with the reason if it cannot be read.

    `white` is the value of 16 bits that becomes 255 unless the file states another; None is 65535.
    """
    with plain_image(payload) as image:
        return image.centre_square(size, white)


def decode(data: bytes, size: int, white: int | None = None) -> Images:
    """Return `fit` of the bytes of an image file."""
    return fit(data, size, white)


def fit_array(array: npt.NDArray[Any], size: int, white: int | None = None) -> Images:
    """Return `fit` of pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or bool."""
    return fit(array, size, white)


@contextmanager
def plain_image(payload: Payload | Image.Image) -> Iterator[PlainImage]:
    """Yield the image in its plain form, of which packed pixels and digests are made. Raise DataError if there is none.

    A large image is held by one thread at a time, so that many threads need no more memory than one.
    """
    # Images are decoded in full: a JPEG decoded at a fraction of its size would differ from the same picture in
    # another format.
    with ExitStack() as held:
        if isinstance(payload, bytes):
            yield _from_file(payload, held)
        elif isinstance(payload, Image.Image):
            yield _from_picture(payload, held)
        else:
            yield _from_array(payload, held)


def centre_square(image: Image.Image, size: int, kernel: Image.Resampling = Image.Resampling.BICUBIC) -> Images:
    """Return the centre square of an RGB image, resampled if needed, as (size, size, 3) uint8."""
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        # The box is resampled in place of the whole, so a strip of 1 x 10^7 pixels never grows to size x 10^9.
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), kernel, box=box, reducing_gap=2.0)
    return np.array(image)


def _measured_square(image: Image.Image) -> Images:
    """Return the centre square of an RGB image, of at most LARGEST pixels a side, for its signature."""
    width, height = image.size
    side = min(width, height)
    if side > LARGEST or (width - side) % 2 or (height - side) % 2:  # from between two pixels
        return centre_square(image, min(side, LARGEST), Image.Resampling.BOX)
    left, top = (width - side) // 2, (height - side) // 2
    return np.array(image if width == height else image.crop((left, top, left + side, top + side)))


def refuse_large(pixels: int) -> None:
    """Raise DataError for an image above the limit of pixels."""
    if pixels > MAX_MEGAPIXELS * 1_000_000:
        raise DataError(_too_large(pixels))


def refuse_long(stored: int) -> None:
    """Raise DataError for a file of more bytes than any image within the limit can need."""
    if stored > MAX_BYTES:
        raise DataError(f"{stored / 1e6:.0f} MB, more than the limit of {MAX_BYTES / 1e6:.0f} MB for one image")


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Silence Pillow's warnings. Not for use in threads."""
    # Everything that it warns of ends in an image or in a DataError.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _too_large(pixels: int) -> str:
    megapixels = pixels / 1e6
    return f"{megapixels:.1f} megapixels, more than the limit of {MAX_MEGAPIXELS} megapixels: scale it down"


def _wait_if_large(pixels: int, held: ExitStack) -> None:
    """Raise DataError for an image above the limit. A large one holds the lock of large images until `held` closes."""
    refuse_large(pixels)
    if pixels > _LARGE_PIXELS:
        held.enter_context(_one_large_image)


def _from_file(data: bytes, held: ExitStack) -> PlainImage:
    """Decode the first page of a file. A file that fails is decoded again without its metadata."""
    if not data:
        raise DataError("empty file (0 bytes)")
    if plain := _from_plain_jpeg(data):
        return plain
    with _translate_faults(data):
        try:
            return _decode_file(data, held)
        except _FAULTS:
            stripped = without_metadata(data)
            if stripped is None:
                raise
            held.close()
            return _decode_file(stripped, held)


def _from_plain_jpeg(data: bytes) -> PlainImage | None:
    """Decode the commonest JPEGs by Pillow's decoder alone, without its reading of metadata, which takes as long.

    None for all others, and where the decoder fails: `_decode_file` then says why.
    """
    width, height = size_of_plain_jpeg(data) or (0, 0)
    if not 0 < width * height <= _LARGE_PIXELS:
        return None
    try:
        return PlainImage(Image.frombytes("RGB", (width, height), data, "jpeg", "RGB", ""))
    except _FAULTS:
        return None


def _decode_file(data: bytes, held: ExitStack) -> PlainImage:
    with Image.open(BytesIO(data), formats=PILLOW_FORMATS) as image:
        _wait_if_large(image.width * image.height, held)
        mode = _mode(image)
        picture, orientation = _plain(image, data)
        return PlainImage(picture, _pages(image, data), mode, orientation)


def _from_picture(image: Image.Image, held: ExitStack) -> PlainImage:
    """Decode the current page of an image that the caller has opened. The image is not changed."""
    _wait_if_large(image.width * image.height, held)
    with _translate_faults(b""):
        mode = _mode(image)
        picture, orientation = _plain(image, None)
        return PlainImage(picture, 1, mode, orientation)


def _plain(image: Image.Image, data: bytes | None) -> tuple[Image.Image | DeepImage, int]:
    """Return an opened image in its plain form, and its orientation; `data` are the bytes of its file."""
    if deep := deep_image_from_file(image, data):
        orientation = _orientation(image)
        return deep.upright(orientation), orientation
    image.load()
    rgb, orientation = _rgb(image), _orientation(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb, orientation


@contextmanager
def _translate_faults(data: bytes) -> Iterator[None]:
    """Turn the errors of Pillow into a DataError; `data` are the bytes of the file."""
    try:
        yield
    except UnidentifiedImageError:
        raise DataError(describe_content(data)) from None
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(int(re.findall(r"\d+", str(error))[0]))) from None
    except _FAULTS as error:
        raise DataError(f"truncated or damaged ({' '.join(str(error).split())})") from None


def _pages(image: Image.Image, data: bytes) -> int:
    """Return the number of pages or frames in the file of an opened image; 1 if the others are damaged."""
    if image.format not in _COUNTED_BY_SEEKING:
        return int(getattr(image, "n_frames", 1))
    try:
        # In an image of its own, because counting moves an image to other pages.
        with Image.open(BytesIO(data), formats=(image.format,)) as counted:
            return int(counted.n_frames)  # type: ignore[attr-defined]
    except _FAULTS:
        return 1


def _mode(image: Image.Image) -> int:
    """Return the bits that say how an opened image is stored, as in `signatures.SIGNATURE`."""
    bits = _MODES.get(image.mode, GREY if image.mode.startswith("I") else 0)
    return bits | (ALPHA if image.has_transparency_data else 0)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; 1, upright, if it is missing or damaged."""
    # After loading, because Pillow turns a TIFF upright while loading and then drops the tag.
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
    mode = GREY if array.ndim == 2 else ALPHA if array.shape[2] == 4 else 0
    if array.dtype.newbyteorder("=") == np.uint16:
        return PlainImage(deep_image_from_array(array), mode=mode)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise DataError(f"pixels are {array.dtype}, but must be uint8 (0 to 255), uint16 or bool")
    return PlainImage(_rgb(Image.fromarray(array)), mode=mode)


def _rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image of 8 bits or fewer with three channels, over white if it is transparent."""
    if image.mode in ("I", "F"):
        raise DataError(f"32-bit pixels (mode {image.mode}) without a known range: save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    over_white = Image.new("RGB", image.size, "white")
    over_white.paste(image, mask=image)
    return over_white

"""Images of 16 bits, whose values may use fewer: the white level, and the conversion to 8 bits.

A camera of 12 bits writes files of 16 bits with values up to 4095. The *white level* is the value that becomes 255.
Some files state theirs (`maxval` of a PGM, 12 bits a sample in a TIFF). For all others it is one value for the whole
data set: the smallest of 255, 1023, 4095, 16383 and 65535 that no value exceeds. A bundle stores it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from hpo.data.dataset import Images
from hpo.errors import DataError

Values = npt.NDArray[np.uint16]

WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)
"""The largest values of 8, 10, 12, 14 and 16 bits."""

FULL = 65535

_DEEP_COLOURS = re.compile(r"(RGB|RGBX|RGBA|LA);16")
"""Raw modes of which Pillow keeps only the upper 8 bits. CMYK and premultiplied alpha are left to Pillow."""

_SEPARATE_PLANES, _WHITE_IS_ZERO = 2, 0

_TURNS: dict[int, Callable[[Values], Values]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation -> the function that undoes it."""

# Pillow reads this kind of TIFF in little endian only.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, _WHITE_IS_ZERO, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


@dataclass(frozen=True, slots=True)
class DeepImage:
    """An image of 16 bits."""

    values: Values
    """(H, W), (H, W, 3) or (H, W, 4) uint16; in the fourth channel 65535 is opaque."""
    white: int | None = None
    """The white level that the file states; None if it states none."""
    inverted: bool = False
    """Whether 0 is white."""

    @property
    def largest(self) -> int | None:
        """The largest value of a colour; None if the file states its white level."""
        return int(self._read_colours.max()) if self.white is None else None

    @property
    def _read_colours(self) -> Values:
        return self.values[..., :3] if self.values.ndim == 3 else self.values

    def upright(self, orientation: int) -> DeepImage:
        """Return the image turned upright by its EXIF orientation."""
        turn = _TURNS.get(orientation)
        return replace(self, values=np.ascontiguousarray(turn(self.values))) if turn else self

    def eight_bits(self, white: int) -> Images:
        """Return the same shape in uint8, with `white` as 255 unless the file states another; DataError above it."""
        if self.largest is not None and self.largest > white:
            raise DataError(
                f"16-bit values up to {self.largest}, but {white} is white in the images that the model was trained "
                "on: give images of the same depth"
            )
        pixels = np.take(_table(self.white or white), self.values)
        if self.inverted:
            pixels = 255 - pixels
        if self.values.ndim == 3 and self.values.shape[2] == 4:
            pixels[..., 3] = np.take(_table(FULL), self.values[..., 3])
        return pixels

    def plain(self) -> Images | Values:
        """Return the form that is compared for duplicates: without redundant channels, uint8 where that is exact.

        It does not depend on the white level. A picture of 8 bits equals its copy of 16 bits, unscaled or times 257.
        """
        values = self.values
        if self.inverted:
            values = FULL - values
        if values.ndim == 3 and values.shape[2] == 4 and (values[..., 3] == FULL).all():
            values = values[..., :3]
        if values.ndim == 3 and values.shape[2] == 3 and (values == values[..., :1]).all():
            values = values[..., 0]
        if values.max() <= 255:
            return values.astype(np.uint8)
        if not (values % 257).any():
            return (values // 257).astype(np.uint8)
        return np.ascontiguousarray(values)


def white_level(largest: int) -> int:
    """Return the white level of images whose largest value is `largest`."""
    return next(level for level in WHITE_LEVELS if largest <= level)


def depth_note(reached: Mapping[int, int], white: int) -> str:
    """Return one line on images of 16 bits; `reached` counts images by the level of WHITE_LEVELS that they reach."""
    levels = ", ".join(f"up to {level} in {count}" for level, count in sorted(reached.items()))
    lowest = min(reached)
    lost = f"; those up to {lowest} keep {(lowest + 1) * 255 // white + 1} of 256 grey levels" if lowest < white else ""
    return f"images of 16 bits: values {levels}; {white} is taken for white{lost}"


def reached_levels(largest: Counter[int]) -> Counter[int]:
    """Count images by the level of WHITE_LEVELS that they reach, from counts of their largest values."""
    reached: Counter[int] = Counter()
    for value, count in largest.items():
        reached[white_level(value)] += count
    return reached


def deep_image_from_array(array: npt.NDArray[Any]) -> DeepImage:
    """Wrap pixels (H, W), (H, W, 3) or (H, W, 4) uint16 of either byte order. Raise DataError for a dubious alpha."""
    if array.ndim == 3 and array.shape[2] == 4 and 0 < array[..., 3].max() <= WHITE_LEVELS[-2]:
        raise DataError(
            f"the fourth channel of 16 bits, transparency, has values up to {int(array[..., 3].max())}, but 65535 is "
            "opaque: scale it, or leave it out"
        )
    return DeepImage(array.astype(np.uint16, copy=False))


def deep_image_from_file(image: Image.Image, data: bytes | None) -> DeepImage | None:
    """Read the 16 bits of an image that Pillow has opened from `data` and not loaded; None if it has fewer.

    Without `data` the bytes are taken from the file that Pillow holds open. A TIFF is upright already. Raise DataError
    if Pillow has loaded the image and lost 16-bit values, and everything that Pillow raises on damaged files.
    """
    raw, maxval = _raw_mode(image)
    by_file = _needs_own_reader(image)
    if data is None:
        if by_file:
            data = _stored_bytes(image)
        else:
            _refuse_lost_depth(image)
    if data is not None and isinstance(image, ImageFile.ImageFile) and maxval > 255:
        return _read_pnm(image, data, maxval)
    if image.mode.startswith("I;16"):
        image.load()
        white = 4095 if raw == "I;12" else None
        return DeepImage(
            _with_transparency(image), white, _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO
        )
    if raw in ("I;16S", "I;16BS"):
        return _read_signed(image)
    if data is not None and by_file:
        image.load()
        return deep_image_from_array(_read_colours(image, data))
    return None


def _raw_mode(image: Image.Image) -> tuple[str, int]:
    """Return Pillow's name of the stored form of the pixels, and the `maxval` of a PNM (65535 if not needed)."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return "", 0
    args = image.tile[0][3]
    if isinstance(args, tuple):
        return str(args[0]), args[1] if image.format == "PPM" and isinstance(args[1], int) else 0
    return str(args), FULL if args == "I;16B" and image.format == "PPM" else 0


def _needs_own_reader(image: Image.Image) -> bool:
    """Return whether Pillow would lose bits, or the white level, of an image that is not loaded."""
    raw, maxval = _raw_mode(image)
    return maxval > 255 or (image.mode in ("RGB", "RGBA") and bool(_DEEP_COLOURS.match(raw)))


def _refuse_lost_depth(image: Image.Image) -> None:
    """Raise DataError for an image whose 16-bit values Pillow has dropped."""
    if _lost_depth(image):
        raise DataError("16-bit values, of which Pillow keeps 8 bits when it loads them: give the path or the bytes")


def _stored_bytes(image: Image.Image) -> bytes:
    """Return the bytes of the file of an image that is opened and not loaded. The file keeps its position."""
    if image.tell():
        raise DataError(f"16-bit colours of page {image.tell() + 1} of a file: save that page as PNG")
    file = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    try:
        file.seek(0)
        return bytes(file.read())
    finally:
        file.seek(position)


def _lost_depth(image: Image.Image) -> bool:
    """Return whether Pillow has dropped 16 bits when it loaded the image, as far as the image shows it."""
    if not isinstance(image, ImageFile.ImageFile) or image.mode not in ("RGB", "RGBA", "I") or image.tile:
        return False
    if bits := _tag(image, TiffImagePlugin.BITSPERSAMPLE):
        return image.mode != "I" and max(bits) == 16
    try:
        with Image.open(image.filename, formats=(str(image.format),)) as again:
            return _needs_own_reader(again)
    except (OSError, SyntaxError, ValueError):
        return False  # the image came from a stream, or its file is gone


def _tag(image: Image.Image, tag: int) -> Any:
    """Return the value of a TIFF's tag; None for other files."""
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _read_pnm(image: ImageFile.ImageFile, data: bytes, maxval: int) -> DeepImage:
    """Read a PGM or PPM, plain or binary."""
    # Pillow reads only 8 bits of their colours, and loops over plain values in Python.
    shape = (image.height, image.width, 3) if data[1:2] in b"36" else (image.height, image.width)
    count, offset = int(np.prod(shape)), image.tile[0][2]
    if data[1:2] in b"23":
        values = np.array(re.sub(rb"#[^\r\n]*", b"", data[offset:]).split(maxsplit=count)[:count], dtype=np.int64)
    else:
        values = np.frombuffer(data, ">u2", count, offset)
    if values.size != count or values.max() > maxval or values.min() < 0:
        raise ValueError(f"it must hold {count} values from 0 to {maxval}")
    return DeepImage(values.reshape(shape).astype(np.uint16), maxval if maxval < FULL else None)


def _read_signed(image: Image.Image) -> DeepImage:
    image.load()
    values = np.asarray(image)
    if values.min() < 0:
        raise DataError("signed 16-bit pixels below 0, without a known range: save it with 8 or 16 bits, unsigned")
    return DeepImage(values.astype(np.uint16))


def _with_transparency(image: Image.Image) -> Values:
    """Return grey values (H, W), or (H, W, 4) if a PNG names one of them as transparent."""
    values = np.asarray(image).astype(np.uint16)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return values
    return np.stack([values, values, values, np.where(values == key, 0, FULL).astype(np.uint16)], axis=-1)


def _read_colours(image: Image.Image, data: bytes) -> Values:
    """Read (H, W, 3) or (H, W, 4) by OpenCV. Pillow has checked that the file is whole."""
    import cv2

    if _tag(image, TiffImagePlugin.PLANAR_CONFIGURATION) == _SEPARATE_PLANES:
        raise DataError("colours of 16 bits in separate planes: save it as PNG")
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.shape[:2] != image.size[::-1] or found.ndim != 3:
        raise DataError("colours of 16 bits in a form that cannot be read: save it as PNG")
    alpha = found.shape[2] == 4 and (image.mode == "RGBA" or "transparency" in image.info)
    return found[..., [2, 1, 0, 3] if alpha else [2, 1, 0]].astype(np.uint16, copy=False)


@lru_cache(maxsize=8)
def _table(white: int) -> Images:
    """Return (65536,) uint8: v -> round(255 v / white), 255 above."""
    # A table, because 64 megapixels leave no room for temporaries of a wider type.
    return np.minimum((np.arange(FULL + 1) * 510 + white) // (2 * white), 255).astype(np.uint8)

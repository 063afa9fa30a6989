"""Pictures for the benchmark of the data doctor: images of a data set, changed copies, and pictures that do not belong.

Everything is drawn from a NumPy generator, so that a seed gives the same pictures again. Images are RGB arrays
(height, width, 3) in uint8.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
PARTS = ("train", "val", "test")
QUALITY = 90
MOST_CUT = 0.10
"""The largest share of a side that a cropped copy loses."""
KINDS = ("bytes", "encoded", "brightened", "shifted", "cropped", "turned")


@dataclass(frozen=True)
class Stored:
    """An image file: its name below the data set, its class and its bytes."""

    file: str
    label: str
    data: bytes

    def pixels(self) -> Pixels:
        """Return the image as RGB."""
        return decode(self.data)


def decode(data: bytes) -> Pixels:
    """Decode an image file to RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def encode(pixels: Pixels, kind: str = "JPEG", quality: int = QUALITY, *, grey: bool = False) -> bytes:
    """Encode an image; `grey` stores one channel."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("L") if grey else image).save(buffer, kind, quality=quality)
    return buffer.getvalue()


def resized(pixels: Pixels, width: int, height: int | None = None) -> Pixels:
    """Resample to `width` x `height` (a square by default)."""
    return np.asarray(Image.fromarray(pixels).resize((width, height or width), Image.Resampling.BICUBIC))


def read_images(data: Path, part: str = "train") -> list[Stored]:
    """Read the images of one part of a folder, a zip or an .npz of hpo's layout, in the order of their names.

    A data set without parts is read whole if `part` is train, and is empty otherwise.
    """
    if data.suffix == ".npz":
        return list(_rows(data)) if part == "train" else []
    found = list(_members(data) if data.suffix == ".zip" else _files(data))
    given = {PurePosixPath(name).parts[0] for name, _ in found} <= set(PARTS)
    images = []
    for name, stored in sorted(found):
        parts = PurePosixPath(name).parts
        if given and parts[0] == part:
            images.append(Stored("/".join(parts[1:]), parts[1], stored))
        elif not given and part == "train":
            images.append(Stored(name, parts[0], stored))
    return images


def _members(data: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(data) as archive:
        for name in archive.namelist():
            if name.lower().endswith(SUFFIXES):
                yield name, archive.read(name)


def _files(data: Path) -> Iterator[tuple[str, bytes]]:
    for path in data.rglob("*"):
        if path.suffix.lower() in SUFFIXES:
            yield path.relative_to(data).as_posix(), path.read_bytes()


def _rows(data: Path) -> Iterator[Stored]:
    with np.load(data) as arrays:
        images, labels = arrays["images"], arrays["labels"].reshape(-1)
    for row, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        yield Stored(f"{label}/{row:05d}.png", str(label), encode(pixels, "PNG"))


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return one of the eight symmetries: `orientation % 4` quarter turns, of the mirrored image from 4 on."""
    mirrored = pixels[:, ::-1] if orientation >= 4 else pixels
    return np.ascontiguousarray(np.rot90(mirrored, orientation % 4))


def brighten(pixels: Pixels, factor: float) -> Pixels:
    """Multiply every value by `factor`."""
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(factor))


def shift(pixels: Pixels, down: int, right: int, fill: str) -> Pixels:
    """Move the image by whole pixels; `fill` is a mode of `numpy.pad` for the border that becomes free."""
    height, width = pixels.shape[:2]
    reach = max(abs(down), abs(right))
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode=fill)  # type: ignore[call-overload]
    return np.ascontiguousarray(padded[reach - down :, reach - right :][:height, :width])


def crop(pixels: Pixels, share: float, corner: tuple[float, float], *, same_size: bool) -> Pixels:
    """Cut `share` of each side away, around `corner` in [0, 1], and scale back to the old size if `same_size`."""
    height, width = pixels.shape[:2]
    high, wide = round(height * (1 - share)), round(width * (1 - share))
    top, left = round((height - high) * corner[0]), round((width - wide) * corner[1])
    cut = np.ascontiguousarray(pixels[top : top + high, left : left + wide])
    return resized(cut, width, height) if same_size else cut


def _bytes_copy(image: Stored, rng: Rng) -> tuple[bytes, str, str]:
    return image.data, "", PurePosixPath(image.file).suffix


def _encoded_copy(image: Stored, rng: Rng) -> tuple[bytes, str, str]:
    kind, suffix = (("JPEG", ".jpg"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("PNG", ".png"))[rng.integers(4)]
    quality = int(rng.integers(40, 86))
    return encode(image.pixels(), kind, quality), f"{kind} {quality}", suffix


def _brightened_copy(image: Stored, rng: Rng) -> tuple[bytes, str, str]:
    factor = float(rng.uniform(0.7, 0.9) if rng.random() < 0.5 else rng.uniform(1.1, 1.35))
    return encode(brighten(image.pixels(), factor)), f"x {factor:.2f}", ".jpg"


def _shifted_copy(image: Stored, rng: Rng) -> tuple[bytes, str, str]:
    pixels = image.pixels()
    most = max(1, round(4 * pixels.shape[0] / 96))
    down, right = (int(rng.integers(1, most + 1)) * int(rng.choice([-1, 1])) for _ in range(2))
    fill = str(rng.choice(["edge", "reflect", "constant"]))
    return encode(shift(pixels, down, right, fill)), f"{down:+d} {right:+d} px, {fill}", ".jpg"


def _cropped_copy(image: Stored, rng: Rng) -> tuple[bytes, str, str]:
    share, same = float(rng.uniform(0.02, MOST_CUT)), bool(rng.random() < 0.5)
    corner = (float(rng.random()), float(rng.random()))
    cut = crop(image.pixels(), share, corner, same_size=same)
    where = f"from {corner[0]:.1f} {corner[1]:.1f}"
    return encode(cut), f"{share:.1%} {where}, {'scaled back' if same else 'smaller'}", ".jpg"


def _turned_copy(image: Stored, rng: Rng) -> tuple[bytes, str, str]:
    orientation = int(rng.integers(1, 8))
    return encode(turn(image.pixels(), orientation)), f"orientation {orientation}", ".jpg"


_COPIES: dict[str, Callable[[Stored, Rng], tuple[bytes, str, str]]] = {
    "bytes": _bytes_copy,
    "encoded": _encoded_copy,
    "brightened": _brightened_copy,
    "shifted": _shifted_copy,
    "cropped": _cropped_copy,
    "turned": _turned_copy,
}


def make_copy(image: Stored, kind: str, rng: Rng) -> tuple[bytes, str, str]:
    """Return the bytes of a copy, what was changed in words, and the suffix of its file.

    `kind` is one of `KINDS`, or `combined`: turned, and one of brightened, shifted and cropped on top of it.
    """
    if kind != "combined":
        return _COPIES[kind](image, rng)
    turned, what, _ = _turned_copy(image, rng)
    second = str(rng.choice(["brightened", "shifted", "cropped"]))
    data, more, suffix = _COPIES[second](Stored(image.file, image.label, turned), rng)
    return data, f"{what}, {second} {more}", suffix


def draw_picture(rng: Rng, size: int) -> Pixels:
    """Draw a picture that is no photograph: a background, shapes and strokes in random colours, sometimes blurred."""
    image = Image.fromarray(_background(rng, size))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 12))):
        _draw_shape(pen, rng, size)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2.0)) * size / 96))
    return np.asarray(image)


def _background(rng: Rng, size: int) -> Pixels:
    ends = rng.integers(0, 256, (2, 3)).astype(np.float64)
    rows, columns = np.mgrid[0:size, 0:size] / max(1, size - 1)
    kind = rng.integers(4)
    if kind == 0:
        weight = np.zeros((size, size))
    elif kind == 1:
        weight = rows if rng.random() < 0.5 else columns
    elif kind == 2:
        number = int(rng.integers(2, 9))
        weight = ((rows * number).astype(int) + (columns * number).astype(int)) % 2
    else:
        weight = rng.random((size, size))
    return (ends[0] + weight[..., None] * (ends[1] - ends[0])).astype(np.uint8)


def _draw_shape(pen: ImageDraw.ImageDraw, rng: Rng, size: int) -> None:
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    points = [tuple(float(value) for value in pair) for pair in rng.uniform(-0.1, 1.1, (5, 2)) * size]
    (left, top), (right, bottom) = points[:2]
    box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    width = int(rng.integers(1, max(2, size // 12)))
    kind = rng.integers(5)
    if kind == 0:
        pen.ellipse(box, fill=colour)
    elif kind == 1:
        pen.rectangle(box, outline=colour, width=width)
    elif kind == 2:
        pen.polygon(points, fill=colour)
    elif kind == 3:
        pen.line(points, fill=colour, width=width)
    else:
        pen.text(points[0], "".join(chr(65 + number) for number in rng.integers(0, 26, 6)), fill=colour)

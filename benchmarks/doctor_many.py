"""Make a set of many different images out of real ones, to measure time and memory of the data doctor.

    python -m benchmarks.doctor_many DATA OUT.zip --count 100000 [--side 96]

Each image is a window of a real one: half to three quarters of it, elsewhere, turned by 10 to 80 degrees on top
of quarter turns, with another colour balance. Two windows of one image share less than what a copy shares with its
original, and look as alike as different images of the data set do.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.doctor_pictures import Pixels, Rng, Stored, read_images


def window(pixels: Pixels, rng: Rng, side: int) -> Pixels:
    """Return a turned window of `pixels` as a square of `side`."""
    height, width = pixels.shape[:2]
    scale = side / (min(height, width) * float(rng.uniform(0.5, 0.75)))
    angle = 90.0 * int(rng.integers(4)) + float(rng.uniform(10, 80))
    middle = tuple(float(value) for value in rng.uniform(0.3, 0.7, 2) * (width, height))
    matrix = cv2.getRotationMatrix2D(middle, angle, scale)
    matrix[:, 2] += side / 2 - np.asarray(middle)
    turned = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    gains = rng.uniform(0.8, 1.15, 3)
    table = np.clip(np.arange(256)[:, None] * gains, 0, 255).astype(np.uint8)
    found: Pixels = cv2.LUT(turned, table.reshape(1, 256, 3))
    return found


def many(images: list[Stored], count: int, side: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of `count` images, as JPEGs in class folders."""
    rng = np.random.default_rng([seed, 100])
    order = rng.permutation(len(images))
    for number in range(count):
        image = images[order[number % len(images)]]
        made = window(image.pixels(), rng, side)
        _, stored = cv2.imencode(".jpg", cv2.cvtColor(made, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
        yield f"{image.label}/{number:06d}.jpg", stored.tobytes()


def write_many(data: Path, out: Path, count: int, side: int = 96) -> None:
    """Write a zip of `count` images."""
    images = read_images(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        for name, stored in many(images, count, side):
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), stored)
    unfinished.replace(out)


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=96)
    chosen = parser.parse_args()
    write_many(chosen.data, chosen.out, chosen.count, chosen.side)


if __name__ == "__main__":
    main()

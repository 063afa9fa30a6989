"""Make a set of pictures that belong to no data set: windows of photographs, noise and text, to be planted as junk.

    python -m benchmarks.doctor_foreign OUT.zip [--kinds photograph noise text] [--each 150] [--side 96]

The photographs are those that scikit-learn and matplotlib bring. OUT.zip has one folder for each kind, and is what
`--junk` of `benchmarks.doctor_plants` and `benchmarks.doctor` takes: the thresholds of the data doctor were developed
on hands and drawings, so these pictures ask whether they hold for others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.doctor_pictures import Pixels, Rng, encode
from benchmarks.doctor_plants import write

Photographs = list[Pixels]


def photographs() -> Photographs:
    """Return the photographs of scikit-learn and matplotlib as RGB."""
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    found = [np.asarray(image) for image in load_sample_images().images]
    with get_sample_data("grace_hopper.jpg") as opened, Image.open(opened) as image:
        found.append(np.asarray(image.convert("RGB")))
    return found


def photograph(some: Photographs, rng: Rng, side: int) -> Pixels:
    """Return a square window of a photograph, a sixth to the whole of its shorter side."""
    image = some[rng.integers(len(some))]
    height, width = image.shape[:2]
    size = int(rng.uniform(1 / 6, 1) * min(height, width))
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    window = Image.fromarray(np.ascontiguousarray(image[top : top + size, left : left + size]))
    return np.asarray(window.resize((side, side), Image.Resampling.BICUBIC))


def noise(some: Photographs, rng: Rng, side: int) -> Pixels:
    """Return noise of a random grain, in grey or in colours, about a random level."""
    grain = int(rng.integers(1, 13))
    small = -(-side // grain)
    values = rng.normal(0, rng.uniform(15, 70), (small, small, 1 if rng.random() < 0.5 else 3))
    values = np.broadcast_to(values + rng.uniform(40, 215, 3), (small, small, 3))
    return np.asarray(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).resize((side, side)))


def text(some: Photographs, rng: Rng, side: int) -> Pixels:
    """Return lines of letters on paper, dark on light, as of a scanned page or a screen."""
    paper, ink = rng.integers(200, 256, 3), rng.integers(0, 90, 3)
    image = Image.new("RGB", (side, side), tuple(paper.tolist()))
    pen, size = ImageDraw.Draw(image), int(rng.integers(side // 12, side // 4))
    font = ImageFont.load_default(size)
    for top in range(int(rng.integers(size)), side, round(1.3 * size)):
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz     ABCDEFG0123456789.,"), 40)
        pen.text((int(rng.integers(size)), top), "".join(letters), fill=tuple(ink.tolist()), font=font)
    return np.asarray(image)


KINDS: dict[str, Callable[[Photographs, Rng, int], Pixels]] = {"photograph": photograph, "noise": noise, "text": text}


def pictures(kinds: list[str], each: int, side: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of `each` pictures of every kind."""
    some = photographs() if "photograph" in kinds else []
    for kind in kinds:
        rng = np.random.default_rng([seed, list(KINDS).index(kind), 17])
        for number in range(each):
            yield f"{kind}/{number:04d}.jpg", encode(KINDS[kind](some, rng, side))


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--each", type=int, default=150)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(dict(pictures(given.kinds, given.each, given.side, given.seed)), given.out)


if __name__ == "__main__":
    main()

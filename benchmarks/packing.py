"""Measure the processor time per image when a data set is packed, threads and digests included.

    python benchmarks/packing.py DATA [--size 96]
    python benchmarks/packing.py --made 200 --side 1000 [--size 96]

The second form packs JPEGs of smooth noise that it writes to a temporary folder. Processor time is measured because it
depends less on other programs; the result is the best of several rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from hpo.data import open_whole

ROUNDS = 3


def make_jpegs(folder: Path, count: int, side: int) -> Path:
    """Write `count` JPEGs of `side` x `side` in two class folders."""
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        target = folder / "ab"[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(target / f"{number}.jpg", quality=90)
    return folder


def milliseconds(data: Path, size: int) -> float:
    """Return the processor milliseconds per image of packing `data` into a new cache."""
    with tempfile.TemporaryDirectory() as cache:
        began = time.process_time()
        whole = open_whole(data, image_size=size, cache=cache)
        return 1000 * (time.process_time() - began) / (len(whole.part) + len(whole.unreadable))


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--made", type=int, default=200)
    parser.add_argument("--side", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        data = chosen.data or make_jpegs(Path(made), chosen.made, chosen.side)
        best = min(milliseconds(data, chosen.size) for _ in range(ROUNDS))
    print(
        f"{chosen.data or f'JPEGs of {chosen.side} px'} at {chosen.size} px: {best:.2f} ms of processor time per image"
    )


if __name__ == "__main__":
    main()

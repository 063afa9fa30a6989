"""Time the search for copies at growing numbers of images.

    python -m benchmarks.doctor_growth DATA 5000 10000 20000 40000 80000

DATA is read once; each size is its images in an order that is the same for all. Processor seconds of `find_copies`
alone, up to SMALL images the best of two rounds, as JSON with the exponent b of a * images ** b.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpo.inspection.copies import find_copies
from hpo.inspection.inspected_data import InspectedData, open_inspected

SMALL = 20_000


def part(data: InspectedData, rows: np.ndarray) -> InspectedData:
    """Return some images of the data."""
    return replace(
        data,
        names=[data.names[row] for row in rows],
        labels=data.labels[rows],
        given=None,
        images=data.images[:0],  # not looked at; a copy would take gigabytes
        signatures=data.signatures[rows],
        digests=[data.digests[row] for row in rows],
        folder=None,
    )


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sizes", type=int, nargs="+")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        data = open_inspected(chosen.data, image_size=96, cache=cache)
        order = np.random.default_rng(0).permutation(len(data))
        found = [measure(part(data, np.sort(order[:size]))) for size in chosen.sizes]
    seconds = [row["processor"] for row in found]
    exponent = float(np.polyfit(np.log(chosen.sizes), np.log(seconds), 1)[0])
    print(json.dumps({"sizes": found, "exponent": round(exponent, 3)}))


def measure(data: InspectedData) -> dict[str, float]:
    """Return size, processor seconds and the number of groups found."""
    best, groups = float("inf"), 0
    for _ in range(2 if len(data) <= SMALL else 1):
        began = time.process_time()
        groups = len(find_copies(data).groups)
        best = min(best, time.process_time() - began)
    return {"images": len(data), "processor": round(best, 3), "groups": groups}


if __name__ == "__main__":
    main()

"""Run the data doctor on a set in this process, and print what it took as one line of JSON.

    python -m benchmarks.doctor_examined DATA OUT.npz [--only checks] [--weights FILE] [--cores N]

`--only checks` stops before the embeddings: reading, signatures, copies, conflicts, odd images and leaks. Writes
OUT.csv (the findings), OUT.npz (what they do not hold: a score for every label, DBSCAN's noise) and OUT.embeddings.npy
(features in the order of sorted names). The cache is new, so the time includes decoding and making the features; what
reading and decoding the files takes alone, as any tool must, is measured beside it, and the time of imports apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.decode import plain_image, silence_pillow
from hpo.data.opening import open_source
from hpo.errors import DataError
from hpo.inspection.inspect_data import DataInspection, InspectionOptions, inspect_images

BACKBONE = "mobilenetv2_035"
SIDE = 96


def examine(data: Path, out: Path, weights: Path, *, only: str) -> dict[str, Any]:
    """Inspect `data`, write the results and return the measurements."""
    whole = only == "all"
    options = InspectionOptions(SIDE, BACKBONE, weights, embeddings=whole, map=False)
    with tempfile.TemporaryDirectory(prefix="doctor-") as cache:
        began, spent, load = time.perf_counter(), time.process_time(), os.getloadavg()[0]
        found = inspect_images(data, options, cache=Path(cache))
        measured = {
            "images": len(found.data),
            "seconds": round(time.perf_counter() - began, 2),
            "processor": round(time.process_time() - spent, 2),
            "imports": round(spent, 2),
            "peak_mib": round(peak_mib(), 1),
            "load": round(load, 2),
            "stages": {step: round(seconds, 2) for step, seconds in found.seconds.items()},
            "counts": counts(found),
        }
        keep(found, out)
    return measured if whole else measured | {"decoding": round(decoding(data), 2)}


def decoding(data: Path) -> float:
    """Return the processor seconds that reading and decoding all images take, and nothing else."""
    source = open_source(data)
    with source.reads() as reads, silence_pillow():
        began = time.process_time()
        for read in reads:
            with suppress(DataError), plain_image(read()):
                pass
        return time.process_time() - began


def peak_mib() -> float:
    """Return the most resident memory of this process so far, in MiB; mapped files count while they are resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def counts(found: DataInspection) -> dict[str, int]:
    """Return files by kind of finding and action."""
    named = {(row.finding, row.action.partition(":")[0], row.file) for row in found.findings.rows}
    counted = Counter(f"{kind}, {action}" for kind, action, _ in named)
    return dict(sorted(counted.items()))


def keep(found: DataInspection, out: Path) -> None:
    """Write findings, scores and features."""
    found.findings.write_csv(out.with_suffix(".csv"))
    names = np.asarray(list(found.data.names))
    arrays: dict[str, Any] = {"files": names}
    if found.embeddings is not None and found.outliers is not None and found.labels is not None:
        group_of = found.embeddings.groups.group_of
        arrays["labels"] = np.asarray(found.labels.disagreement, dtype=np.float64)[group_of]
        arrays["outliers"] = np.asarray(found.outliers.scores.probability, dtype=np.float64)[group_of]
        arrays["dbscan"] = np.asarray(found.outliers.dbscan.rows, dtype=np.int64)
        features = found.embeddings.features
        if features is not None:
            np.save(out.with_suffix(".embeddings.npy"), features.batch(np.argsort(names)))
    np.savez_compressed(out, **arrays)


def main() -> None:
    """Examine one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=["all", "checks"], default="all")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cores", type=int, help="leave only so many of the cores to this process")
    chosen = parser.parse_args()
    if chosen.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.cores])
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    print(json.dumps(examine(chosen.data, chosen.out, chosen.weights, only=chosen.only)))


if __name__ == "__main__":
    main()

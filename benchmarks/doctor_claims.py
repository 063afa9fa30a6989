"""What a method says about a set, out of the files that it is kept in: rivals, and the findings of the data doctor."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.doctor_scores import Claims, Rows

MOST_MEMBERS = 1500
"""A larger group gives the pairs with its first member only: all pairs of 10,000 files would fill the memory."""


def read_rival(path: Path) -> Claims:
    """Read what a rival said, see `benchmarks.doctor_rivals`."""
    with np.load(path) as kept:
        arrays = {name: kept[name] for name in kept.files}
    about = {name: arrays[name].item() for name in ("seconds", "processor", "load", "version", "note")}
    labels = arrays.get("labels")
    return Claims(
        tuple(arrays["files"].tolist()),
        arrays["pairs"].astype(np.int64),
        arrays["flagged"].astype(np.int64) if "flagged" in arrays else None,
        None if labels is None else -labels.astype(np.float64),
        suspects=arrays["suspects"].astype(np.int64) if "suspects" in arrays else None,
        about=about,
    )


def read_findings_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a findings CSV: file, finding, group, score, action, reason."""
    with path.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def claims_of_findings(
    files: Iterable[str], rows: Iterable[Mapping[str, str]], labels: npt.NDArray[np.float64] | None = None
) -> Claims:
    """Return the claims of findings: groups of copies, conflicts and leaks as pairs, outliers, and what is dropped.

    `labels` are the scores of all files, where the method has them; else those of the findings, and 0 for the others.
    """
    names = tuple(files)
    row_of = {name: row for row, name in enumerate(names)}
    groups: dict[str, set[int]] = defaultdict(set)
    chosen: dict[str, set[int]] = {"outlier": set(), "conflict": set(), "drop": set(), "label": set()}
    found = np.zeros(len(names))
    for row in rows:
        number = row_of.get(row["file"])
        if number is None:
            continue
        if row["finding"] in ("copy", "conflict", "leak") and row["group"]:
            groups[row["group"]].add(number)
        if row["finding"] in chosen and (row["finding"] != "outlier" or row["action"] == "drop"):
            chosen[row["finding"]].add(number)
        if row["action"] == "drop":
            chosen["drop"].add(number)
        if row["finding"] == "label":
            found[number] = float(row["score"])
    return Claims(
        names,
        all_pairs(groups.values()),
        as_rows(chosen["outlier"]),
        found if labels is None else labels,
        as_rows(chosen["drop"]),
        as_rows(chosen["conflict"]),
        as_rows(chosen["label"]),
        found,
    )


def read_claims(out: Path) -> dict[str, Claims]:
    """Read what the data doctor said, see `benchmarks.doctor_examined`, and its PCA + DBSCAN as a method of its own."""
    with np.load(out) as kept:
        arrays = {name: kept[name] for name in kept.files}
    files = tuple(arrays["files"].tolist())
    claims = {"hpo": claims_of_findings(files, read_findings_csv(out.with_suffix(".csv")), arrays.get("labels"))}
    if "dbscan" in arrays:
        claims["hpo: PCA + DBSCAN"] = Claims(files, all_pairs([]), arrays["dbscan"].astype(np.int64))
    return claims


def as_rows(numbers: Iterable[int]) -> Rows:
    """Return sorted row numbers."""
    return np.asarray(sorted(numbers), dtype=np.int64)


def all_pairs(groups: Iterable[Iterable[int]]) -> Rows:
    """Return the pairs within groups, (p, 2)."""
    pairs: set[tuple[int, int]] = set()
    for group in groups:
        members = sorted(group)
        if len(members) > MOST_MEMBERS:
            pairs.update((members[0], member) for member in members[1:])
        else:
            pairs.update(combinations(members, 2))
    return np.asarray(sorted(pairs), dtype=np.int64).reshape(-1, 2)

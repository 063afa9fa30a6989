"""Compare what a method says about a planted set with what was planted: recall, precision, average precision.

Copies are judged by pairs of files. A pair is right if both show the same picture; pairs with a junk picture are left
out, or 800 copies of one picture would decide everything. A copy counts as found if it is in a pair with its original.
Labels are judged over all files that are not junk, whose labels are neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.doctor_plants import Truth
from benchmarks.doctor_same import SamePicture

Rows = npt.NDArray[np.int64]
EXAMPLES = 12
MOST_CHECKED = 300


@dataclass(frozen=True)
class Claims:
    """What a method says about n files.

    pairs: (p, 2) rows of copies. junk: rows that do not belong, or None if the method has no such check. labels: (n,)
    scores, the higher the surer that the label is wrong, or None. suspects: rows whose label it calls wrong, and
    probabilities (n,) of that, if it gives any. dropped: rows that a cleaning would leave out.
    """

    files: tuple[str, ...]
    pairs: Rows
    junk: Rows | None = None
    labels: npt.NDArray[np.float64] | None = None
    dropped: Rows | None = None
    conflicts: Rows | None = None
    suspects: Rows | None = None
    probabilities: npt.NDArray[np.float64] | None = None
    about: dict[str, Any] = field(default_factory=dict)


def share(part: float, whole: float) -> float | None:
    """Return part / whole, or None where there is nothing to count."""
    return float(part) / float(whole) if whole else None


def score(truth: Sequence[Truth], claims: Claims, same: SamePicture | None = None) -> dict[str, Any]:
    """Return every figure as JSON has it.

    `same` decides whether a pair of untouched images is a copy that the data set had before anything was planted.
    """
    by_file = {row.file: row for row in truth}
    rows = [by_file[file] for file in claims.files]
    found: dict[str, Any] = dict(claims.about)
    found["copies"] = score_copies(rows, claims.pairs, same)
    if claims.junk is not None:
        found["junk"] = score_junk(rows, claims.junk)
    if claims.labels is not None:
        found["labels"] = score_labels(rows, claims.labels)
        if claims.suspects is not None:
            found["labels"] |= score_suspects(rows, claims.suspects, claims.probabilities)
    if claims.dropped is not None:
        found["cleaning"] = score_cleaning(rows, claims)
    if claims.conflicts is not None:
        found["conflicts"] = score_conflicts(rows, claims, same)
    return found


def pictures(rows: Sequence[Truth]) -> Rows:
    """Return a number per row that is equal for files of one picture."""
    names = [row.group or row.file for row in rows]
    found: Rows = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return found


def score_copies(rows: Sequence[Truth], pairs: Rows, same: SamePicture | None = None) -> dict[str, Any]:
    """Return recall by planted kind, and the precision of all pairs without junk."""
    picture = pictures(rows)
    junk = np.array([row.role == "junk" for row in rows])
    pairs = pairs.reshape(-1, 2)
    pairs = pairs[~junk[pairs].any(axis=1)] if len(pairs) else pairs
    right = picture[pairs[:, 0]] == picture[pairs[:, 1]]
    paired = set(pairs[right].reshape(-1).tolist())
    kinds = sorted({row.kind for row in rows if row.role in ("copy", "leak")})
    recall = {}
    missed = {}
    for kind in kinds:
        planted = [number for number, row in enumerate(rows) if row.role in ("copy", "leak") and row.kind == kind]
        recall[kind] = share(sum(number in paired for number in planted), len(planted))
        missed[kind] = [f"{rows[n].file} of {rows[n].group}: {rows[n].detail}" for n in planted if n not in paired]
    planted = [number for number, row in enumerate(rows) if row.role in ("copy", "leak")]
    natural, wrong = natural_copies(rows, pairs[~right], same)
    return {
        "planted": len(planted),
        "recall": share(sum(number in paired for number in planted), len(planted)),
        "by_kind": recall,
        "pairs": len(pairs),
        "natural": natural,
        "precision": share(int(right.sum()) + natural, len(pairs)),
        "missed": {kind: names[:EXAMPLES] for kind, names in missed.items() if names},
        "wrong": wrong,
    }


def natural_copies(rows: Sequence[Truth], pairs: Rows, same: SamePicture | None) -> tuple[int, list[list[str]]]:
    """Return how many unplanned pairs are copies all the same, and examples of those that are not.

    Of more than MOST_CHECKED pairs a random sample is checked and the number estimated.
    """
    order = np.random.default_rng(0).permutation(len(pairs))[:MOST_CHECKED]
    names = [[rows[a].file, rows[b].file] for a, b in pairs[order]]
    if same is None:
        return 0, names[:EXAMPLES]
    answers = [same(*pair) for pair in names]
    wrong = [pair for pair, answer in zip(names, answers, strict=True) if not answer]
    return round(sum(answers) * len(pairs) / max(1, len(names))), wrong[:EXAMPLES]


def score_junk(rows: Sequence[Truth], flagged: Rows) -> dict[str, Any]:
    """Return recall, also of clusters by their size and of scattered pictures, and precision."""
    chosen = set(flagged.tolist())
    planted = [number for number, row in enumerate(rows) if row.role == "junk"]
    groups: dict[str, list[int]] = {}
    for number in planted:
        groups.setdefault(rows[number].group or "scattered", []).append(number)
    right = sum(number in chosen for number in planted)
    wrong = [number for number in sorted(chosen) if rows[number].role != "junk"]
    return {
        "planted": len(planted),
        "flagged": len(chosen),
        "recall": share(right, len(planted)),
        "by_group": {
            f"{name} ({len(members)})": share(sum(number in chosen for number in members), len(members))
            for name, members in sorted(groups.items())
        },
        "precision": share(right, len(chosen)),
        "missed": [f"{rows[n].file}: {rows[n].detail}" for n in planted if n not in chosen][:EXAMPLES],
        "wrong": [rows[number].file for number in wrong][:EXAMPLES],
    }


def score_labels(rows: Sequence[Truth], scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return average precision and precision at k, the number of wrong labels, over all files but junk.

    Copies under several classes are left out too: they are a finding of their own.
    """
    conflicts = planted_conflicts(rows)
    judged = np.array([row.role != "junk" and number not in conflicts for number, row in enumerate(rows)])
    wrong = np.array([row.role == "wrong" for row in rows])
    wrong, scores = wrong[judged], scores[judged]
    order = np.argsort(-scores, kind="stable")
    planted = int(wrong.sum())
    return {
        "planted": planted,
        "average_precision": average_precision(wrong[order]),
        "precision_at_planted": share(int(wrong[order][:planted].sum()), planted),
    }


def score_suspects(
    rows: Sequence[Truth], suspects: Rows, probabilities: npt.NDArray[np.float64] | None
) -> dict[str, Any]:
    """Return recall and precision of the labels that are called wrong, junk and conflicts aside.

    `expected` is how many of them are wrong by the method's own probabilities, to be compared with `right`.
    """
    conflicts = planted_conflicts(rows)
    named = [row for row in suspects.tolist() if rows[row].role != "junk" and row not in conflicts]
    planted = sum(row.role == "wrong" for row in rows)
    right = sum(rows[row].role == "wrong" for row in named)
    return {
        "named": len(named),
        "right": right,
        "recall": share(right, planted),
        "precision": share(right, len(named)),
        "expected": None if probabilities is None else round(float(probabilities[named].sum()), 1),
    }


def average_precision(right: npt.NDArray[np.bool_]) -> float | None:
    """Return the mean of the precision at each right item of a ranking."""
    hits = np.cumsum(right)
    if not len(right) or not hits[-1]:
        return None
    return float((hits / np.arange(1, len(right) + 1))[right].mean())


def score_cleaning(rows: Sequence[Truth], claims: Claims) -> dict[str, Any]:
    """Return how much junk is left, and how many right pictures are lost with all their copies.

    A picture is not lost while a file that was found to be its copy is kept, planted or not.
    """
    gone = set(claims.dropped.tolist()) if claims.dropped is not None else set()
    picture = pictures(rows)
    kept = {int(picture[number]) for number in range(len(rows)) if number not in gone}
    for one, other in claims.pairs.tolist():
        if one not in gone or other not in gone:
            kept.update((int(picture[one]), int(picture[other])))
    right = {
        int(picture[number]): row.file
        for number, row in enumerate(rows)
        if row.role == "original" and row.label == row.true_label
    }
    lost = [file for number, file in right.items() if number not in kept]
    left = sum(row.role == "junk" and number not in gone for number, row in enumerate(rows))
    return {"dropped": len(gone), "junk_left": left, "pictures_lost": len(lost), "lost": lost[:EXAMPLES]}


def planted_conflicts(rows: Sequence[Truth]) -> set[int]:
    """Return the rows of planted copies under several classes, junk aside."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        if row.group and row.role != "junk":
            labels.setdefault(row.group, set()).add(row.label)
    return {number for number, row in enumerate(rows) if row.role != "junk" and len(labels.get(row.group, ())) > 1}


def score_conflicts(rows: Sequence[Truth], claims: Claims, same: SamePicture | None = None) -> dict[str, Any]:
    """Return recall and precision of copies under several classes.

    Right are planted ones, and real copies, as `same` sees them, of which one got a wrong class or always had it.
    """
    chosen = set(claims.conflicts.tolist()) if claims.conflicts is not None else set()
    planted = planted_conflicts(rows)
    judged = {number for number in chosen if rows[number].role != "junk"}
    right = planted & judged
    for one, other in claims.pairs.tolist():
        unplanned = {one, other} <= judged and not {one, other} <= right and rows[one].label != rows[other].label
        if unplanned and same is not None and same(rows[one].file, rows[other].file):
            right |= {one, other}
    return {
        "planted": len(planted),
        "recall": share(len(planted & judged), len(planted)),
        "found": len(judged),
        "precision": share(len(right), len(judged)),
        "wrong": [rows[number].file for number in sorted(judged - right)][:EXAMPLES],
    }

"""The content of the page of a data set: the results of all checks as plain values, and why one was not made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.findings import Finding
from hpo.inspection.copies import Copies
from hpo.inspection.embedding_map import EmbeddingMap
from hpo.inspection.embeddings import Embeddings, nearest
from hpo.inspection.imbalance import Imbalance
from hpo.inspection.inspected_data import InspectedData
from hpo.inspection.label_errors import LabelErrors
from hpo.inspection.leaks import Leaks
from hpo.inspection.next_commands import NextCommands
from hpo.inspection.odd_images import OddImages
from hpo.inspection.outliers import Outliers
from hpo.inspection.target import Target
from hpo.report import wording
from hpo.report.data_finding_sections import Neighbours


@dataclass(frozen=True)
class TargetFigures:
    """How well the classes can be told apart on the embeddings."""

    probe: float
    """Accuracy of a linear probe on images that it has not seen."""
    bound: float | None
    """The highest accuracy that any classifier on these embeddings can have, by Cover and Hart; None if unknown."""
    shares: Sequence[float]
    """Shares of the images that the probe was trained on, rising."""
    accuracies: Sequence[float]
    facts: Sequence[tuple[str, str]] = ()
    note: str = ""
    """One sentence on whether more images would help."""

    @property
    def drawn_bound(self) -> float | None:
        """The bound, or None where the probe is better: with so few images it is too low to be one."""
        return self.bound if self.bound is not None and self.bound > self.probe else None


@dataclass(frozen=True)
class DataEvidence:
    """The content of the page. A part that was not computed is None, and `skipped` says why."""

    data: InspectedData
    findings: Sequence[Finding]
    odd: OddImages
    imbalance: Imbalance
    copies: Copies | None = None
    leaks: Leaks | None = None
    backbone: str = ""
    """The backbone of the embeddings and the source of its weights, in words; "" where there are no embeddings."""
    neighbours: Neighbours | None = None
    """Finds the pictures that lie nearest to some images."""
    map: EmbeddingMap | None = None
    outlier_scores: npt.NDArray[np.floating[Any]] | None = None
    """The score of each picture, copies counted once."""
    outlier_threshold: float | None = None
    outlier_facts: Sequence[tuple[str, str]] = ()
    label_facts: Sequence[tuple[str, str]] = ()
    target: TargetFigures | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    """A step that was not made (copies, embeddings, outliers, labels, target, map) -> why."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds."""
    table: str = ""
    """The file that the findings were written to; "" if they were not."""
    commands: NextCommands | None = None
    """The commands that act on the findings; None for those of the data without options."""


def neighbours_of(embeddings: Embeddings) -> Neighbours:
    """Return a function that finds the first images of the groups of copies nearest to the group of an image."""
    groups = embeddings.groups

    def find(rows: Sequence[int], count: int) -> dict[int, list[int]]:
        own = groups.group_of[np.array(rows, dtype=np.int64)]
        _, near = nearest(embeddings.points[own], count + 1, embeddings.points)
        return {
            row: [int(groups.first[other]) for other in others if other != group][:count]
            for row, group, others in zip(rows, own.tolist(), near.tolist(), strict=True)
        }

    return find


def outlier_facts(outliers: Outliers, data: InspectedData) -> list[tuple[str, str]]:
    """Return the images that are left out and those that are only named, beside PCA + DBSCAN."""
    row_of = {name: row for row, name in enumerate(data.names)}
    shown = {row_of[finding.file] for finding in outliers.findings if finding.file in row_of}
    dropped, noise = set(outliers.dropped.tolist()), set(outliers.dbscan.rows.tolist())
    both = (
        f"{_among(len(noise & dropped), len(dropped))} left out. It judges single images, so "
        "a picture that lies there many times is none of its noise"
        if dropped
        else f"{_among(len(noise & shown), len(shown))} named"
    )
    few = [("small data set", line) for line in outliers.lines()]
    return [
        *few,
        ("left out", f"{wording.counted(len(dropped), 'image')}, from a probability of {outliers.threshold:.2f} on"),
        ("only named", f"{wording.counted(len(shown - dropped), 'image')}, less sure: look at them"),
        (outliers.dbscan.method, f"calls {wording.counted(len(noise), 'image')} noise; {both}"),
    ]


def _among(some: int, total: int) -> str:
    return f"among them {'is' if some == 1 else 'are'} {some:,} of the {total:,}"


def label_facts(labels: LabelErrors) -> list[tuple[str, str]]:
    """Return the method, and what is done about its findings."""
    return [
        ("found by", "a simple classifier that has not seen the image (linear probe), a comparison of its certainty "
                     f"with that for the whole class (confident learning, {labels.method}), and the nearest pictures"),
        *(("doubted", line) for line in labels.lines()[:1]),
        ("named", f"{wording.counted(len(labels.findings), 'image')}: those whose label is more likely wrong than "
                  "right; the score is that probability. None is changed or left out by itself"),
    ]  # fmt: skip


def target_figures(target: Target) -> TargetFigures:
    """Return the figures of the measured target, with facts in words."""
    facts = [
        ("simple classifier", f"accuracy {target.accuracy:.3f} on pictures it has not seen, by features of a network "
                         "that does not train on these images: a linear probe (95 % interval "
                         f"{target.interval[0]:.3f} to {target.interval[1]:.3f}, {target.images:,} pictures)"),
        ("largest class", f"accuracy {target.majority:.3f} by always naming it"),
        ("nearest picture", f"accuracy {1 - target.neighbour_error:.3f} by taking over its class"),
        ("upper bound", _bound(target)),
    ]  # fmt: skip
    curve = sorted(target.curve, key=lambda point: point.share)
    return TargetFigures(
        target.accuracy, 1 - target.least_error, [point.share for point in curve],
        [point.accuracy for point in curve], facts, target.more_images(),
    )  # fmt: skip


def _bound(target: Target) -> str:
    """Return the bound of Cover and Hart in words, and whether the probe disproves it."""
    bound = 1 - target.least_error
    if bound <= target.accuracy:
        return (
            f"none is known: that by the nearest picture, accuracy {bound:.3f} (Cover and Hart 1967), holds for many "
            "images, and here the simple classifier exceeds it"
        )
    return (
        f"with these features no classifier is expected above accuracy {bound:.3f}, estimated from how often the "
        "nearest picture is of another class (Cover and Hart 1967); a network that trains on the images may be better"
    )

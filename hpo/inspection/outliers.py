"""Pictures that do not belong: found by distance, labels and copies together, and by PCA and DBSCAN beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.data.findings import Finding
from hpo.inspection.embeddings import Embeddings, nearest
from hpo.inspection.inspected_data import InspectedData
from hpo.inspection.outlier_scores import FEW_TO_DROP, MOST_ALONE, OutlierScores, score_outliers
from hpo.inspection.probe import Points

SURE = 0.9
"""Pictures that do not belong with this probability are dropped; with half of it or more they are shown."""

SHOWN = 0.5

FEWEST = 20
"""Below so many pictures nothing is said: there is no body to be far from."""

COMPONENTS = 50

NEIGHBOURS = 5


@dataclass(frozen=True)
class DbscanNoise:
    """Noise of DBSCAN (Ester et al. 1996) on principal components, for comparison; copies are not collapsed."""

    rows: Labels
    """(m,) int64 images that DBSCAN calls noise."""
    radius: float
    """eps: where the sorted distances to the fifth neighbour bend most."""

    method = "PCA + DBSCAN"


@dataclass(frozen=True)
class Outliers:
    """Scores of the groups of copies, and the findings they lead to."""

    scores: OutlierScores
    threshold: float
    """Groups of this probability or more are dropped."""
    shown: float
    """Groups of this probability or more are findings."""
    findings: tuple[Finding, ...]
    """The surest first; images of one group beside each other."""
    dropped: Labels
    """(m,) int64 rows of the images to drop."""
    dbscan: DbscanNoise

    @property
    def keeps_single(self) -> bool:
        """Whether pictures that are there once are never dropped, as there are too few pictures."""
        return len(self.scores.probability) < FEW_TO_DROP

    def lines(self) -> list[str]:
        """Return a line where findings are kept because there are too few pictures; else none."""
        if not (self.findings and self.keeps_single):
            return []
        count = len(self.scores.probability)
        return [
            f"with {count:,} different pictures, fewer than {FEW_TO_DROP}, one that is there once is shown and not "
            "dropped: it may be a rare one"
        ]


def find_outliers(data: InspectedData, features: Embeddings) -> Outliers:
    """Return the pictures that probably do not belong, with the action drop only for those that are sure.

    The rule for sure: of the pictures that are dropped at most one in ten of the least sure ones should be real. Those
    of a test part that the data bring are kept all the same: it measures models, and is not to become easier by a
    score. Among fewer than FEW_TO_DROP pictures one that is there once is never sure.
    """
    scores = score_outliers(features) if len(features) >= FEWEST else _unscored(len(features))
    order = np.lexsort((-scores.distance, -scores.probability))
    shown = order[scores.probability[order] >= SHOWN]
    rows_of = features.groups.rows_of(shown)
    findings = [
        found
        for number, (group, rows) in enumerate(zip(shown, rows_of, strict=True), start=1)
        for found in _findings(data, rows, features, scores, int(group), number)
    ]
    sure = scores.probability[features.groups.group_of] >= SURE
    dropped = np.array([row for row in np.flatnonzero(sure).tolist() if not _tests(data, row)], dtype=np.int64)
    return Outliers(scores, SURE, SHOWN, tuple(findings), dropped, dbscan_noise(features))


def _unscored(count: int) -> OutlierScores:
    return OutlierScores(np.ones(count), np.ones(count, np.bool_), np.zeros(count))


def _findings(
    data: InspectedData, rows: Labels, features: Embeddings, scores: OutlierScores, group: int, number: int
) -> Iterator[Finding]:
    probability = float(scores.probability[group])
    reason = outlier_reason(features, scores, group)
    name = f"outlier-{number}" if len(rows) > 1 else ""
    for row in rows.tolist():
        action, why = "drop" if probability >= SURE else "keep", reason
        if action == "drop" and _tests(data, row):
            action, why = "keep", f"{reason}; kept, as it lies in the given test part"
        yield Finding(data.names[row], "outlier", name, round(probability, 4), action, why)


def _tests(data: InspectedData, row: int) -> bool:
    """Return whether an image lies in a test part that the data set brings."""
    return data.given is not None and data.given[row] == "test"


def outlier_reason(features: Embeddings, scores: OutlierScores, group: int) -> str:
    """Return one sentence on why a group is taken for a picture that does not belong, and how sure that is."""
    counts = features.groups.counts[group]
    times = float(np.sqrt(scores.distance[group]))
    parts = [f"it lies {times:,.1f} times as far from the others as is usual (distance of its embedding)"]
    if counts.sum() > 1:
        parts.append(f"it is there {counts.sum():,} times under {_classes(int((counts > 0).sum()))}")
    if not scores.expected[group]:
        parts.append("a simple classifier (linear probe) that has not seen it expects another class")
    if len(features) < FEW_TO_DROP and counts.sum() == 1 and scores.probability[group] >= MOST_ALONE:
        parts.append(f"kept, as with fewer than {FEW_TO_DROP} pictures it may be a rare one")
    surely = "does not belong" if scores.probability[group] >= SURE else "may not belong"
    return f"{surely} ({scores.probability[group]:.2f}): {'; '.join(parts)}"


def _classes(count: int) -> str:
    return "one class" if count == 1 else f"{count} classes"


def dbscan_noise(features: Embeddings) -> DbscanNoise:
    """Return what PCA and DBSCAN call noise among all images, copies included: blocked, in bounded memory.

    An image with NEIGHBOURS images within eps, itself counted, is a core; noise is what has no core within eps.
    """
    points = _all_points(features, COMPONENTS)
    if len(points) <= NEIGHBOURS:
        return DbscanNoise(np.empty(0, np.int64), 0.0)
    distances, _ = nearest(points, NEIGHBOURS)
    ranked = np.sort(distances[:, -1])
    radius = float(ranked[_bend(ranked)])
    core = distances[:, NEIGHBOURS - 2] <= radius
    others = np.flatnonzero(~core)
    if len(others) and core.any():
        to_core, _ = nearest(points[others], 1, among=points[core])
        others = others[to_core[:, 0] > radius]
    return DbscanNoise(others, radius)


def _all_points(features: Embeddings, dimensions: int) -> Points:
    """Return the leading components (n, d) of every image; copies get that of their group."""
    return features.leading(dimensions)[features.groups.group_of]


def _bend(ranked: npt.NDArray[np.float32]) -> int:
    """Return where a growing curve lies farthest below the line between its ends."""
    line = np.linspace(ranked[0], ranked[-1], len(ranked))
    return int(np.argmax(line - ranked))

"""Labels that are probably wrong: confident learning on predictions of a linear probe, confirmed by neighbours.

Confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068) finds images that another class claims at least
as confidently as it claims its own images on average. `cleanlab` computes it where it is installed (the extra
`doctor`), else the same lines of NumPy do; both find the same images. On a data set without wrong labels it finds the
probe's own mistakes, hundreds among ten thousand images; so of what it finds, labels become findings that are more
likely wrong than right by `hpo.inspection.label_noise`, which their score says.

The rank of all labels comes from the probability of the given label by probe and neighbours together: it finds
exchanged labels earlier than the probability of the probe alone, which takes foreign pictures for wrong labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.data.findings import RELABEL, Finding
from hpo.inspection.embeddings import Embeddings, nearest
from hpo.inspection.inspected_data import InspectedData
from hpo.inspection.label_noise import estimate_label_noise
from hpo.inspection.outliers import Outliers
from hpo.inspection.probe import Probabilities

COMPONENTS = 64

NEIGHBOURS = 20

SOFTENING = 0.3
"""Added to distances over their median, so that a copy which was not found does not decide alone; and to each vote."""

LEAST = 1e-4
"""The least probability that a probe is believed to give: it is never quite sure."""

CLEAR = 0.99
"""Labels that probe and neighbours disagree with so much are doubted in any case.

Where classes are easy, confident learning asks for more than a wrong label's image can reach.
"""

SHOWN = 0.5
"""Labels that are wrong with this probability or more are findings."""

FEWEST = 20
"""Below so many pictures a probe says nothing about single labels."""


@dataclass(frozen=True)
class LabelErrors:
    """The labels that are probably wrong, and the scores of all groups of copies (G,)."""

    findings: tuple[Finding, ...]
    """The surest first. Their score is `probability`, their action is keep: a label is changed by people."""
    disagreement: npt.NDArray[np.float64]
    """1 less the probability of the group's label by probe and neighbours: a rank, as the probe is right too seldom."""
    probability: npt.NDArray[np.float64]
    """The probability that the group's label is wrong; 0 for groups that are not judged."""
    suggested: Labels
    """The class that probe and neighbours think most probable."""
    doubted: npt.NDArray[np.bool_]
    """The groups whose labels confident learning, or probe and neighbours together, and the neighbours doubt."""
    suspects: npt.NDArray[np.bool_]
    """The groups of `findings`: those that are doubted, and more likely wrong than right."""
    rate: float
    """The share of labels that are wrong by the estimate, random ones: see `hpo.inspection.label_noise`."""
    method: str
    """`cleanlab` with its version, or `NumPy`."""

    def lines(self) -> list[str]:
        """Return in sentences how many labels are doubted, and why so few of them are findings."""
        doubted, named = int(self.doubted.sum()), int(self.suspects.sum())
        if not doubted:
            return ["a simple classifier (linear probe) and the nearest pictures doubt no label"]
        expected = round(float(self.probability[self.doubted].sum()))
        labels = "1 label" if doubted == 1 else f"{doubted:,} labels"
        why = ", as many as the classifier's own mistakes explain"
        if expected and doubted == 1:
            why = ""
        elif expected:
            are = "is" if expected == 1 else "are"
            why = f"; about {expected:,} of them {are} wrong, by estimate, the others mistakes of the classifier"
        first = f"a simple classifier (linear probe) and the nearest pictures doubt {labels}{why}"
        if not named:
            return [first, "none is more likely wrong than right, so none is named"]
        are, their = ("is", "its") if named == 1 else ("are", "their")
        return [first, f"{named:,} more likely wrong than right {are} named; {their} score is that probability"]


def find_label_errors(data: InspectedData, features: Embeddings, outliers: Outliers | None = None) -> LabelErrors:
    """Return the labels that are probably wrong, the likeliest first.

    A label is doubted where confident learning finds it, or probe and neighbours together are nearly sure, and the
    neighbours agree on the other class; it is a finding if it is more likely wrong than right. Pictures that
    `outliers` names are not judged, nor groups of copies under several labels, which are a finding of their own.
    """
    groups, count = features.groups, len(features)
    if count < FEWEST or features.classes < 2:
        empty = np.zeros(count)
        none = empty > 0
        return LabelErrors((), empty, empty, groups.labels, none, none, 0.0, "none, too few images")
    votes, shares = neighbour_votes(features)
    joined = join_evidence(features.probabilities, votes)
    disagreement = 1 - joined[np.arange(count), groups.labels]
    suggested = joined.argmax(axis=1)
    judged = (groups.counts > 0).sum(axis=1) == 1
    if outliers is not None:
        judged &= outliers.scores.probability < outliers.shown
    noise = estimate_label_noise(joined[judged], groups.labels[judged])
    probability = np.zeros(count)
    probability[judged] = noise.probability
    found, method = confident_learning(features.probabilities, groups.labels)
    doubted = (found | (disagreement >= CLEAR)) & (suggested != groups.labels) & (votes.argmax(axis=1) == suggested)
    doubted &= judged
    suspects = doubted & (probability >= SHOWN)
    findings = _findings(data, features, suspects, probability, suggested, shares)
    return LabelErrors(findings, disagreement, probability, suggested, doubted, suspects, noise.rate, method)


def _findings(
    data: InspectedData,
    features: Embeddings,
    suspects: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float64],
    suggested: Labels,
    shares: npt.NDArray[np.float64],
) -> tuple[Finding, ...]:
    order = np.flatnonzero(suspects)[np.argsort(-probability[suspects], kind="stable")]
    return tuple(
        Finding(data.names[row], "label", name, round(float(probability[group]), 4), "keep", reason)
        for number, (group, some) in enumerate(zip(order, features.groups.rows_of(order), strict=True), start=1)
        for reason in [
            _reason(data, features, int(group), int(suggested[group]), float(shares[group, suggested[group]]))
        ]
        for name in [f"label-{number}" if len(some) > 1 else ""]
        for row in some
    )


def _reason(data: InspectedData, features: Embeddings, group: int, suggested: int, share: float) -> str:
    name = data.classes[suggested]
    given = data.classes[int(features.groups.labels[group])]
    probe = features.probabilities[group, suggested]
    return (
        f"labelled {given}, but the linear probe says {name} ({probe:.2f}) and so do {100 * share:.0f} % of its "
        f"nearest neighbours; if they are right: {RELABEL}{name}"
    )


def neighbour_votes(features: Embeddings) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return for each group the votes of its neighbours, nearer ones counting more, and their shares: both (G, C).

    Where the data are grouped, pictures of one patient, slide or plate do not vote for each other: a probe has not seen
    them either, and a label that is wrong for the whole slide would find them all of its opinion. Votes are even, and
    shares 0, where no other group is left.
    """
    labels, classes = features.groups.labels, features.classes
    count = min(NEIGHBOURS, max(1, len(features) // 8))
    distances, rows = nearest(features.leading(COMPONENTS), count, apart=features.together)
    found = np.isfinite(distances)
    middle = float(np.median(distances[found])) if found.any() else 0.0
    weights = np.where(found, 1 / (distances / max(middle, 1e-12) + SOFTENING), 0.0)
    parts = found / np.maximum(found.sum(axis=1, keepdims=True), 1)
    votes, shares = (np.zeros((len(features), classes)) for _ in range(2))
    for at in range(rows.shape[1]):
        np.add.at(votes, (np.arange(len(features)), labels[rows[:, at]]), weights[:, at])
        np.add.at(shares, (np.arange(len(features)), labels[rows[:, at]]), parts[:, at])
    votes += SOFTENING
    return votes / votes.sum(axis=1, keepdims=True), shares


def join_evidence(probabilities: Probabilities, votes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the probabilities (G, C) of the classes, probe and neighbours taken as independent evidence."""
    logs = np.log(probabilities.astype(np.float64) + LEAST) + np.log(votes)
    joined = np.exp(logs - logs.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = joined / joined.sum(axis=1, keepdims=True)
    return result


def confident_learning(probabilities: Probabilities, labels: Labels) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which labels (G,) confident learning takes for wrong, and the package that computed it."""
    try:
        import cleanlab
        from cleanlab.filter import find_label_issues
    except ImportError:
        return confident_off_diagonal(probabilities, labels), "NumPy"
    present, numbers = np.unique(labels, return_inverse=True)
    some = probabilities[:, present].astype(np.float64)
    some /= some.sum(axis=1, keepdims=True)
    found = find_label_issues(numbers, some, filter_by="confident_learning", n_jobs=1)
    return np.asarray(found, np.bool_), f"cleanlab {cleanlab.__version__}"


def confident_off_diagonal(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which labels (G,) lie off the diagonal of the confident joint.

    The threshold t_j of class j is the mean probability of j over the images labelled j. An image counts as the most
    probable of the classes j with p_j >= t_j.
    """
    present, numbers = np.unique(labels, return_inverse=True)
    some = probabilities[:, present].astype(np.float64)
    some /= some.sum(axis=1, keepdims=True)
    thresholds = np.array([some[numbers == one, one].mean() for one in range(len(present))])
    confident = some >= thresholds - 1e-6
    predicted = some.argmax(axis=1)
    guess = np.where(confident.sum(axis=1) > 1, predicted, confident.argmax(axis=1))
    off: npt.NDArray[np.bool_] = confident.any(axis=1) & (guess != numbers) & (predicted != numbers)
    return off

"""Which symmetries the labels of images survive: does a linear probe recognise images mirrored, or turned?

The probe is trained on embeddings of images as they are, and asked about others in several views. Where labels survive
a view (a blood cell has no up and no side), the probe knows as many as before. Where they do not (a 6 becomes a 9, a
left-hand arrow a right-hand one), or where such images do not occur among those at hand (a dog on its back), it knows
fewer. A view counts as survived only if the images prove it: few images prove nothing, nor does a probe that knows
little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Labels, Part
from hpo.data.symmetries import symmetry_in_words, turned
from hpo.inspection.probe import fit_probe, fold_rows
from hpo.models.frozen_backbone import Features
from search_spaces import Symmetry

IMAGES = 800
"""Most images that are looked at, of all classes evenly; more where that is fewer than LEAST_OF_A_CLASS of each."""

LEAST_OF_A_CLASS = 2
"""Images of a class on average, below which nothing is measured."""

SECONDS = 30.0
"""Time after which no further images are embedded; a large backbone on a CPU gets fewer."""

BATCH = 32

MIRROR, QUARTER, HALF = 4, 1, 2

VIEWS = (0, MIRROR, QUARTER, HALF)
"""Symmetries of the square, as in `hpo.data.symmetries`. All eight are made of the mirror image and a quarter turn."""

MOST_LOST = 0.1
"""Share of the probe's recognition above chance that a view may cost, with 95 % confidence."""

MOST_LOST_OF_A_CLASS = 0.3
"""Share of a class's images that a view may cost; more, beyond chance, means that the class does not survive it."""

_Z = 1.645

_LUCK = 3.0
"""Standard errors of a guess."""

_P = 0.01

FeaturesOf = Callable[[Images], Features]

Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ViewRecognition:
    """How well a probe that knows images as they are recognises them in one view."""

    view: str
    """The view in words, as «mirrored»."""
    accuracy: float
    at_most_lost: float
    """Share of the recognition above chance that the view costs at most, with 95 % confidence."""
    lost_class: str | None
    """The class that suffers most, where it loses more than chance explains; None where there is none."""
    taken_for: str | None
    """The class that its images are mostly taken for in this view."""
    survives: bool

    def __str__(self) -> str:
        text = f"{self.accuracy:.1%} {self.view}"
        if self.lost_class is None:
            return text
        return f"{text} ({self.lost_class} is taken for {self.taken_for})"


@dataclass(frozen=True)
class MeasuredSymmetry:
    """The symmetry that the labels of images survive, with the evidence."""

    symmetry: Symmetry
    images: int
    accuracy: float
    """Share of the images that probes trained on others recognise, as they are."""
    views: tuple[ViewRecognition, ...]
    backbone: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        views = ", ".join(map(str, self.views))
        return (
            f"of {self.images:,} training images a linear probe on {self.backbone} recognises {self.accuracy:.1%} as "
            f"they are, {views}"
        )


def measure_symmetry(
    part: Part, classes: tuple[str, ...], features_of: FeaturesOf, *, backbone: str, seconds: float = SECONDS
) -> MeasuredSymmetry | None:
    """Measure which symmetries the labels of `part` survive; None where `seconds` do not suffice for two a class.

    `features_of` maps images (b, S, S, 3) uint8 to features (b, F); `backbone` names it in words.
    """
    least = LEAST_OF_A_CLASS * len(classes)
    rows = sample_rows(part.labels, max(IMAGES, least))
    embedded = _embed(part, rows, features_of, time.monotonic() + seconds)
    labels = part.labels[rows[: len(embedded[0])]]
    if len(labels) < least or len(np.unique(labels)) < 2:
        return None
    return decide(labels, _predicted(embedded, labels, len(classes)), classes, backbone=backbone)


def sample_rows(labels: Labels, most: int) -> Labels:
    """Return at most `most` rows of `labels` (n,), drawn at random, of which any beginning has the classes evenly."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    rows: Labels = order[np.argsort(turn[order], kind="stable")][:most]
    return rows


def _embed(part: Part, rows: Labels, features_of: FeaturesOf, until: float) -> list[npt.NDArray[np.float32]]:
    """Return the features (m, F) of each of VIEWS for the first m rows, as many as there is time for."""
    found: list[list[Features]] = [[] for _ in VIEWS]
    for start in range(0, len(rows), BATCH):
        if start and time.monotonic() >= until:
            break
        images = part.batch(rows[start : start + BATCH])
        for features, symmetry in zip(found, VIEWS, strict=True):
            features.append(features_of(seen_from(images, symmetry)))
    return [np.concatenate(features).astype(np.float32) for features in found]


def seen_from(images: Images, symmetry: int) -> Images:
    """Return images (b, S, S, 3) turned by a symmetry."""
    return np.ascontiguousarray(np.moveaxis(turned(np.moveaxis(images, -1, 1), symmetry), 1, -1))


def _predicted(embedded: list[npt.NDArray[np.float32]], labels: Labels, classes: int) -> Mapping[int, Labels]:
    """Return the classes (m,) that probes give the images in each view, trained on other images as they are."""
    predicted = {symmetry: np.zeros(len(labels), np.int64) for symmetry in VIEWS}
    for held, rest in fold_rows(labels):
        probe = fit_probe(embedded[0][rest], labels[rest], classes)
        for symmetry, features in zip(VIEWS, embedded, strict=True):
            predicted[symmetry][held] = probe.predict(features[held]).argmax(axis=1)
    return predicted


def decide(
    labels: Labels, predicted: Mapping[int, Labels], classes: tuple[str, ...], *, backbone: str
) -> MeasuredSymmetry:
    """Return the symmetry that `predicted` proves: for each of VIEWS the class (m,) of each image with its label."""
    plain = predicted[0]
    found = {s: _recognition(labels, plain, predicted[s], symmetry_in_words(s), classes) for s in VIEWS[1:]}
    survives = {symmetry: view.survives for symmetry, view in found.items()}
    symmetry: Symmetry = "none"
    if survives[MIRROR]:
        symmetry = "dihedral" if survives[QUARTER] and survives[HALF] else "mirror"
    accuracy = float((plain == labels).mean())
    return MeasuredSymmetry(symmetry, len(labels), accuracy, tuple(found.values()), backbone)


def _recognition(labels: Labels, plain: Labels, seen: Labels, view: str, classes: tuple[str, ...]) -> ViewRecognition:
    before, after = plain == labels, seen == labels
    chance = float(np.bincount(labels).max()) / len(labels)
    at_most = _at_most_lost(before, after, chance)
    lost = _lost_class(labels, before, after, len(classes))
    taken_for = None if lost is None else classes[int(np.bincount(seen[(labels == lost) & ~after]).argmax())]
    return ViewRecognition(
        view=view,
        accuracy=float(after.mean()),
        at_most_lost=at_most,
        lost_class=None if lost is None else classes[lost],
        taken_for=taken_for,
        survives=at_most <= MOST_LOST and lost is None,
    )


def _at_most_lost(before: Correct, after: Correct, chance: float) -> float:
    """Return the upper 95 % bound of the share of the recognition above `chance` that is lost; 1 at most."""
    count = len(before)
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    # What luck may have given to a probe that knows nothing is not counted as known.
    known = float(before.mean()) - chance - _LUCK * math.sqrt(chance * (1 - chance) / count)
    # The same images are asked twice, so the noise is that of those which change; one more, so that it is never 0.
    error = math.sqrt(lost + gained + 1 - (lost - gained) ** 2 / count) / count
    bound = (lost - gained) / count + _Z * error
    return min(1.0, max(0.0, bound / known)) if known > 0 else 1.0


def _lost_class(labels: Labels, before: Correct, after: Correct, classes: int) -> int | None:
    """Return the class that loses the largest share of its images, beyond MOST_LOST_OF_A_CLASS and beyond chance."""
    worst: tuple[float, int] | None = None
    for label in np.unique(labels):
        rows = labels == label
        lost, gained = int((before & ~after)[rows].sum()), int((after & ~before)[rows].sum())
        share = (lost - gained) / int(rows.sum())
        if share <= MOST_LOST_OF_A_CLASS or _sign_test(lost, gained) > _P / classes:
            continue
        worst = max(worst or (0.0, -1), (share, int(label)))
    return None if worst is None else worst[1]


def _sign_test(lost: int, gained: int) -> float:
    """Return the probability of at least `lost` losses among all changes, if either were as likely as the other."""
    changes = lost + gained
    ways = sum(math.comb(changes, k) for k in range(lost, changes + 1))
    return ways / 2.0**changes if changes < 1000 else 0.0  # of so many, a share above a third is never chance

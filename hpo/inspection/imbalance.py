"""How unequal the classes are, and what each remedy would do for each class, in numbers of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.inspection.inspected_data import InspectedData

FEW = 10
"""Images below which a class can hardly be learned, and surely not measured."""

EQUAL = 1.5
"""The ratio of the largest to the smallest class up to which classes count as equal."""

SEVERE = 10.0
"""The ratio from which the small classes are in danger of being ignored."""


@dataclass(frozen=True)
class ClassBalance:
    """One class among the images that train, and what each remedy does for it."""

    name: str
    count: int
    share: float
    effective: float
    """The effective number of images (1 - β^n) / (1 - β), with the β of the loss (Cui et al. 2019, eq. 2)."""
    weight_inverse: float
    """The weight of each image in the loss with `class_weights: inverse`; the mean over all images is 1."""
    weight_effective: float
    """The same with `class_weights: effective`."""
    balanced_draws: float
    """How often an image is drawn in an epoch with `balanced_sampling`; below 1 it is left out of some epochs."""
    added: int
    """The augmented copies that `oversample_to` the target adds."""
    shown: float
    """How often an original is shown in an epoch then, as itself or augmented."""


@dataclass(frozen=True)
class Imbalance:
    """The classes by count, and remedies."""

    classes: tuple[ClassBalance, ...]
    """In the order of the data set's classes."""
    part: str
    """The part that was counted: «train», or «all» where DATA brings no parts."""
    target: int
    """The count to which oversampling fills each class."""
    beta: float

    @property
    def ratio(self) -> float:
        """The largest class over the smallest one that has images; 1 where there are none."""
        counts = [one.count for one in self.classes if one.count]
        return max(counts) / min(counts) if counts else 1.0

    @property
    def few(self) -> tuple[ClassBalance, ...]:
        """The classes of under FEW images."""
        return tuple(one for one in self.classes if one.count < FEW)

    @property
    def majority(self) -> float:
        """The accuracy of always answering with the largest class."""
        return max((one.share for one in self.classes), default=0.0)

    def verdict(self) -> str:
        """Return one sentence on how unequal the classes are."""
        if self.ratio <= EQUAL:
            return "The classes are about equally large; no remedy is needed."
        largest = max(self.classes, key=lambda one: one.count)
        smallest = min((one for one in self.classes if one.count), key=lambda one: one.count)
        compared = (
            f"{largest.name} has {self.ratio:.1f} times as many images as {smallest.name} ({largest.count:,} and "
            f"{smallest.count:,})"
        )
        if self.ratio < SEVERE:
            return f"{compared}: uneven, which accuracy forgives and macro F1 does not; weights are worth a try."
        return f"{compared}: very uneven; measure by macro F1 or balanced accuracy, and search over the remedies."


def measure_imbalance(data: InspectedData, target: int | None = None) -> Imbalance:
    """Return counts and remedies for the images of the train part, or for all where DATA brings no parts.

    `target` is the count to which oversampling fills each class; None is the count of the largest class.
    """
    train = _training_rows(data)
    labels = data.labels[train]
    number = len(data.classes)
    counts = np.bincount(labels, minlength=number)
    goal = int(target if target is not None else counts.max(initial=0))
    from hpo.training.loss import BETA, class_weights  # torch, which the command line must not load

    inverse, effective = (class_weights(labels, number, kind) for kind in ("inverse", "effective"))
    assert inverse is not None
    assert effective is not None
    present = max(1, int((counts > 0).sum()))
    total = max(1, int(counts.sum()))
    classes = tuple(
        ClassBalance(
            name=name, count=count, share=count / total, effective=float((1 - BETA**count) / (1 - BETA)),
            weight_inverse=float(inverse[number]), weight_effective=float(effective[number]),
            balanced_draws=total / present / count if count else 0.0, added=max(0, goal - count) if count else 0,
            shown=max(goal, count) / count if count else 0.0,
        )
        for number, (name, count) in enumerate(zip(data.classes, counts.tolist(), strict=True))
    )  # fmt: skip
    return Imbalance(classes, "all" if len(train) == len(data.labels) else "train", goal, BETA)


def _training_rows(data: InspectedData) -> npt.NDArray[np.int64]:
    """Return the rows of the train part; all rows where no part is given for any image."""
    if data.given is None or "train" not in data.given:
        return np.arange(len(data.labels))
    return np.flatnonzero(np.array([part in ("train", None) for part in data.given]))

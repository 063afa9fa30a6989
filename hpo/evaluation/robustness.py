"""Accuracy under the families of corruptions, and errors relative to those of a baseline."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.corruption_family import CorruptionFamily, FamilyName
from hpo.data.dataset import Part
from hpo.evaluation.corrupted_copy import Condition, CorruptedCopy
from hpo.evaluation.intervals import Score, clustered

Errors = npt.NDArray[np.float64]
"""(kinds, n): 1 where an image is classified wrongly under a kind of corruption; of several models the mean."""

RESAMPLES = 1_000
"""Bootstrap samples of the images for the interval of relative errors."""

MOST_IMAGES = 2_000
"""Images of a part that are corrupted; of more, a fixed random sample is taken."""

Accuracies = Mapping[str, Mapping[int, float]]
"""Accuracy by kind of corruption and severity."""


def sample_of(part: Part) -> Part:
    """Return the part, or MOST_IMAGES of it, always the same."""
    if len(part) <= MOST_IMAGES:
        return part
    return part.subset(np.sort(np.random.default_rng(0).permutation(len(part))[:MOST_IMAGES]))


@dataclass(frozen=True)
class FamilyScore:
    """The result of a model under one family of corruptions."""

    family: FamilyName
    version: int
    """The version of the family."""
    accuracy: Score
    """Over all images of the copy; `n` allows for each image being there once for each kind."""
    conditions: tuple[Condition, ...]
    """By kind, in the order of the family, and severity; without those that no image met."""
    right: str = ""
    """Which of the n images are right under which kind, for intervals: base64 of the bits of (kinds, n). Empty in
    measurements of earlier versions of hpo."""

    @classmethod
    def of(cls, family: CorruptionFamily, copy: CorruptedCopy, correct: npt.NDArray[np.bool_]) -> FamilyScore:
        """Count which images of the copy are `correct` (m,) bool."""
        conditions = copy.by_condition(correct)
        return cls(family.name, family.version, clustered(correct, copy.originals), conditions, packed_bits(correct))

    @property
    def errors(self) -> Errors | None:
        """The errors by kind and image; None where they are not known."""
        kinds = len(self.by_kind)
        images = sum(one.images for one in self.conditions) // kinds if kinds else 0
        return unpacked_errors(self.right, kinds, images)

    @property
    def by_kind(self) -> dict[str, list[Condition]]:
        """The conditions of each kind."""
        table: dict[str, list[Condition]] = {}
        for one in self.conditions:
            table.setdefault(one.corruption, []).append(one)
        return table

    @property
    def accuracies(self) -> dict[str, dict[int, float]]:
        """Accuracy by kind and severity."""
        return {kind: {one.severity: one.accuracy for one in found} for kind, found in self.by_kind.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "family": self.family,
            "version": self.version,
            "accuracy": self.accuracy.to_dict(),
            "conditions": [dict(vars(one)) for one in self.conditions],
            "right": self.right,
        }


def packed_bits(correct: npt.NDArray[np.bool_]) -> str:
    """Return base64 of the bits of `correct`, row by row."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpacked_errors(text: str, kinds: int, images: int) -> Errors | None:
    """Return (kinds, images) errors from what `packed_bits` gave; None for anything else."""
    try:
        content = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError):
        return None
    count = kinds * images
    if not count or len(content) != -(-count // 8):
        return None
    right: Errors = np.unpackbits(content, count=count).reshape(kinds, images).astype(np.float64)
    return 1 - right


@dataclass(frozen=True)
class Robustness:
    """The results of a model on the same images as they are, and under each family of corruptions."""

    images: int
    """Different images."""
    of: int
    """Images of the part that they were drawn from."""
    clean: Score
    families: tuple[FamilyScore, ...]
    right: str = ""
    """Which of the images are right as they are: see `FamilyScore.right`."""

    @property
    def errors(self) -> Errors | None:
        """(1, images) errors on the images as they are; None where they are not known."""
        return unpacked_errors(self.right, 1, self.images)

    def family(self, name: FamilyName) -> FamilyScore | None:
        """Return the result under one family; None where it was not measured."""
        return next((one for one in self.families if one.family == name), None)

    def relative_errors(self, baseline: Robustness | None = None) -> dict[str, RelativeErrors]:
        """Return the errors by family over those of `baseline`, with intervals; None is the model's own clean error.

        Families that the baseline lacks are left out. An interval takes a moment, so call this once.
        """
        if baseline is None:
            clean = self.clean.value
            return {
                one.family: relative_to_clean(one, clean).with_interval(one.errors, self.errors)
                for one in self.families
            }
        pairs = [(one, baseline.family(one.family)) for one in self.families]
        return {
            one.family: relative_errors(one.accuracies, other.accuracies).with_interval(one.errors, other.errors)
            for one, other in pairs
            if other is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        families = [one.to_dict() for one in self.families]
        return {
            "images": self.images, "of": self.of, "clean": self.clean.to_dict(), "families": families,
            "right": self.right,
        }  # fmt: skip


@dataclass(frozen=True)
class RelativeErrors:
    """The errors of a model under corruptions, relative to those of a baseline.

    This is the corruption error of Hendrycks and Dietterich (2019, arXiv 1903.12261): for each kind the error summed
    over the severities, over the same sum of the baseline; and its mean over the kinds (mCE). 1 is as the baseline.
    """

    kinds: Mapping[str, float | None]
    """None for a kind under which the baseline makes no error, so that there is nothing to divide by."""
    interval: tuple[float, float] | None = None
    """95 % interval of `mean`, by the bootstrap over the images, the same for both models; None where it is not known
    which images were right."""

    @property
    def mean(self) -> float | None:
        """The mean over the kinds that have a value; None if none has."""
        known = [value for value in self.kinds.values() if value is not None]
        return fmean(known) if known else None

    @property
    def undefined(self) -> tuple[str, ...]:
        """The kinds that are not in the mean."""
        return tuple(kind for kind, value in self.kinds.items() if value is None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        interval = list(self.interval) if self.interval else None
        return {"mean": self.mean, "interval": interval, "kinds": dict(self.kinds)}

    def with_interval(self, found: Errors | None, baseline: Errors | None) -> RelativeErrors:
        """Return these with the interval that follows from the errors on the same images of both models.

        A baseline of one row is the same for every kind. Severities are balanced within a kind, so the errors of a kind
        are summed over the images.
        """
        if found is None or baseline is None or self.mean is None or found.shape[1] != baseline.shape[1]:
            return self
        if len(found) != len(self.kinds) or len(baseline) not in (1, len(found)):
            return self
        defined = np.array([value is not None for value in self.kinds.values()])
        other = np.broadcast_to(baseline, found.shape)[defined]
        low, high = _resampled(found[defined], other)
        return replace(self, interval=(min(low, self.mean), max(high, self.mean)))


def _resampled(found: Errors, baseline: Errors) -> tuple[float, float]:
    """Return the middle 95 % of the mean ratio over the kinds among bootstrap samples of the images."""
    n = found.shape[1]
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    above, below = weights @ found.T, weights @ baseline.T
    # A sample without an error of the baseline under some kind has no ratio there.
    ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    known = ratios[~np.isnan(ratios).all(axis=1)]
    low, high = np.quantile(np.nanmean(known, axis=1), (0.025, 0.975))
    return float(low), float(high)


def relative_errors(found: Accuracies, baseline: Accuracies) -> RelativeErrors:
    """Return the errors of `found` over those of `baseline`, by kind, over the severities that both have."""
    return RelativeErrors(
        {kind: _ratio(by_severity, baseline[kind]) for kind, by_severity in found.items() if kind in baseline}
    )


def _ratio(found: Mapping[int, float], baseline: Mapping[int, float]) -> float | None:
    common = found.keys() & baseline.keys()
    below = sum(1 - baseline[severity] for severity in common)
    return sum(1 - found[severity] for severity in common) / below if below > 0 else None


def relative_to_clean(found: FamilyScore, clean: float) -> RelativeErrors:
    """Return the errors of a model under corruptions over its own error on the images as they are.

    It takes the place of a baseline where there is none: it says how often a corruption multiplies the errors. A model
    that is better on clean images has a higher value at equal errors under corruptions.
    """
    accuracies = found.accuracies
    return relative_errors(accuracies, {kind: dict.fromkeys(steps, clean) for kind, steps in accuracies.items()})


def mean_accuracies(results: Sequence[Accuracies]) -> dict[str, dict[int, float]]:
    """Return the mean over several models that were measured on the same images; {} for none."""
    if not results:
        return {}
    return {
        kind: {severity: fmean(one[kind][severity] for one in results) for severity in severities}
        for kind, severities in results[0].items()
    }

"""A frozen probe: a linear head on the features of a pretrained backbone, fitted at once, in place of training.

The backbone stays as it was pretrained. Its features are computed once and lie in the feature store, which `hpo data`
uses, too; the head is the logistic regression of `hpo.inspection.probe`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpo.data import Dataset
from hpo.data.dataset import Labels, Part
from hpo.device import one_thread, side_by_side
from hpo.evaluation.metrics import scores
from hpo.inspection.probe import Points, Probabilities, fit_probe, fold_rows
from hpo.interruption import ShouldStop, never
from hpo.models.feature_store import FeatureStore
from hpo.models.frozen_backbone import FrozenBackbone
from hpo.training import FitData, Runtime
from hpo.training.loop import Epochs, Fitter, fit_at_once
from hpo.training.run import Run
from search_spaces import TrialConfig

IMAGES = 20_000
"""Most training images that a probe is fitted on: more take minutes and hardly change a linear head."""

PENALTIES = (1.0, 10.0, 100.0)
"""Penalties that are compared, as multiples of that of `fit_probe`; of equally good ones the first is taken."""

COMPARING = 3_000
"""Most training images that the penalties are compared on: a fifth of them is predicted, the rest trained on."""


@dataclass(frozen=True)
class FeatureSource:
    """Where the features of a data set are kept, and what they are kept under."""

    cache: Path
    fingerprint: str
    white_level: int | None = None

    @classmethod
    def of(cls, dataset: Dataset, cache: Path) -> FeatureSource:
        """Return the source for the images of `dataset` in the cache folder."""
        return cls(cache, dataset.fingerprint, dataset.white_level)

    def points(self, part: Part, config: TrialConfig, device: str, should_stop: ShouldStop) -> Points:
        """Return the features (n, F) float32 of the images of a part, computed where they are not stored."""
        features = FeatureStore(self.cache / "features").features(
            part, FrozenBackbone(config, device=device), fingerprint=self.fingerprint, white_level=self.white_level,
            should_stop=should_stop,
        )  # fmt: skip
        return features.batch(np.arange(len(part)))


def probe_fitter(source: FeatureSource, penalty: float | None = None) -> Fitter:
    """Return what fits a probe in place of `fit`; it has nothing to resume, and starts anew."""
    return lambda config, data, runtime, resume: fit_frozen_probe(config, data, runtime, source, penalty)


def fit_frozen_probe(
    config: TrialConfig, data: FitData, runtime: Runtime, source: FeatureSource, penalty: float | None = None
) -> Epochs:
    """Yield the one result of a probe: the backbone as it was pretrained, with a linear head.

    `penalty` is a multiple of the default of `fit_probe`; None chooses one of PENALTIES on the training part. Both it
    and the number of images fitted on are in `EpochResult.facts`, under `probe`. Raises as `fit_at_once` does, and
    DataError where the features cannot be stored.
    """
    # Without a cache nothing is measured: a probe has no steps whose speed would matter.
    return fit_at_once(config, data, replace(runtime, cache=None), partial(_solve, source=source, penalty=penalty))


def _solve(run: Run, source: FeatureSource, penalty: float | None) -> float:
    """Set the head of the run's classifier; return the mean loss on the images fitted on."""
    part, runtime, classes = _sample(run.data.train), run.runtime, run.data.classes
    points = source.points(part, run.config, runtime.device, runtime.should_stop)
    if penalty is None:
        penalty = choose_penalty(points, part.labels, classes, runtime.metric, runtime.should_stop)
    with one_thread():  # small products, which several threads compute far slower on a busy machine
        probe = fit_probe(points, part.labels, classes, penalty=penalty, should_stop=runtime.should_stop)
    (layer,) = (one for one in run.learner.evaluated.head.modules() if isinstance(one, nn.Linear))
    weights, bias = probe.layer()
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(bias)
    run.facts = {**run.facts, "probe": {"penalty": penalty, "images": len(part)}}
    return scores(part.labels, _logits(probe.predict(points)))["loss"]


def _sample(part: Part) -> Part:
    """Return the part, or IMAGES of its images, drawn at random in their order."""
    if len(part) <= IMAGES:
        return part
    return part.subset(np.sort(np.random.default_rng(0).permutation(len(part))[:IMAGES]))


def choose_penalty(points: Points, labels: Labels, classes: int, metric: str, should_stop: ShouldStop = never) -> float:
    """Return which of PENALTIES gives the best metric on a fifth of the images by a probe fitted on the others.

    Of equal ones that of least loss is taken. Too few images to hold any out keep the default, 1.
    """
    some = np.random.default_rng(0).permutation(len(labels))[:COMPARING]
    points, labels = points[some], labels[some]
    held, rest = next(fold_rows(labels), (None, None))
    if held is None:
        return PENALTIES[0]

    def merit(penalty: float) -> tuple[float, float]:
        """Return metric and negative loss on the images held out."""
        probe = fit_probe(points[rest], labels[rest], classes, penalty=penalty, should_stop=should_stop)
        found = scores(labels[held], _logits(probe.predict(points[held])))
        return found[metric], -found["loss"]

    merits = list(side_by_side(merit, PENALTIES))
    return PENALTIES[merits.index(max(merits))]


def _logits(probabilities: Probabilities) -> Points:
    """Return the logarithms (n, C) of probabilities, finite where one is 0."""
    logits: Points = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return logits

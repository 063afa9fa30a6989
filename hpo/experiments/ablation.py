"""An ablation: the variations are trained, and each part's contribution and each pair's interaction are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from hpo.bundle.bundle import read_bundle
from hpo.bundle.manifest import Manifest
from hpo.data import Dataset
from hpo.delivery.original_weights import with_weights
from hpo.errors import HpoError, UsageError
from hpo.evaluation.intervals import Difference, Values, contribution, interaction
from hpo.experiments.ablation_parts import (
    PARTS,
    AblationPart,
    Variation,
    ablation_trials,
    pair_variations,
    single_variations,
)
from hpo.experiments.trial_list_study import plan_trial_list
from hpo.experiments.variation_results import CorruptionEvaluator, VariationResult, read_results
from hpo.hints import hint
from hpo.models.baselines import is_baseline
from hpo.search.plan import Plan
from search_spaces import TrialConfig

if TYPE_CHECKING:
    import optuna

METRIC = "accuracy on the corrupted copy"

Train = Callable[[Plan], "optuna.Study"]
"""Creates or opens the study of a plan, trains all of its trials, and returns it."""

Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Shows the progress of what it is given the name of."""


@dataclass(frozen=True)
class Ablation:
    """A configuration, the parts of it to switch off, and the data."""

    data: Path
    dataset: Dataset
    manifest: Manifest
    config: TrialConfig
    parts: Sequence[AblationPart]
    seeds: int
    name: str | None
    """Name of the study; None to make it from the content."""

    @property
    def robustness(self) -> float:
        """The weight of altered images in the value of a run: that of the study of the bundle."""
        return self.manifest.robustness.weight if self.manifest.robustness else 0.0

    @property
    def metric(self) -> str:
        """The name of the figure that the parts are judged by: what a trial of that study is worth."""
        mixed = f"{1 - self.robustness:.4g} clean + {self.robustness:g} altered {self.manifest.metric}"
        return mixed if self.robustness else self.manifest.metric


def ablated_config(
    folder: Path, *, weights: Path | None, epochs: int | None, cache: Path
) -> tuple[Manifest, TrialConfig]:
    """Return the manifest of the bundle in `folder`, and its configuration with these epochs.

    Raises BundleError if weights are missing, UsageError for a bundle without a single configuration of parts.
    """
    manifest = with_weights(read_bundle(folder).manifest, weights, cache=cache)
    if manifest.stage in ("ensemble", "soup"):
        raise UsageError(
            f"{folder} joins several trials, but one configuration is ablated; export one of them: "
            f"`{hint('export-best', study=manifest.study, trial=manifest.trial, out='best/')}`"
        )
    if is_baseline(manifest.config.backbone):
        raise UsageError(f"{folder} is a baseline ({manifest.config.backbone}), which has no part to switch off")
    if manifest.probe:
        raise UsageError(
            f"{folder} is a frozen probe, which has no part to switch off: give the bundle of a trained trial"
        )
    return manifest, manifest.config.replace(epochs=epochs or manifest.config.epochs)


def run_ablation(
    ablation: Ablation,
    train: Train,
    *,
    pairs: int,
    evaluator: Callable[[optuna.Study], CorruptionEvaluator] | None,
    counting: Counting,
) -> tuple[list[AblationOutcome], str]:
    """Train the variations; return the outcome for each metric, and the name of the study of single parts.

    The `pairs` pairs of the largest contributions are trained in a second study. With an `evaluator` the accuracy on
    corrupted images is a second metric.
    """
    metric, seeds = ablation.metric, ablation.seeds
    studies = [_train_variations(ablation, single_variations(ablation.config, ablation.parts), train)]
    single = compute_outcome(metric, seeds, studies[0][1])
    joint = pair_variations(ablation.config, ablation.parts, single.contributions, pairs)
    if joint:
        studies.append(_train_variations(ablation, joint, train, "-pairs"))
    outcomes = [compute_outcome(metric, seeds, [one for _, results in studies for one in results])]
    if evaluator is not None:
        corrupted: list[VariationResult] = []
        for study, results in studies:
            with counting("variations on the corrupted copy") as progress:
                corrupted += evaluator(study).evaluate(results, seeds, progress)
        outcomes.append(compute_outcome(METRIC, seeds, corrupted))
    return outcomes, studies[0][0].study_name


def _train_variations(
    ablation: Ablation, variations: Sequence[Variation], train: Train, suffix: str = ""
) -> tuple[optuna.Study, list[VariationResult]]:
    """Train the variations in one study; return it and its results."""
    origin = ablation.manifest.data
    plan = plan_trial_list(
        ablation.data, ablation.name and f"{ablation.name}{suffix}",
        ablation_trials(f"ablation{suffix}", variations, ablation.seeds),
        metric=ablation.manifest.metric, split=origin.options, changes=origin.changes, robustness=ablation.robustness,
    )  # fmt: skip
    study = train(plan)
    return study, read_results(study, variations, ablation.seeds)


@dataclass(frozen=True)
class AblationLine:
    """The figures of one part or of a pair of parts."""

    parts: tuple[str, ...]
    instead: str
    """The replacements of the parts, in words."""
    value: float | None
    """Mean metric without the parts; None if no run has a value."""
    contribution: Difference | None
    interaction: Difference | None = None
    """None for a single part."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`mixup`, or `mixup and ema`."""
        return " and ".join(self.parts)

    @property
    def judged(self) -> Difference | None:
        """The difference that the verdict is about: a part's contribution, a pair's interaction."""
        return self.interaction if len(self.parts) == 2 else self.contribution

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "parts": list(self.parts),
            "instead": self.instead,
            "value": self.value,
            "contribution": self.contribution.to_dict() if self.contribution else None,
            "interaction": self.interaction.to_dict() if self.interaction else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class AblationOutcome:
    """The figures of an ablation for one metric; the metric of a run is that of its best epoch, in all variations."""

    metric: str
    seeds: int
    whole: Values
    """The metric of the whole configuration, by seed."""
    parts: tuple[AblationLine, ...]
    """Largest contribution first."""
    pairs: tuple[AblationLine, ...] = ()
    """Largest absolute interaction first."""

    @property
    def contributions(self) -> dict[str, float]:
        """Mean contribution by part, if known."""
        return {line.name: line.contribution.mean for line in self.parts if line.contribution}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "metric": self.metric,
            "seeds": self.seeds,
            "everything": {"mean": mean(self.whole.values()), "values": list(self.whole.values())},
            "parts": [line.to_dict() for line in self.parts],
            "pairs": [line.to_dict() for line in self.pairs],
        }


def compute_outcome(metric: str, seeds: int, results: Sequence[VariationResult]) -> AblationOutcome:
    """Return contributions and interactions; raise HpoError if the whole configuration has no value."""
    by_parts = {one.variation.without: one for one in results}
    whole = by_parts[()]
    if not whole.values:
        raise HpoError(f"the whole configuration gave no model, so there is nothing to compare with: {whole.notes[0]}")
    values = {parts: one.values for parts, one in by_parts.items()}
    lines = [_line(parts, values, one.notes) for parts, one in by_parts.items() if parts]
    single = [line for line in lines if len(line.parts) == 1]
    pairs = [line for line in lines if len(line.parts) == 2]
    return AblationOutcome(
        metric, seeds, whole.values,
        tuple(sorted(single, key=lambda line: -line.contribution.mean if line.contribution else math.inf)),
        tuple(sorted(pairs, key=lambda line: -abs(line.interaction.mean) if line.interaction else math.inf)),
    )  # fmt: skip


def _line(parts: tuple[str, ...], values: Mapping[tuple[str, ...], Values], notes: tuple[str, ...]) -> AblationLine:
    words = {part.name: part.without for part in PARTS}
    whole, without = values[()], values[parts]
    joint = interaction(whole, values[parts[:1]], values[parts[1:]], without) if len(parts) == 2 else None
    return AblationLine(
        parts,
        "; ".join(words[part] for part in parts),
        mean(without.values()) if without else None,
        contribution(whole, without),
        joint,
        notes,
    )

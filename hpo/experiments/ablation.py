"""The runs of a variation as its study has them.

What came of an ablation: each part's contribution, and the interaction of pairs.

The runs of an ablation on the corrupted copy: what a part is worth where images go wrong, which clean ones hide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from hpo.bundle.bundle import MODEL, Bundle
from hpo.bundle.model import Model
from hpo.corruptions import VERSION
from hpo.delivery.export import read_best, trial_manifest
from hpo.errors import BundleError, HpoError
from hpo.evaluation.intervals import Difference, Values, contribution, interaction
from hpo.experiments.ablation_parts import PARTS, Variation
from hpo.experiments.benchmark import Benchmark
from hpo.files import write_file
from hpo.search.trial_record import TrialRecord, describe_ending
from search_spaces import RUN
from storage import CheckpointStore, read_spec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class VariationResult:
    """What is known of one variation."""

    variation: Variation
    values: Values
    """The metric at the best epoch, by seed."""
    notes: tuple[str, ...]
    """Of runs that did not end as they should."""


def seen(study: optuna.Study, variations: Sequence[Variation], seeds: int) -> list[VariationResult]:
    """What `study` has of each variation under each seed."""
    trials = {trial.params.get(RUN): trial for trial in study.get_trials(deepcopy=False)}
    return [_seen(variation, [trials.get(variation.run(seed)) for seed in range(seeds)]) for variation in variations]


def _seen(variation: Variation, trials: Sequence[FrozenTrial | None]) -> VariationResult:
    values = {seed: value for seed, trial in enumerate(trials) if (value := best_value(trial)) is not None}
    notes = [
        f"{variation.run(seed)}: {describe_ending(trial, ', ')}"
        for seed, trial in enumerate(trials)
        if trial is None or trial.state != TrialState.COMPLETE
    ]
    return VariationResult(variation, values, tuple(notes))


def best_value(trial: FrozenTrial | None) -> float | None:
    """The metric at the best epoch, of a run that diverged of those before.

    None of a run that failed: that says nothing of its configuration, and its epochs so far are no whole run.
    """
    if trial is None or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return max(trial.intermediate_values.values(), default=None)


@dataclass(frozen=True)
class AblationLine:
    """One part, or a pair of them."""

    parts: tuple[str, ...]
    instead: str
    """What stands in their place."""
    value: float | None
    """Mean metric without them; None where no run reached an epoch."""
    contribution: Difference | None
    interaction: Difference | None = None
    """Of a pair."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`mixup`, or `mixup and ema`."""
        return " and ".join(self.parts)

    @property
    def judged(self) -> Difference | None:
        """What the verdict is about: a part's contribution, a pair's interaction."""
        return self.interaction if len(self.parts) == 2 else self.contribution

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
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
    """An ablation's figures. The metric of a run is that of its best epoch, in all variations alike."""

    metric: str
    seeds: int
    whole: Values
    """The metric of the whole configuration, by seed."""
    parts: tuple[AblationLine, ...]
    """Largest contribution first."""
    pairs: tuple[AblationLine, ...] = ()
    """Largest interaction first, whichever its sign."""

    @property
    def contributions(self) -> dict[str, float]:
        """Mean contribution by part, of those that are known."""
        return {line.name: line.contribution.mean for line in self.parts if line.contribution}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "metric": self.metric,
            "seeds": self.seeds,
            "everything": {"mean": mean(self.whole.values()), "values": list(self.whole.values())},
            "parts": [line.to_dict() for line in self.parts],
            "pairs": [line.to_dict() for line in self.pairs],
        }


def outcome(metric: str, seeds: int, seen: Sequence[VariationResult]) -> AblationOutcome:
    """Contributions and interactions of all that was run; HpoError where the whole configuration gave nothing."""
    runs = {one.variation.without: one for one in seen}
    whole = runs[()]
    if not whole.values:
        raise HpoError(f"the whole configuration gave no model, so there is nothing to compare with: {whole.notes[0]}")
    values = {parts: one.values for parts, one in runs.items()}
    lines = [_line(parts, values, one.notes) for parts, one in runs.items() if parts]
    parts = [line for line in lines if len(line.parts) == 1]
    pairs = [line for line in lines if len(line.parts) == 2]
    return AblationOutcome(
        metric, seeds, whole.values,
        tuple(sorted(parts, key=lambda line: -_mean(line.contribution))),
        tuple(sorted(pairs, key=lambda line: -abs(_mean(line.interaction)))),
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


def _mean(difference: Difference | None) -> float:
    """For sorting; what is not known comes last."""
    return difference.mean if difference else float("-inf")


METRIC = "accuracy on the corrupted copy"


@dataclass(frozen=True)
class CorruptionEvaluator:
    """Puts the weights of finished runs on the bench, each once: what was found is remembered below `cache`."""

    study: optuna.Study
    store: CheckpointStore
    bench: Benchmark
    cache: Path

    def seen(
        self, runs: Sequence[VariationResult], seeds: int, told: Callable[[int, int], None]
    ) -> list[VariationResult]:
        """`runs` with the accuracy on the corrupted copy in place of the metric; `told` of runs done and in all."""
        trials = {trial.params.get(RUN): trial for trial in self.study.get_trials(deepcopy=False)}
        found: list[VariationResult] = []
        for one in runs:
            found.append(self._examined(one, [trials.get(one.variation.run(seed)) for seed in range(seeds)]))
            told(len(found), len(runs))
        return found

    def _examined(self, one: VariationResult, trials: Sequence[FrozenTrial | None]) -> VariationResult:
        """The runs that count for the metric count here too, but one that diverged may have left no weights."""
        values, gone = {}, []
        for seed, trial in enumerate(trials):
            if trial is None or seed not in one.values:
                continue
            try:
                values[seed] = self.accuracy(trial)
            except BundleError:
                if trial.state == TrialState.COMPLETE:
                    raise
                gone.append(f"{one.variation.run(seed)}: no weights are kept of it, so none meet corrupted images")
        return replace(one, values=values, notes=(*one.notes, *gone))

    def accuracy(self, trial: FrozenTrial) -> float:
        """Of the trial's best weights; BundleError where they are gone."""
        spec = read_spec(self.study)
        path = self.cache / "robustness" / f"{spec.id}-{trial.number}-{TrialRecord.of(trial).training_digest}.json"
        known = _read(path)
        if known is not None:
            return known
        checkpoint = read_best(self.store, self.study, trial)
        manifest = trial_manifest(self.study.study_name, spec, trial)
        model = Model(Bundle(path, manifest, {}, checkpoint.files[MODEL]), self.bench.device)
        score, _ = self.bench.robustness(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({"version": VERSION, "accuracy": score.value}))
        return score.value


def _read(path: Path) -> float | None:
    """The accuracy on record; None where there is none, or one of other alterations."""
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return float(record["accuracy"]) if record["version"] == VERSION else None

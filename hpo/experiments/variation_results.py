"""The results of variations: the metric as their study recorded it, and the accuracy on corrupted images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.bundle.bundle import MODEL, Bundle
from hpo.bundle.model import Model
from hpo.corruptions import VERSION
from hpo.delivery.export import read_best, trial_manifest
from hpo.errors import BundleError
from hpo.evaluation.intervals import Values
from hpo.experiments.ablation_parts import Variation
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
    """The results of one variation."""

    variation: Variation
    values: Values
    """The metric at the best epoch, by seed."""
    notes: tuple[str, ...]
    """A line for each run that did not complete."""


def read_results(study: optuna.Study, variations: Sequence[Variation], seeds: int) -> list[VariationResult]:
    """Return the results that `study` has of each variation under each seed."""
    trials = {trial.params.get(RUN): trial for trial in study.get_trials(deepcopy=False)}
    return [_result(variation, [trials.get(variation.run(seed)) for seed in range(seeds)]) for variation in variations]


def _result(variation: Variation, trials: Sequence[FrozenTrial | None]) -> VariationResult:
    values = {seed: value for seed, trial in enumerate(trials) if (value := _best_value(trial)) is not None}
    notes = [
        f"{variation.run(seed)}: {describe_ending(trial, ', ')}"
        for seed, trial in enumerate(trials)
        if trial is None or trial.state != TrialState.COMPLETE
    ]
    return VariationResult(variation, values, tuple(notes))


def _best_value(trial: FrozenTrial | None) -> float | None:
    """Return the metric at the best epoch; of a run that diverged, at the best epoch before that.

    A failed run has no value: the failure is unrelated to the configuration, and its epochs are not a whole run.
    """
    if trial is None or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return None
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return max(trial.intermediate_values.values(), default=None)


@dataclass(frozen=True)
class CorruptionEvaluator:
    """Measures the best weights of finished runs on corrupted images, each once: results are cached below `cache`."""

    study: optuna.Study
    store: CheckpointStore
    benchmark: Benchmark
    cache: Path

    def evaluate(
        self, results: Sequence[VariationResult], seeds: int, progress: Callable[[int, int], None]
    ) -> list[VariationResult]:
        """Return `results` with the accuracy on the corrupted copy in place of the metric."""
        trials = {trial.params.get(RUN): trial for trial in self.study.get_trials(deepcopy=False)}
        found: list[VariationResult] = []
        for one in results:
            found.append(self._evaluate(one, [trials.get(one.variation.run(seed)) for seed in range(seeds)]))
            progress(len(found), len(results))
        return found

    def _evaluate(self, result: VariationResult, trials: Sequence[FrozenTrial | None]) -> VariationResult:
        """Measure the runs that have a metric; one that diverged may have no weights."""
        values, notes = {}, []
        for seed, trial in enumerate(trials):
            if trial is None or seed not in result.values:
                continue
            try:
                values[seed] = self.accuracy(trial)
            except BundleError:
                if trial.state == TrialState.COMPLETE:
                    raise
                notes.append(f"{result.variation.run(seed)}: its weights are not kept, so it has no corrupted accuracy")
        return replace(result, values=values, notes=(*result.notes, *notes))

    def accuracy(self, trial: FrozenTrial) -> float:
        """Return the accuracy of the trial's best weights; raise BundleError if they are gone."""
        spec = read_spec(self.study)
        path = self.cache / "robustness" / f"{spec.id}-{trial.number}-{TrialRecord.of(trial).training_digest}.json"
        known = _read_accuracy(path)
        if known is not None:
            return known
        checkpoint = read_best(self.store, self.study, trial)
        manifest = trial_manifest(self.study.study_name, spec, trial)
        model = Model(Bundle(path, manifest, {}, checkpoint.files[MODEL]), self.benchmark.device)
        score = self.benchmark.measure_robustness(model).accuracy
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({"version": VERSION, "accuracy": score.value}))
        return score.value


def _read_accuracy(path: Path) -> float | None:
    """Return the cached accuracy; None if there is none, or one of another version of the corruptions."""
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return float(record["accuracy"]) if record["version"] == VERSION else None

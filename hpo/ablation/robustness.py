"""The runs of an ablation on the corrupted copy: what a part is worth where images go wrong, which clean ones hide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.ablation.runs import Seen
from hpo.comparison.bench import Bench
from hpo.delivery.bundle import MODEL, Bundle
from hpo.delivery.export import read_best, trial_manifest
from hpo.delivery.folder import write_file
from hpo.delivery.model import Model
from hpo.errors import BundleError
from hpo.robustness.alterations import VERSION
from search_spaces import RUN
from storage import CheckpointStore, read_spec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

METRIC = "accuracy on the corrupted copy"


@dataclass(frozen=True)
class Examiner:
    """Puts the weights of finished runs on the bench, each once: what was found is remembered below `cache`."""

    study: optuna.Study
    store: CheckpointStore
    bench: Bench
    cache: Path

    def seen(self, runs: Sequence[Seen], seeds: int, told: Callable[[int, int], None]) -> list[Seen]:
        """`runs` with the accuracy on the corrupted copy in place of the metric; `told` of runs done and in all."""
        trials = {trial.params.get(RUN): trial for trial in self.study.get_trials(deepcopy=False)}
        found: list[Seen] = []
        for one in runs:
            found.append(self._examined(one, [trials.get(one.variation.run(seed)) for seed in range(seeds)]))
            told(len(found), len(runs))
        return found

    def _examined(self, one: Seen, trials: Sequence[FrozenTrial | None]) -> Seen:
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
        path = self.cache / "robustness" / f"{spec.id}-{trial.number}-{_digest(trial)}.json"
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


def _digest(trial: FrozenTrial) -> str:
    """Of what the trial recorded of its training: two studies may have one id, and a trial of each one number."""
    recorded = {key: trial.user_attrs.get(key) for key in ("config", "seed", "best_epoch", "best_metrics")}
    return hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]


def _read(path: Path) -> float | None:
    """The accuracy on record; None where there is none, or one of other alterations."""
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return float(record["accuracy"]) if record["version"] == VERSION else None

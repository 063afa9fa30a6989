"""One trial against a real PostgreSQL and the real engine, on tiny images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text

import hpo.search.trial as trial_module
import hpo.search.trial_reporter as reporter_module
from hpo.errors import HubError, InfeasibleError, TrialEnded
from hpo.search.checkpointing import mismatched_best
from hpo.search.plan import set_budget
from hpo.search.strategy import make_pruner
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.trial_record import TrialRecord
from hpo.training import EpochResult, fit
from search_spaces import SearchSpace
from storage import CheckpointError, NoTrial, Worker, claim_trial, expire_leases
from tests.hpo.search.conftest import Bench

pytestmark = pytest.mark.postgres


def test_a_complete_trial_has_all_documented_attributes(bench: Bench, tiny_space: SearchSpace) -> None:
    context = bench.context(tiny_space)
    assert run_trial(context, bench.claim()) is TrialOutcome.COMPLETE
    (trial,) = bench.study.get_trials()
    assert trial.state == TrialState.COMPLETE
    assert trial.params == {"learning_rate": pytest.approx(3e-3)}, "the known-good point comes first"
    assert sorted(trial.intermediate_values) == [1, 2]
    assert trial.value == max(trial.intermediate_values.values())
    attrs = trial.user_attrs
    wanted = {
        "config", "seed", "worker", "versions", "best_epoch", "best_metrics", "seconds", "images_per_second",
        "peak_memory", "device", "precision", "parameters", "trainable_parameters", "facts",
    }  # fmt: skip
    assert wanted <= set(attrs)
    assert attrs["best_metrics"]["accuracy"] == trial.value
    assert attrs["config"]["learning_rate"] == pytest.approx(3e-3)
    assert attrs["seconds"] > 0
    assert attrs["images_per_second"] > 0
    assert attrs["peak_memory"] > 2**20
    assert attrs["device"].startswith("cpu")
    best = context.store.read(0, "best")
    assert best.info["epoch"] == attrs["best_epoch"]
    assert set(best.files) == {"model.safetensors", "logits.npy", "labels.npy"}


def test_an_interrupted_trial_resumes_as_the_same_trial_and_equals_an_uninterrupted_one(
    bench: Bench, tiny_space: SearchSpace
) -> None:
    steps = itertools.count()
    # Asked before each step and each batch of validation, and while the compute format is measured: this falls into
    # the second epoch.
    interrupted = bench.context(tiny_space, stop=lambda: next(steps) >= 15)
    assert run_trial(interrupted, bench.claim()) is TrialOutcome.INTERRUPTED
    (trial,) = bench.study.get_trials()
    assert trial.state == TrialState.WAITING
    first = dict(trial.intermediate_values)
    assert list(first) == [1]

    again = bench.claim()
    assert again.number == 0
    assert again.lease.position > 1
    assert run_trial(bench.context(tiny_space), again) is TrialOutcome.COMPLETE
    (trial,) = bench.study.get_trials()
    assert trial.intermediate_values[1] == first[1]

    bench.study.enqueue_trial({"learning_rate": trial.params["learning_rate"]})
    other = bench.claim()
    with pytest.MonkeyPatch.context() as patch:  # the same seed as trial 0, uninterrupted
        patch.setattr(reporter_module, "derive_seed", lambda *_: trial.user_attrs["seed"])
        run_trial(bench.context(tiny_space), other)
    assert bench.study.get_trials()[1].intermediate_values == trial.intermediate_values


def test_a_trial_that_the_deadline_ends_has_the_value_of_its_best_epoch(bench: Bench, tiny_space: SearchSpace) -> None:
    steps = itertools.count()
    context = bench.context(tiny_space, up=lambda: next(steps) >= 15)
    assert run_trial(context, bench.claim()) is TrialOutcome.COMPLETE
    (trial,) = bench.study.get_trials()
    assert trial.value == trial.intermediate_values[1]
    assert trial.user_attrs["reason"] == "the time was up after epoch 1"
    assert context.store.has(0, "best")


def test_a_deadline_before_the_first_epoch_requeues_the_trial(bench: Bench, tiny_space: SearchSpace) -> None:
    context = bench.context(tiny_space, up=lambda: True)
    assert run_trial(context, bench.claim()) is TrialOutcome.INTERRUPTED
    assert [t.state for t in bench.study.get_trials()] == [TrialState.WAITING]


def _broken_fit(error: Exception) -> Any:
    def fit(*_: object) -> Any:
        raise error
        yield

    return fit


@pytest.mark.parametrize(
    ("error", "outcome", "state", "reason"),
    [
        (
            TrialEnded("the loss is NaN in epoch 1"),
            TrialOutcome.PRUNED,
            TrialState.PRUNED,
            "the loss is NaN in epoch 1",
        ),
        (RuntimeError("no kernel\nmore"), TrialOutcome.FAILED, TrialState.FAIL, "RuntimeError: no kernel"),
        (MemoryError("12 GB"), TrialOutcome.FAILED, TrialState.FAIL, "MemoryError: 12 GB"),
    ],
)
def test_the_reason_that_ends_a_trial_is_recorded(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch,
    error: Exception, outcome: TrialOutcome, state: TrialState, reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(trial_module, "fit", _broken_fit(error))
    assert run_trial(bench.context(tiny_space), bench.claim()) is outcome
    (trial,) = bench.study.get_trials()
    assert (trial.state, trial.user_attrs["reason"]) == (state, reason)


@pytest.mark.parametrize(
    ("error", "constraint"), [(TrialEnded("the loss is NaN"), "diverged"), (InfeasibleError("too large"), "memory")]
)
def test_a_diverged_or_infeasible_trial_violates_a_constraint(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch, error: TrialEnded, constraint: str
) -> None:
    monkeypatch.setattr(trial_module, "fit", _broken_fit(error))
    run_trial(bench.context(tiny_space), bench.claim())
    (trial,) = bench.study.get_trials()
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {constraint: 1.0})


def test_a_trial_that_the_pruner_ends_violates_no_constraint(bench: Bench, tiny_space: SearchSpace) -> None:
    bench.study.pruner = optuna.pruners.ThresholdPruner(lower=1.1)
    assert run_trial(bench.context(tiny_space), bench.claim()) is TrialOutcome.PRUNED
    assert bench.study.get_trials()[0].constraints == {}


def test_a_fault_of_the_disk_is_raised_and_the_trial_is_requeued(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "fit", _broken_fit(CheckpointError("no space left")))
    with pytest.raises(CheckpointError, match="no space left"):
        run_trial(bench.context(tiny_space), bench.claim())
    assert [t.state for t in bench.study.get_trials()] == [TrialState.WAITING]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"learning_rat": 1e-3}, "learning_rat is no parameter of this study; they are learning_rate"),
        ({"epochs": 7}, "epochs is fixed to"),
        ({"learning_rate": 7.0}, "learning_rate is 7.0, but must be in"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_an_invalid_trial_enqueued_by_the_dashboard_fails_with_the_reason(
    bench: Bench, tiny_space: SearchSpace, given: dict[str, Any], expected: str
) -> None:
    """optuna-dashboard checks nothing: optuna ignores an unknown name and accepts a value out of its range."""
    context = bench.context(tiny_space)
    assert run_trial(context, bench.claim()) is TrialOutcome.COMPLETE
    bench.study.enqueue_trial(given)
    assert run_trial(context, bench.claim()) is TrialOutcome.FAILED
    trial = bench.study.get_trials()[1]
    assert trial.state == TrialState.FAIL
    assert expected in trial.user_attrs["reason"]


def test_only_the_best_trials_keep_their_checkpoints(bench: Bench, tiny_space: SearchSpace) -> None:
    context = bench.context(tiny_space)
    for _ in range(4):
        run_trial(context, bench.claim())
    ranked = sorted(bench.study.get_trials(), key=lambda t: (-t.value, t.number))  # type: ignore[operator]
    kept = {n for n in range(4) if context.store.has(n, "best")}
    assert kept == {t.number for t in ranked[:2]}


def test_the_pruner_ends_a_lagging_trial(bench: Bench, tiny_space: SearchSpace) -> None:
    class Always(optuna.pruners.BasePruner):
        def prune(self, study: object, trial: object) -> bool:
            return True

    bench.study.pruner = Always()
    assert run_trial(bench.context(tiny_space), bench.claim()) is TrialOutcome.PRUNED
    (trial,) = bench.study.get_trials()
    assert list(trial.intermediate_values) == [1], "it ends after the first report"
    assert bench.context(tiny_space).store.has(0, "best"), "no better trial needs its place, and a soup may use it"
    assert not bench.context(tiny_space).store.has(0, "latest")


def test_successive_halving_ends_a_trial_that_lags_behind_others(bench: Bench, tiny_space: SearchSpace) -> None:
    bench.study.pruner = make_pruner("successive-halving", 2)
    for _ in range(4):
        other = bench.study.ask()
        for step in (1, 2):
            other.report(0.999, step=step)
            assert not other.should_prune()
        bench.study.tell(other, 0.999)
    assert run_trial(bench.context(tiny_space), bench.claim()) is TrialOutcome.PRUNED
    trial = bench.study.get_trials()[-1]
    assert list(trial.intermediate_values) == [1]
    assert "completed_rung_0" in trial.system_attrs, "the next ones are judged by it too"


def test_epochs_that_an_earlier_attempt_could_not_report_are_reported_by_the_next(
    bench: Bench, tiny_space: SearchSpace
) -> None:
    steps = itertools.count()
    claim = bench.claim()
    interrupted = bench.context(tiny_space, stop=lambda: next(steps) >= 15)
    assert run_trial(interrupted, claim) is TrialOutcome.INTERRUPTED
    (before,) = bench.study.get_trials()
    with bench.db.engine.begin() as connection:  # as if the database had been away for all of the first epoch
        connection.execute(text("DELETE FROM trial_intermediate_values"))
    assert run_trial(bench.context(tiny_space), bench.claim()) is TrialOutcome.COMPLETE
    (after,) = bench.study.get_trials()
    assert sorted(after.intermediate_values) == [1, 2]
    assert after.intermediate_values[1] == before.intermediate_values[1]


def test_a_checkpoint_of_another_version_is_not_resumed(bench: Bench, tiny_space: SearchSpace) -> None:
    steps = itertools.count()
    assert (
        run_trial(bench.context(tiny_space, stop=lambda: next(steps) >= 15), bench.claim()) is TrialOutcome.INTERRUPTED
    )
    context = bench.context(tiny_space)
    old = context.store.read(0, "latest")
    files = {**old.files, "state.json": b'{"version": 1}'}
    context.store.write(0, "latest", files, {}, token=old.token)
    assert run_trial(context, bench.claim()) is TrialOutcome.COMPLETE
    assert sorted(bench.study.get_trials()[0].intermediate_values) == [1, 2]


def test_a_checkpoint_notes_the_trial_that_it_belongs_to(bench: Bench, tiny_space: SearchSpace) -> None:
    context = bench.context(tiny_space)
    assert run_trial(context, bench.claim()) is TrialOutcome.COMPLETE
    (trial,) = bench.study.get_trials()
    noted = context.store.read(0, "best").info
    assert noted["trial"] == {
        "study": bench.study.study_name, "config": trial.user_attrs["config"], "seed": trial.user_attrs["seed"],
    }  # fmt: skip
    record = TrialRecord.of(trial)
    assert mismatched_best(noted, record, "accuracy") is None
    other = replace(record, config={**record.config, "learning_rate": 0.5})
    assert "whose learning_rate is" in (mismatched_best(noted, other, "accuracy") or "")


def test_a_trial_does_not_resume_from_the_checkpoint_of_another(
    bench: Bench, tiny_space: SearchSpace, caplog: pytest.LogCaptureFixture
) -> None:
    """Two studies may have one id, as after `optuna.copy_study`; then their trials of one number share a folder."""
    steps = itertools.count()
    assert (
        run_trial(bench.context(tiny_space, stop=lambda: next(steps) >= 15), bench.claim()) is TrialOutcome.INTERRUPTED
    )
    context = bench.context(tiny_space)
    found = context.store.read(0, "latest")
    origin = {**found.info["trial"], "study": "the other", "seed": 1}
    context.store.write(0, "latest", found.files, {**found.info, "trial": origin}, token=found.token)
    assert run_trial(context, bench.claim()) is TrialOutcome.COMPLETE
    assert "starts anew" in caplog.text
    assert "of a trial of study 'the other' whose seed is 1" in caplog.text


def test_an_unreachable_hub_fails_no_trial(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_module, "fit", _broken_fit(HubError("the hub cannot be reached")))
    with pytest.raises(HubError):
        run_trial(bench.context(tiny_space), bench.claim())
    assert [t.state for t in bench.study.get_trials()] == [TrialState.WAITING]


def test_a_trial_that_kills_its_worker_always_at_the_same_epoch_is_failed(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt resumes after the first epoch: to report that epoch again is no progress."""

    def deadly(*arguments: Any) -> Iterator[EpochResult]:
        with closing(fit(*arguments)) as epochs:
            if arguments[3] is None:
                yield next(epochs)
            raise SystemExit  # like a kill, it skips all that would requeue the trial

    monkeypatch.setattr(trial_module, "fit", deadly)
    set_budget(bench.db, bench.study, 1, None)
    for death in range(3):
        claim = bench.claim()
        assert claim.lease.deaths == death
        with pytest.raises(SystemExit):
            run_trial(bench.context(tiny_space), claim)
        assert expire_leases(bench.db, bench.study, Worker()) == 1
    assert claim_trial(bench.db, bench.study, Worker()) is NoTrial.SPENT
    (trial,) = bench.study.get_trials()
    assert trial.state == TrialState.FAIL
    assert "died 3 times" in trial.user_attrs["reason"]

"""A trial with the parameters of an earlier one: a fresh seed, recorded as a replicate, trained to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from hpo.cli.status import best_line
from hpo.search.plan import set_budget
from hpo.search.status import StudyReader
from hpo.search.trial_record import TrialProgress, TrialRecord
from hpo.search.trial_reporter import TrialReporter
from search_spaces import SearchSpace
from storage import Confirmation, Limits, write_limits
from tests.hpo.search.conftest import Bench

pytestmark = pytest.mark.postgres


class StrictPruner(BasePruner):
    """Ends every trial that it is asked about."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return True


@dataclass(frozen=True)
class Ran:
    """What became of a trial."""

    number: int
    seed: int
    pruned: bool


def run(bench: Bench, space: SearchSpace, accuracy: float = 0.5) -> Ran:
    """Claim, suggest and report one epoch of a trial; complete it even where the pruner would end it."""
    context = bench.context(space)
    claim = bench.claim()
    with TrialReporter(context, claim) as reporter:
        _, seed = reporter.suggest()
        pruned = reporter.report({"1": 0.25}, {"epoch": 1}, last=False)
        progress = TrialProgress("accuracy", 2, {"accuracy": accuracy}, 2, seconds=60.0)
        reporter.tell(progress, TrialState.COMPLETE, None, None)
    return Ran(claim.number, seed, pruned)


def records(bench: Bench) -> list[TrialRecord]:
    return [TrialRecord.of(trial) for trial in bench.study.get_trials(deepcopy=False)]


def test_values_that_were_tried_are_tried_again_with_a_fresh_seed_and_recorded_as_such(
    bench: Bench, tiny_space: SearchSpace
) -> None:
    bench.study.pruner = StrictPruner()
    first = run(bench, tiny_space)  # the point of the space
    bench.study.enqueue_trial({"learning_rate": 3e-3})
    again = run(bench, tiny_space)
    other = run(bench, tiny_space)
    assert (first.pruned, again.pruned, other.pruned) == (True, False, True)
    assert len({first.seed, again.seed, other.seed}) == 3
    assert [record.replicate_of for record in records(bench)] == [None, 0, None]


def test_the_rung_trains_the_best_again_and_the_status_says_what_it_gave(bench: Bench, tiny_space: SearchSpace) -> None:
    write_limits(bench.study, Limits(4, confirm=Confirmation(2)))
    look = StudyReader(bench.db, bench.study)
    for accuracy in (0.5, 0.9):
        run(bench, tiny_space, accuracy)
    assert look().to_dict()["limit"]["confirm"] == 2
    assert "seeds" not in look().to_dict()["best"]
    third, fourth = (run(bench, tiny_space, accuracy) for accuracy in (0.6, 0.7))
    status, trials = look(), bench.study.get_trials(deepcopy=False)
    assert [record.replicate_of for record in records(bench)] == [None, None, 1, 0]
    assert trials[2].params == trials[1].params
    assert third.seed != fourth.seed
    assert status.best is not None
    found: dict[str, Any] = status.to_dict()["best"]
    assert (found["trial"], found["value"], found["seeds"]["trials"]) == (1, 0.9, [1, 2])
    assert found["seeds"]["mean"] == pytest.approx(0.75)
    assert "trial 1: mean of 2 seeds 0.7500 ± " in best_line(status).plain
    assert status.trials[2].to_dict()["replicate_of"] == 1
    assert "replicate_of" not in status.trials[1].to_dict()


def test_a_larger_budget_and_another_number_are_kept_for_the_next_run(bench: Bench) -> None:
    assert set_budget(bench.db, bench.study, 60, None).confirm == Confirmation(3, asked=False), "the default"
    assert set_budget(bench.db, bench.study, None, None, confirm=5).confirm == Confirmation(5)
    assert set_budget(bench.db, bench.study, 70, None).confirm == Confirmation(5)
    assert set_budget(bench.db, bench.study, None, None, confirm=0).confirm.within(70) == 0

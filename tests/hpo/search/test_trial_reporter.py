"""TrialReporter: a trial costs a fixed number of statements, and its sampler sees the finished trials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from hpo.search.plan import set_budget
from hpo.search.strategy import sampler_for_trial
from hpo.search.trial_record import TrialProgress
from hpo.search.trial_reporter import TrialReporter
from hpo.search.worker_context import WorkerContext
from search_spaces import SearchSpace
from storage import Claim, claim_trial
from tests.hpo.search.conftest import Bench

pytestmark = pytest.mark.postgres

STEPS = ("claim", "open", "report", "tell")


@dataclass
class Counter:
    """Counts the statements of each step."""

    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STEPS, 0))
    _step: str | None = None

    @contextmanager
    def counted(self, step: str) -> Iterator[None]:
        self._step = step
        yield
        self._step = None

    def count(self, *_: Any) -> None:
        if self._step is not None:
            self.sent[self._step] += 1


def run_trial(context: WorkerContext, counter: Counter) -> None:
    with counter.counted("claim"):
        claim = claim_trial(context.db, context.study, context.worker)
    assert isinstance(claim, Claim), claim
    progress = TrialProgress("accuracy", 2, {"accuracy": 0.5}, 2, 0.5)
    with TrialReporter(context, claim) as reporter:
        with counter.counted("open"):
            reporter.suggest()
        with counter.counted("report"):
            assert not reporter.report({"1": 0.25}, {"epoch": 1}, last=False)
        with counter.counted("tell"):
            reporter.tell(progress, TrialState.COMPLETE, None, None)


def add_trials(study: optuna.Study, total: int) -> None:
    trial = create_trial(state=TrialState.COMPLETE, value=0.5, intermediate_values={1: 0.5})
    study.add_trials([trial] * (total - len(study.get_trials(deepcopy=False))))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_trial_costs_the_same_few_statements_however_many_there_are(
    bench: Bench, tiny_space: SearchSpace, sampler: str
) -> None:
    set_budget(bench.db, bench.study, 1000, None)
    context = replace(bench.context(tiny_space), sampler=sampler_for_trial(sampler, 0))
    event.listen(bench.db.storage.engine, "before_cursor_execute", (counter := Counter()).count)
    costs = []
    for total in (10, 300):
        add_trials(bench.study, total)
        run_trial(context, counter)  # this one reads the trials that were added
        counter.sent = dict.fromkeys(STEPS, 0)
        run_trial(context, counter)
        costs.append(dict(counter.sent))
    assert costs[0] == costs[1]
    assert sum(costs[0].values()) <= 75, costs[0]


def test_a_sampler_sees_trials_that_finished_since_the_last_trial(bench: Bench, tiny_space: SearchSpace) -> None:
    seen: list[int] = []

    class RecordingSampler(RandomSampler):
        """Reads the study as TPE does, from the cache that optuna keeps during a trial."""

        def sample_relative(self, study: optuna.Study, *_: Any) -> dict[str, Any]:
            seen.append(len(study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)))
            return {}

    context = replace(bench.context(tiny_space), sampler=lambda _: RecordingSampler())
    for _ in range(4):
        run_trial(context, Counter())
    assert seen == [1, 2, 3], "the first trial is the point of the space: nothing is proposed for it"

"""`--until-converged`: a flat search ends, a climbing one does not, and all workers obey."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.cli.noise_text import converged_line
from hpo.search.convergence import FEWEST_TRIALS, ConvergenceCheck, convergence_of
from hpo.search.noise import NoiseReader
from hpo.search.plan import set_budget
from hpo.search.status import StudyReader
from hpo.search.trial_record import TrialProgress, TrialRecord, final_attributes, outcome_attributes, probe_attributes
from hpo.search.worker import _claim_next_trial
from search_spaces import SearchSpace
from storage import Convergence, Limits, NoTrial, Worker, claim_trial, end_converged, read_limits
from storage.studies import LIMITS, limits_from
from tests.hpo.search.conftest import Bench
from tests.hpo.search.test_noise import outcomes, trial
from tests.hpo.search.test_status import line, status


def study(values: list[float | None]) -> list[FrozenTrial]:
    """Return trials with these values; None is one that was pruned at 0.5."""
    return [
        trial(number, 0.5, TrialState.PRUNED) if value is None else trial(number, round(float(value), 3))
        for number, value in enumerate(values)
    ]


def converged(values: list[float | None], most: int | None = 100) -> Convergence | None:
    return convergence_of(study(values), most, NoiseReader("accuracy", 0.0))


def flat(count: int, seed: int = 0) -> list[float | None]:
    rng = np.random.default_rng(seed)
    return [None if number % 3 == 2 else 0.9 + 0.008 * rng.normal() for number in range(count)]


def climbing(count: int, step: float = 0.008) -> list[float | None]:
    return [None if number % 3 == 2 else 0.5 + step * number for number in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_a_flat_search_has_converged_and_a_climbing_one_has_not(seed: int) -> None:
    found = converged(flat(24, seed))
    assert found is not None
    assert found.trials == 24
    assert 0 <= found.gain < found.error
    assert converged(climbing(24 + seed)) is None


def test_a_search_that_has_just_found_something_better_goes_on() -> None:
    assert converged([*flat(23), 0.96]) is None
    assert converged([*flat(12)[:11], 0.96, *flat(12)]) is not None, "but not for ever"


def test_a_search_that_stopped_climbing_has_converged() -> None:
    assert converged([*climbing(20, 0.02), *flat(30)]) is not None


def test_a_search_that_will_not_reach_the_frozen_probe_has_converged() -> None:
    slow = study(climbing(24))
    assert convergence_of(slow, 100, NoiseReader("accuracy", 0.0)) is None
    for value, expected in ((0.95, True), (0.7, False)):
        probe = create_trial(value=value, user_attrs=probe_attributes("resnet18"))
        probe.number = 24
        assert (convergence_of([*slow, probe], 100, NoiseReader("accuracy", 0.0)) is not None) is expected


def test_nothing_is_judged_before_there_are_enough_trials() -> None:
    assert converged(flat(FEWEST_TRIALS - 1)) is None
    assert converged([None] * 20 + [0.9, 0.9]) is None


def test_nothing_is_judged_at_the_limit_nor_while_a_trial_waits() -> None:
    trials = study(flat(24))
    reader = NoiseReader("accuracy", 0.0)
    assert convergence_of(trials, 24, reader) is None
    assert convergence_of(trials, None, reader) is not None
    waiting = create_trial(state=TrialState.WAITING)
    waiting.number = 24
    assert convergence_of([*trials, waiting], 100, reader) is None


def test_trials_of_an_earlier_version_are_not_judged() -> None:
    old = [trial(number, 0.9, kept=False) for number in range(24)]
    assert convergence_of(old, 100, NoiseReader("accuracy", 0.0)) is None


def finish(bench: Bench, values: list[float | None]) -> None:
    """Tell trials with these values, as a worker does."""
    for number, value in enumerate(values):
        one, right = bench.study.ask(), 0.5 if value is None else round(float(value), 3)
        progress = TrialProgress("accuracy", best_metrics={"accuracy": right})
        progress.keep_outcomes(outcomes(right, number))
        for key, attribute in final_attributes(progress).items():
            one.set_user_attr(key, attribute)
        for key, attribute in outcome_attributes(progress).items():
            bench.study._storage.set_trial_system_attr(one._trial_id, key, attribute)
        bench.study.tell(one, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)


@pytest.mark.postgres
def test_a_converged_study_gives_out_no_trial_until_it_is_told_to_go_on(bench: Bench, tiny_space: SearchSpace) -> None:
    finish(bench, flat(FEWEST_TRIALS))
    check = ConvergenceCheck(bench.db, bench.study, "accuracy", 0.0)
    assert set_budget(bench.db, bench.study, 40, None) == check(), "it was not asked to"
    assert end_converged(bench.db, bench.study, Convergence(16, 0.0, 0.1)).converged is None
    set_budget(bench.db, bench.study, None, None, until_converged=True, confirm=0)
    assert _claim_next_trial(bench.context(tiny_space), check) is None, "a worker decides, and leaves"
    found = read_limits(bench.study).converged
    assert found is not None
    assert found.trials == FEWEST_TRIALS
    assert claim_trial(bench.db, bench.study, Worker(device="cpu")) is NoTrial.SPENT
    assert set_budget(bench.db, bench.study, None, None, confirm=1).converged == found
    number = bench.claim().number
    assert TrialRecord.of(bench.study.get_trials()[number]).replicate_of is not None
    shown = StudyReader(bench.db, bench.study)()
    assert shown.to_dict()["converged"] == {"trials": 16, "gain": found.gain, "error": found.error}
    assert converged_line(shown).startswith("converged after 16 of 40 trials: further ones are expected to gain 0.00")
    assert set_budget(bench.db, bench.study, None, None).converged == found, "the same command keeps it"
    assert set_budget(bench.db, bench.study, None, None, until_converged=True).converged == found
    lifted = set_budget(bench.db, bench.study, None, None, until_converged=False)
    assert (lifted.until_converged, lifted.converged) == (False, None)
    assert check() == lifted
    bench.claim()


@pytest.mark.postgres
def test_the_first_worker_that_sees_it_decides(bench: Bench) -> None:
    set_budget(bench.db, bench.study, 40, None, until_converged=True)
    first, second = Convergence(24, 0.001, 0.002), Convergence(25, 0.0009, 0.002)
    assert end_converged(bench.db, bench.study, first).converged == first
    assert end_converged(bench.db, bench.study, second).converged == first
    assert read_limits(bench.study).converged == first


@pytest.mark.postgres
def test_limits_of_earlier_versions_are_read_and_written_as_they_were(bench: Bench) -> None:
    set_budget(bench.db, bench.study, 12, None)
    assert not {"until_converged", "converged"} & bench.study.user_attrs[LIMITS].keys()
    assert limits_from({"trials": 12, "deadline": None, "run": None}) == Limits(12)


def test_a_study_that_has_not_converged_says_nothing() -> None:
    assert converged_line(status(line(0))) == ""
    ended = replace(status(line(0)), limits=Limits(None, converged=Convergence(23, 0.0004, 0.0021)))
    assert converged_line(ended) == (
        "converged after 23 trials: further ones are expected to gain 0.0004 together, the standard error is 0.0021; "
        "`hpo run` with --no-until-converged goes on"
    )


@pytest.mark.postgres
def test_what_could_not_be_written_is_judged_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OSError("away")

    finish(bench, flat(FEWEST_TRIALS))
    set_budget(bench.db, bench.study, 40, None, until_converged=True)
    check = ConvergenceCheck(bench.db, bench.study, "accuracy", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("hpo.search.convergence.end_converged", away)
        with pytest.raises(OSError, match="away"):
            check()
    assert check().converged is not None

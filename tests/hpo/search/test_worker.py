"""A worker at a study: its checkpoints, and its end when trial after trial fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler

from hpo.errors import HpoError
from hpo.search.plan import set_budget
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.worker import WorkerOptions, work
from search_spaces import SearchSpace
from storage import (
    DatabaseUnavailableError,
    StoreUnavailableError,
    StudyError,
    lease_infos,
    open_store,
    open_study,
    read_spec,
)
from tests.hpo.search.conftest import Bench

pytestmark = pytest.mark.postgres


def options(bench: Bench, study: str = "tiny") -> WorkerOptions:
    return WorkerOptions(
        data=bench.cells, study=study, cache=bench.folder / "cache", artifacts=bench.folder / "artifacts",
        device="cpu", db_grace=5.0,
    )  # fmt: skip


def copied(bench: Bench, name: str) -> optuna.Study:
    storage = bench.db.storage
    optuna.copy_study(from_study_name="tiny", from_storage=storage, to_storage=storage, to_study_name=name)
    return open_study(bench.db, name)


def test_a_copied_study_writes_and_frees_checkpoints_in_a_folder_of_its_own(bench: Bench) -> None:
    set_budget(bench.db, bench.study, 1, None)
    assert work(bench.db, options(bench)).finished == 1
    first = open_store(bench.folder / "artifacts", read_spec(bench.study).id)
    before = {(trial, first.read(trial, "best").name) for trial in first.trials()}
    copy = copied(bench, "copy")
    set_budget(bench.db, copy, 2, None)
    assert work(bench.db, options(bench, "copy")).finished == 1
    second = open_store(bench.folder / "artifacts", read_spec(copy).id)
    assert second.place != first.place
    assert {(trial, first.read(trial, "best").name) for trial in first.trials()} == before
    assert second.trials() == {1}


def test_a_waiting_trial_of_a_copy_begins_anew_rather_than_from_the_checkpoint_of_the_first(bench: Bench) -> None:
    open_store(bench.folder / "artifacts", read_spec(bench.study).id).write(0, "latest", {"state.json": b"its"}, {})
    copy = copied(bench, "copy")
    set_budget(bench.db, copy, 1, None)
    assert work(bench.db, options(bench, "copy")).finished == 1
    (trial,) = copy.get_trials()
    assert sorted(trial.intermediate_values) == [1, 2]


def test_a_study_restored_beside_its_original_does_not_write_among_its_checkpoints(
    bench: Bench, restored: Bench
) -> None:
    set_budget(bench.db, bench.study, 1, None)
    work(bench.db, options(bench))
    with pytest.raises(StudyError, match="belong to a study in another database"):
        work(restored.db, options(restored))
    assert [trial.state.name for trial in restored.study.get_trials()] == ["WAITING"], "no trial was spent"


def test_an_unreachable_store_ends_a_new_worker_at_once_and_is_waited_for_between_two_trials(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of an isolated worker's next trial waits as a worker without isolation does."""
    set_budget(bench.db, bench.study, 1, None)
    monkeypatch.setattr("hpo.search.trial.FULL_DISK_PAUSE", 0.1)
    away = bench.folder / "artifacts" / read_spec(bench.study).id
    away.parent.mkdir()
    away.touch()  # a file, so it cannot be listed
    with pytest.raises(StoreUnavailableError):
        work(bench.db, options(bench))
    assert not lease_infos(bench.db, bench.study)

    def return_once_awaited() -> None:
        while not any((held.note or "").startswith("waits") for held in lease_infos(bench.db, bench.study)):
            time.sleep(0.05)
        away.unlink()

    returning = threading.Thread(target=return_once_awaited, daemon=True)
    returning.start()
    known = replace(options(bench), artifacts_checked=True, lease=2.0)
    assert work(bench.db, known, most=1).finished == 1
    returning.join()


def test_garbage_collection_does_not_delay_the_renewal_of_a_lease() -> None:
    code = (
        "import gc, time, hpo.search.worker as worker; worker.exempt_loaded_from_collection(); "
        "begun = time.thread_time(); gc.collect(); print(time.thread_time() - begun, gc.get_freeze_count())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, exempted = answer.stdout.split()
    assert float(seconds) < 0.05  # 0.2 and more with everything that a worker imports
    assert int(exempted) > 100_000


class Broken(RandomSampler):
    """A sampler with a bug in one of its methods."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(seed=0)
        setattr(self, where, self._fail)
        self._error = error

    def _fail(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize("error", [KeyError("lr"), ValueError("no such bound"), ZeroDivisionError()])
@pytest.mark.parametrize(
    "where", ["before_trial", "infer_relative_search_space", "sample_relative", "sample_independent"]
)
def test_an_exception_of_a_sampler_fails_the_trial_and_five_in_a_row_end_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    monkeypatch.setattr("hpo.search.worker.sampler_for_trial", lambda *_: lambda _: Broken(where, error))
    bench.study.tell(bench.claim().number, 0.5)  # the point of the space, for which nothing is sampled
    with pytest.raises(HpoError, match="5 trials failed one after another"):
        work(bench.db, options(bench))
    trials = bench.study.get_trials()[1:]
    assert [trial.state.name for trial in trials] == ["FAIL"] * 5
    assert {trial.user_attrs["reason"].partition(":")[0] for trial in trials} == {type(error).__name__}
    with pytest.raises(HpoError, match="5 trials failed one after another"):
        work(bench.db, options(bench))
    assert len(bench.study.get_trials()) == 7, "the next worker spends one trial, and takes none of these again"


def test_an_exception_of_the_pruner_fails_the_trial(bench: Bench, tiny_space: SearchSpace) -> None:
    class BrokenPruner(BasePruner):
        """A pruner with a bug."""

        def prune(self, *_: object) -> bool:
            raise KeyError("rung")

    bench.study.pruner = BrokenPruner()
    assert run_trial(bench.context(tiny_space), bench.claim()) is TrialOutcome.FAILED
    (trial,) = bench.study.get_trials()
    assert (trial.state.name, trial.user_attrs["reason"]) == ("FAIL", "KeyError: 'rung'")


def test_a_stop_during_sampling_requeues_the_trial(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    thinking, done = threading.Event(), threading.Event()

    class SlowSampler(RandomSampler):
        """A sampler that takes longer than a stopping worker waits."""

        def before_trial(self, *_: object) -> None:
            thinking.set()
            done.wait(30)

    monkeypatch.setattr("storage.retry.LEAVING", 0.2)
    context = replace(bench.context(tiny_space, stop=thinking.is_set), sampler=lambda _: SlowSampler())
    try:
        with pytest.raises(DatabaseUnavailableError, match="what was under way did not end before this worker had to"):
            run_trial(context, bench.claim())
        assert [trial.state.name for trial in bench.study.get_trials()] == ["WAITING"]
    finally:
        done.set()

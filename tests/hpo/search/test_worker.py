"""A worker's life on a study: whose checkpoints it writes, and what becomes of it when trial after trial fails."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest

from hpo.search.plan import set_budget
from hpo.search.worker import WorkerOptions, work
from storage import StudyError, open_store, open_study, read_spec
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


def test_a_copy_trains_and_tidies_in_a_folder_of_its_own(bench: Bench) -> None:
    set_budget(bench.db, bench.study, 1, None)
    assert work(bench.db, options(bench)) == 1
    first = open_store(bench.folder / "artifacts", read_spec(bench.study).id)
    before = {(trial, first.read(trial, "best").name) for trial in first.trials()}
    copy = copied(bench, "copy")
    set_budget(bench.db, copy, 2, None)
    assert work(bench.db, options(bench, "copy")) == 1
    second = open_store(bench.folder / "artifacts", read_spec(copy).id)
    assert second.place != first.place
    assert {(trial, first.read(trial, "best").name) for trial in first.trials()} == before
    assert second.trials() == {1}


def test_a_waiting_trial_of_a_copy_begins_anew_rather_than_from_the_checkpoint_of_the_first(bench: Bench) -> None:
    open_store(bench.folder / "artifacts", read_spec(bench.study).id).write(0, "latest", {"state.json": b"its"}, {})
    copy = copied(bench, "copy")
    set_budget(bench.db, copy, 1, None)
    assert work(bench.db, options(bench, "copy")) == 1
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


def test_collecting_garbage_does_not_hold_up_the_renewal_of_a_lease() -> None:
    code = (
        "import gc, time, hpo.search.worker as worker; worker.exempt_loaded_from_collection(); "
        "begun = time.thread_time(); gc.collect(); print(time.thread_time() - begun, gc.get_freeze_count())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, exempted = answer.stdout.split()
    assert float(seconds) < 0.05  # 0.2 and more with everything that a worker imports
    assert int(exempted) > 100_000

"""`hpo gc`: it frees what no kept trial needs, and nothing that a trial may resume from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from click.testing import Result

from storage import (
    CheckpointStore,
    Claim,
    Database,
    Worker,
    claim_files,
    claim_trial,
    open_database,
    open_store,
    read_spec,
)
from tests.conftest import TcpServer

pytestmark = pytest.mark.postgres
Here = Callable[..., Result]
VALUES = (0.5, 0.9, 0.7)


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return request.getfixturevalue("s3_root") if request.param == "s3" else tmp_path / "artifacts"


@pytest.fixture
def store(database: Database, bare_study: optuna.Study, root: Path | str) -> CheckpointStore:
    """Checkpoints of three finished trials, one that runs and one that waits."""
    store = open_store(root, read_spec(bare_study).id)
    for value in VALUES:
        number = claimed(database, bare_study)
        write(store, number)
        bare_study.tell(number, value)
    for _ in range(2):
        write(store, claimed(database, bare_study))
    last = bare_study.get_trials(deepcopy=False)[-1]
    bare_study._storage.set_trial_state_values(last._trial_id, optuna.trial.TrialState.WAITING)
    return store


def claimed(database: Database, study: optuna.Study) -> int:
    found = claim_trial(database, study, Worker())
    assert isinstance(found, Claim)
    return found.number


def write(store: CheckpointStore, trial: int) -> None:
    store.write(trial, "best", {"model.safetensors": bytes(1000)}, {})
    store.write(trial, "latest", {"resume.safetensors": bytes(3000)}, {})


def has(store: CheckpointStore) -> dict[int, str]:
    """Return `bl`, `b` or `l` for each trial that has checkpoints: best, latest."""
    return {
        trial: "".join(kind[0] for kind in ("best", "latest") if store.has(trial, kind))  # type: ignore[arg-type]
        for trial in sorted(store.trials())
    }


def test_the_best_keep_their_weights_and_the_unfinished_everything(
    here: Here, store: CheckpointStore, root: Path | str
) -> None:
    arguments = ("gc", "--study", "bare", "--keep", "1", "--artifacts", str(root))
    before = has(store)
    outcome = here(*arguments, "--dry-run")
    assert outcome.exit_code == 0, outcome.output
    assert "would be freed" in outcome.stdout
    assert has(store) == before == dict.fromkeys(range(5), "bl")

    done = here(*arguments)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[0].isdigit()]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert " ".join(rows[0][1:-2]) == "weights of its best epoch, state to go on from"
    assert " ".join(rows[1][1:-2]) == "state to go on from"
    assert has(store) == {1: "b", 3: "bl", 4: "bl"}
    assert here(*arguments).stdout.startswith("nothing to free: ")


def test_the_total_equals_the_space_that_is_freed(here: Here, store: CheckpointStore, root: Path | str) -> None:
    before = store.usage()
    done = here("gc", "--study", "bare", "--keep", "1", "--artifacts", str(root))
    freed = float(done.stdout.splitlines()[-1].split()[-2])  # in kB, to two figures
    assert freed == pytest.approx((before - store.usage()) / 1000, abs=0.01)


def test_folders_of_other_studies_are_removed_only_with_orphans_and_yes(
    here: Here, store: CheckpointStore, root: Path | str
) -> None:
    other = open_store(root, "other-0123abcd")
    write(other, 0)
    arguments = ("gc", "--study", "bare", "--artifacts", str(root), "--orphans")
    asked = here(*arguments)
    assert asked.exit_code == 2
    assert "--yes removes them" in asked.stderr
    assert "other-0123abcd" in asked.stdout
    assert here(*arguments, "--yes", "--dry-run").exit_code == 0
    assert other.trials() == {0}
    assert here(*arguments, "--yes").exit_code == 0
    assert other.trials() == set()
    assert 3 in store.trials(), "the study's own folder stays"
    assert "is in this database" in here(*arguments).stdout


def test_a_study_that_cannot_be_read_keeps_its_files(
    here: Here, store: CheckpointStore, root: Path | str, database: Database
) -> None:
    later = optuna.create_study(study_name="later", storage=database.storage)
    later.set_user_attr("hpo:spec", {"version": 99})
    write(open_store(root, "later-0123abcd"), 0)
    result = here("gc", "--study", "bare", "--artifacts", str(root), "--orphans", "--yes")
    assert result.exit_code == 2
    assert "cannot tell whose files are whose" in result.stderr
    assert open_store(root, "later-0123abcd").trials() == {0}


def copy_with_another_best(study: optuna.Study) -> optuna.Study:
    """Return a copy of the study by optuna, in which trial 0 is the best: its checkpoints are those of the first."""
    storage = study._storage
    optuna.copy_study(from_study_name="bare", from_storage=storage, to_storage=storage, to_study_name="copy")
    copy = optuna.load_study(study_name="copy", storage=storage)
    best = copy.get_trials(deepcopy=False)[0]
    with storage._backend.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE trial_values SET value = 0.99 WHERE trial_id = {best._trial_id}")
    return copy


@pytest.mark.parametrize("name", ["bare", "copy"])
def test_gc_of_a_study_removes_nothing_that_a_copy_with_the_same_id_keeps(
    here: Here, store: CheckpointStore, root: Path | str, bare_study: optuna.Study, name: str
) -> None:
    copy_with_another_best(bare_study)
    done = here("gc", "--study", name, "--keep", "1", "--artifacts", str(root))
    assert done.exit_code == 0, done.output
    assert store.has(0, "best"), "the best of the copy"
    assert store.has(1, "best"), "the best of the first"
    assert not store.has(2, "best")
    assert store.trials() >= {3, 4}, "what runs or waits in either"


def test_gc_on_the_checkpoints_of_another_database_is_refused(
    here: Here, database: Database, bare_study: optuna.Study, tmp_path: Path, tcp_server: TcpServer
) -> None:
    study_id = read_spec(bare_study).id
    with open_database(tcp_server.url(), home=tmp_path) as other:
        claim_files(other, tmp_path / "artifacts", study_id)
    store = open_store(tmp_path / "artifacts", study_id)
    write(store, 0)
    bare_study.tell(claimed(database, bare_study), 0.5)
    done = here("gc", "--study", "bare", "--keep", "1", "--artifacts", str(tmp_path / "artifacts"))
    assert done.exit_code == 2
    assert "belong to a study in another database" in done.stderr
    assert has(store) == {0: "bl"}

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import pytest

from storage import Claim, Database, EmbeddedServer, Limits, StudySpec, Worker, claim_trial, stop_embedded
from tests.conftest import free_port

AtOnce = Callable[..., list[Any]]
"""`at_once(count, function, *arguments)` -> what each process returned, or the exception that it raised."""


def claimed(
    database: Database, study: optuna.Study, worker: Worker | None = None, limits: Limits | None = None
) -> Claim:
    """Claim the next trial of a study that has one."""
    claim = claim_trial(database, study, worker or Worker(), limits)
    assert isinstance(claim, Claim), claim
    return claim


@pytest.fixture(scope="session")
def at_once() -> AtOnce:
    """Call a function in several real processes at the same moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["storage.database", "storage.lease_session"])

    def run(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        barrier, results = context.Barrier(count), context.Queue()
        processes = [
            context.Process(target=_one_of_many, args=(barrier, results, function, arguments)) for _ in range(count)
        ]
        for process in processes:
            process.start()
        outcomes = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(timeout=60)
        return outcomes

    return run


def _one_of_many(barrier: Any, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    barrier.wait(timeout=60)
    try:
        results.put(function(*arguments))
    except Exception as error:  # noqa: BLE001 - the test judges it
        results.put(error)


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Yield a folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of a server that was started once, copied by most tests."""
    home = tmp_path_factory.mktemp("prepared")
    EmbeddedServer.join(home).leave()
    return home / "postgres"


@pytest.fixture
def empty_home(short_folder: Path) -> Iterator[Path]:
    home = short_folder / ".hpo"
    yield home
    stop_embedded(home)


@pytest.fixture
def furnish(prepared: Path) -> Callable[[Path], Path]:
    """Make a folder the home of a server that was started before."""

    def furnish(home: Path) -> Path:
        home.mkdir(parents=True)
        subprocess.run(["cp", "-a", str(prepared), str(home / "postgres")], check=True)
        return home

    return furnish


@pytest.fixture
def home(empty_home: Path, furnish: Callable[[Path], Path]) -> Path:
    return furnish(empty_home)


@pytest.fixture
def spec() -> StudySpec:
    return StudySpec(
        space={
            "name": "quick",
            "fixed": {"epochs": 8},
            "dimensions": {"learning_rate": [{"type": "float", "low": 1e-4, "high": 0.1, "log": True}]},
        },
        space_fingerprint="5" * 64,
        data={
            "classes": ["a", "b"],
            "counts": {"train": 80, "val": 10, "test": 10},
            "split": "stratified",
            "seed": 0,
            "val_fraction": 0.1,
            "test_fraction": 0.1,
            "max_unreadable": 0.05,
        },
        data_fingerprint="d" * 64,
        metric="accuracy",
        seed=0,
        weights_digest=None,
        sampler="tpe",
        pruner="successive-halving",
    )


@pytest.fixture
def sessions(database: Database) -> Callable[[], int]:
    """Count the open connections of the database, except the one that counts."""

    def count() -> int:
        with psycopg2.connect(**_libpq(database), application_name="counter") as connection:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'hpo'"
            )
            row = cursor.fetchone()
        connection.close()
        return int(row[0])

    return count


def _libpq(database: Database) -> dict[str, str]:
    return {"dbname": str(database.url.database), "user": str(database.url.username), **database.url.query}  # type: ignore[dict-item]

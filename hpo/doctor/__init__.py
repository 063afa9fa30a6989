"""The checks of `hpo doctor`: whether this machine, the database and a study are fit to work.

The checks are independent: a database that does not answer is one line, and the rest is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hpo.doctor.check import Check, failed, passed
from hpo.doctor.machine import check_devices, check_location, check_python, check_torch, check_versions
from hpo.doctor.study import check_data, check_database, check_study
from storage import Database, StorageError, open_database

__all__ = ["Check", "DoctorTargets", "run_checks"]


@dataclass(frozen=True)
class DoctorTargets:
    """The machine, folders, database, study and data that are checked."""

    home: Path
    artifacts: Path | str
    cache: Path
    device: str = "auto"
    storage: str | None = None
    """The URL of the database; None is the embedded one in `home`."""
    study: str | None = None
    data: Path | None = None


def run_checks(targets: DoctorTargets) -> Iterator[Check]:
    """Yield one Check after another as they are made. Nothing stays behind on the disk or in the database."""
    yield check_python()
    yield check_versions()
    torch = check_torch()
    yield torch
    if torch.ok:
        yield from check_devices(targets.device)
    yield check_location("home", "--home", targets.home)
    yield check_location("artifacts", "--artifacts", targets.artifacts)
    yield from _check_database_and_study(targets)


def _check_database_and_study(targets: DoctorTargets) -> Iterator[Check]:
    if targets.storage is None and not (targets.home / "postgres").exists():
        yield passed("database", f"none in {targets.home} yet: the first `hpo run` or `hpo init` makes it")
        yield from _without_database(targets)
        return
    try:
        db = open_database(targets.storage, home=targets.home, start_timeout=0.0)
    except StorageError as error:
        yield failed("database", error)
        yield from _without_database(targets)
        return
    with closing(db):
        yield from _with_database(targets, db)


def _with_database(targets: DoctorTargets, db: Database) -> Iterator[Check]:
    yield from check_database(db)
    if targets.study is not None:
        yield from check_study(db, targets.study)
    if targets.data is not None:
        yield check_data(targets.data, db, targets.study, targets.cache)


def _without_database(targets: DoctorTargets) -> Iterator[Check]:
    if targets.study is not None:
        yield failed("study", f"of {targets.study} nothing is known without its database")
    if targets.data is not None:
        yield check_data(targets.data, None, None, targets.cache)

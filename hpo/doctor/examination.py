"""All looks in order, each whatever the others found: a dead database is one line, and the rest is still looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hpo.doctor.check import Check, amiss, well
from hpo.doctor.machine import check_devices, check_place, check_python, check_torch, check_versions
from hpo.doctor.study import check_data, check_database, check_study
from storage import Database, StorageError, open_database


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    home: Path
    artifacts: Path | str
    cache: Path
    device: str = "auto"
    storage: str | None = None
    """URL of the database; None is the embedded one in `home`."""
    study: str | None = None
    data: Path | None = None


def examine(subject: Subject) -> Iterator[Check]:
    """One Check after another, as they are made; nothing stays behind on disk or in the database."""
    yield check_python()
    yield check_versions()
    torch = check_torch()
    yield torch
    if torch.ok:
        yield from check_devices(subject.device)
    yield check_place("home", "--home", subject.home)
    yield check_place("artifacts", "--artifacts", subject.artifacts)
    yield from _around_database(subject)


def _around_database(subject: Subject) -> Iterator[Check]:
    if subject.storage is None and not (subject.home / "postgres").exists():
        yield well("database", f"none in {subject.home} yet: the first `hpo run` or `hpo init` makes it")
        yield from _without_database(subject)
        return
    try:
        db = open_database(subject.storage, home=subject.home, start_timeout=0.0)
    except StorageError as error:
        yield amiss("database", error)
        yield from _without_database(subject)
        return
    with closing(db):
        yield from _with_database(subject, db)


def _with_database(subject: Subject, db: Database) -> Iterator[Check]:
    yield from check_database(db)
    if subject.study is not None:
        yield from check_study(db, subject.study)
    if subject.data is not None:
        yield check_data(subject.data, db, subject.study, subject.cache)


def _without_database(subject: Subject) -> Iterator[Check]:
    if subject.study is not None:
        yield amiss("study", f"of {subject.study} nothing is known without its database")
    if subject.data is not None:
        yield check_data(subject.data, None, None, subject.cache)

"""From the options `--storage`, `--home`, `--artifacts` to an open database, study and folders; and the log's level."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.errors import UsageError

if TYPE_CHECKING:
    import optuna

    from storage import Database


PASSWORD_FILE = "HPO_STORAGE_PASSWORD_FILE"  # noqa: S105 - the name of a variable, not a password


STARTING = 30.0
"""Seconds that a command which starts a run waits for a server that is still starting, as under compose."""


@contextmanager
def connected(
    storage: str | None, home: Path, *, initialise: bool = False, create: bool | None = None, start_timeout: float = 0.0
) -> Iterator[Database]:
    """Open the database, and create its tables when `initialise`; the password may come from a file (a secret).

    Where there is no database under `home`, one is made when `create`, which defaults to `initialise`: a command that
    only reads studies makes no folder for them.
    """
    from storage import open_database, quiet_optuna

    quiet_optuna()
    create = initialise if create is None else create
    with open_database(with_password(storage), home=home, start_timeout=start_timeout, create=create) as db:
        if initialise:
            db.initialise()
        yield db


@contextmanager
def connected_study(storage: str | None, home: Path, study: str) -> Iterator[tuple[Database, optuna.Study]]:
    """Open the database and its study; StudyError where there is none, StorageError for tables of another version."""
    with connected(storage, home) as db:
        from storage import open_study

        found = open_study(db, study)
        db.require_schema()
        yield db, found


def with_password(storage: str | None) -> str | None:
    """Return `storage` with the password from the file that HPO_STORAGE_PASSWORD_FILE names, where it has none itself.

    The file is one line of UTF-8 text, with or without a line end; UsageError for any other.
    """
    path = os.environ.get(PASSWORD_FILE)
    if storage is None or not path:
        return storage
    from storage import give_password

    try:
        password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"{PASSWORD_FILE} names {path}, which cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{PASSWORD_FILE} names {path}, which is not UTF-8 text; write it as UTF-8") from None
    if not password or not password.isprintable():
        wrong = "holds more than one line, or a character that no keyboard has" if password else "is empty"
        raise UsageError(f"{PASSWORD_FILE} names {path}, which {wrong}; it must be one line, the password")
    return give_password(storage, password)


def artifacts_folder(artifacts: Path | str | None, home: Path) -> Path | str:
    """Return where checkpoints are: an absolute folder, or an s3:// URL."""
    if isinstance(artifacts, str):
        return artifacts
    return (artifacts if artifacts is not None else home / "artifacts").resolve()


def require_artifacts(root: Path | str) -> None:
    """Raise UsageError where `root`, of `artifacts_folder`, is a folder that does not exist."""
    if isinstance(root, Path) and not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the --artifacts of the workers")


def cache_folder(home: Path) -> Path:
    """Return the folder of packed images and measured speeds."""
    return home / "cache"


def verbosity() -> int:
    """Return the level of the log: in detail with --debug."""
    return logging.DEBUG if click.get_current_context().meta.get("hpo.debug") else logging.INFO

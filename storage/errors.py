"""Errors of this package.

    StorageError                 anything below
    ├── DatabaseUnavailableError   the server cannot be reached, refuses the connection, or fails now
    │   └── ConflictError            a transaction conflicted with other sessions, and may be run again
    ├── StudyError                 a study is missing, or was made with other options than requested
    │   └── StudyGoneError           it was deleted meanwhile
    ├── LeaseLostError             another worker holds the trial now
    └── CheckpointError            a checkpoint is missing, damaged, or cannot be written
        ├── DiskFullError            the disk is full, or the quota is used up
        └── StoreUnavailableError    the checkpoint store does not answer, so its content is not known

A message is one line: the value, the rule, the way out. No message holds a password.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of every error that this package raises."""


class DatabaseUnavailableError(StorageError):
    """The database server cannot be reached, refuses the connection, or fails now."""

    passes = True
    """Whether it may pass by itself, so that a retry may help."""


class ConflictError(DatabaseUnavailableError):
    """PostgreSQL rolled back a transaction because of a deadlock or a serialisation failure."""


class StudyError(StorageError):
    """A study is missing, was deleted meanwhile, or exists with other options than requested."""


class StudyGoneError(StudyError, KeyError):
    """A study was deleted or renamed meanwhile. Optuna and its dashboard expect a KeyError for that."""

    def __init__(self) -> None:
        super().__init__(
            "the study is gone: it was deleted or renamed meanwhile; give its present name with --study, "
            "or make it anew with `hpo run`"
        )

    __str__ = Exception.__str__  # a KeyError would show the message in quotation marks


class CheckpointError(StorageError):
    """A checkpoint is missing, fails its checksum, or cannot be written."""


class DiskFullError(CheckpointError):
    """The disk or the quota has no room for a checkpoint; that may change."""


class StoreUnavailableError(CheckpointError):
    """The checkpoint store cannot be read now, so its content is not known; that may change."""


class LeaseLostError(StorageError):
    """Another worker holds the trial now, or it is finished: no further write for it is accepted."""

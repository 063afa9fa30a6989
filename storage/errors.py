"""Errors of what is remembered.

    StorageError                 anything below
    ├── DatabaseUnavailableError   the server is not there, refuses us, or cannot do it now
    │   └── ConflictError            other sessions were in the way of a transaction, which may be run again
    ├── StudyError                 a study is missing, or was made with other options than asked for
    │   └── StudyGoneError           it was there, and was deleted meanwhile
    ├── LeaseLostError             a trial belongs to another worker now
    └── CheckpointError            a checkpoint is missing, torn or cannot be written
        ├── DiskFullError            there is no room for it: on the disk, or within the quota
        └── StoreUnavailableError    the place of the checkpoints does not answer: nothing is known of what it holds

A message is one line: the value, the rule, the way out. No message ever holds a password.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of every error that this package raises."""


class DatabaseUnavailableError(StorageError):
    """The database server cannot be reached, refuses us, or cannot do what was asked now."""

    passes = True
    """Whether it may pass by itself, so that it is worth asking again."""


class ConflictError(DatabaseUnavailableError):
    """PostgreSQL ended a transaction for a deadlock or a serialisation failure, and nothing of it was done."""


class StudyError(StorageError):
    """A study is missing, was deleted meanwhile, or exists with other options than asked for."""


class StudyGoneError(StudyError, KeyError):
    """A study was deleted or renamed meanwhile. Optuna and its dashboard know it as the KeyError that it is to them."""

    def __init__(self) -> None:
        super().__init__(
            "the study is gone: it was deleted or renamed meanwhile; give its present name with --study, "
            "or make it anew with `hpo run`"
        )

    __str__ = Exception.__str__  # a KeyError would show it in quotation marks


class CheckpointError(StorageError):
    """A checkpoint is missing, fails its checksum, or cannot be written."""


class DiskFullError(CheckpointError):
    """There is no room for a checkpoint: on the disk, or within the quota. It may come."""


class StoreUnavailableError(CheckpointError):
    """The place of the checkpoints cannot be read now, so nothing is known of what it holds. It may come back."""


class LeaseLostError(StorageError):
    """The trial is another worker's now, or finished: nothing more that is written for it counts."""

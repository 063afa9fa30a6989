"""Errors of what is remembered.

    StorageError                 anything below
    ├── DatabaseUnavailableError   the server is not there, or refuses us
    ├── StudyError                 a study is missing, or holds another space or another data set
    └── CheckpointError            a checkpoint is missing, torn or cannot be written

A message is one line: the value, the rule, the way out. No message ever holds a password.
"""


class StorageError(Exception):
    """Base of every error that this package raises."""


class DatabaseUnavailableError(StorageError):
    """The database server cannot be reached, or refuses the connection."""


class StudyError(StorageError):
    """A study is missing, or exists with another space, data set or metric."""


class CheckpointError(StorageError):
    """A checkpoint is missing, fails its checksum, or cannot be written."""

"""What is remembered: a PostgreSQL, studies and their trials in it, checkpoints beside it."""

from storage.checkpoints import Checkpoint, CheckpointStore
from storage.database import Database, open_database
from storage.embedded import EmbeddedServer, stop_embedded
from storage.errors import CheckpointError, DatabaseUnavailableError, StorageError, StudyError
from storage.limits import Limits, read_limits, write_limits
from storage.spec import StudySpec, read_spec
from storage.studies import check_study_name, create_study, open_study, quiet_optuna, study_names
from storage.trials import claim_trial, reported_steps, requeue

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "Database",
    "DatabaseUnavailableError",
    "EmbeddedServer",
    "Limits",
    "StorageError",
    "StudyError",
    "StudySpec",
    "check_study_name",
    "claim_trial",
    "create_study",
    "open_database",
    "open_study",
    "quiet_optuna",
    "read_limits",
    "read_spec",
    "reported_steps",
    "requeue",
    "stop_embedded",
    "study_names",
    "write_limits",
]

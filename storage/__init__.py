"""What is remembered: a PostgreSQL, studies and their trials in it, checkpoints beside it."""

from storage.artifacts import (
    claim_files,
    is_url,
    open_objects,
    open_store,
    refuse_foreign_files,
    remove_checkpoints,
    remove_stray_study,
    stray_studies,
)
from storage.attributes import write_attributes
from storage.checkpoints import Checkpoint, CheckpointStore
from storage.control import Control, get_control, set_control
from storage.database import Database, open_database
from storage.embedded import EmbeddedServer, stop_embedded
from storage.errors import (
    CheckpointError,
    DatabaseUnavailableError,
    DiskFullError,
    LeaseLostError,
    StorageError,
    StoreUnavailableError,
    StudyError,
)
from storage.garbage import Freed
from storage.holders import Holding, Reaped, expire_dead_neighbours, expire_leases, holdings, reap
from storage.keeper import Entry, LeaseKeeper
from storage.leases import RENEWALS, Lease, advance, count_redone, renew, set_checkpoint
from storage.limits import Limits, read_limits, write_limits
from storage.objects import ObjectStore
from storage.openings import read_openings, write_opening
from storage.patience import GRACE, LEAVING, Patience
from storage.quota import Quota, format_size
from storage.spec import StudySpec, has_spec, read_spec
from storage.studies import (
    check_study_name,
    create_study,
    delete_study,
    give_own_id,
    open_study,
    quiet_optuna,
    sharers,
    study_counts,
    study_names,
)
from storage.trials import Claim, NoTrial, claim_trial, reported_epochs, take_up
from storage.urls import give_password
from storage.workers import SECONDS as LEASE_SECONDS
from storage.workers import Worker

__all__ = [
    "GRACE",
    "LEASE_SECONDS",
    "LEAVING",
    "RENEWALS",
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "Claim",
    "Control",
    "Database",
    "DatabaseUnavailableError",
    "DiskFullError",
    "EmbeddedServer",
    "Entry",
    "Freed",
    "Holding",
    "Lease",
    "LeaseKeeper",
    "LeaseLostError",
    "Limits",
    "NoTrial",
    "ObjectStore",
    "Patience",
    "Quota",
    "Reaped",
    "StorageError",
    "StoreUnavailableError",
    "StudyError",
    "StudySpec",
    "Worker",
    "advance",
    "check_study_name",
    "claim_files",
    "claim_trial",
    "count_redone",
    "create_study",
    "delete_study",
    "expire_dead_neighbours",
    "expire_leases",
    "format_size",
    "get_control",
    "give_own_id",
    "give_password",
    "has_spec",
    "holdings",
    "is_url",
    "open_database",
    "open_objects",
    "open_store",
    "open_study",
    "quiet_optuna",
    "read_limits",
    "read_openings",
    "read_spec",
    "reap",
    "refuse_foreign_files",
    "remove_checkpoints",
    "remove_stray_study",
    "renew",
    "reported_epochs",
    "set_checkpoint",
    "set_control",
    "sharers",
    "stop_embedded",
    "stray_studies",
    "study_counts",
    "study_names",
    "take_up",
    "write_attributes",
    "write_limits",
    "write_opening",
]

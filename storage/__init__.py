"""What is remembered: a PostgreSQL, studies and their trials in it, checkpoints beside it."""

from storage.checkpoint_versions import Freed, Quota, format_size
from storage.checkpoints import Checkpoint, CheckpointStore
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
from storage.fenced_storage import write_attributes
from storage.lease_session import LeaseSession, PendingWrite
from storage.leases import RENEWALS, Lease, advance, count_redone, renew, set_checkpoint
from storage.objects import ObjectStore, is_url, open_objects
from storage.reaping import LeaseInfo, Reaped, expire_dead_neighbours, expire_leases, lease_infos, reap
from storage.retry import GRACE, LEAVING, RetryPolicy
from storage.spec import StudySpec, has_spec, read_spec
from storage.stores import (
    claim_files,
    open_store,
    refuse_foreign_files,
    remove_checkpoints,
    remove_stray_study,
    stray_studies,
)
from storage.studies import (
    Control,
    Limits,
    check_study_name,
    create_study,
    delete_study,
    get_control,
    give_own_id,
    open_study,
    quiet_optuna,
    read_limits,
    set_control,
    sharers,
    study_counts,
    study_names,
    write_limits,
)
from storage.test_accesses import read_openings, write_opening
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
    "Freed",
    "Lease",
    "LeaseInfo",
    "LeaseLostError",
    "LeaseSession",
    "Limits",
    "NoTrial",
    "ObjectStore",
    "PendingWrite",
    "Quota",
    "Reaped",
    "RetryPolicy",
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
    "is_url",
    "lease_infos",
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

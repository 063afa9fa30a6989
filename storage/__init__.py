"""The database of studies and their trials, and the checkpoints beside it.

The names are loaded on first use (PEP 562), so that `import storage`, `storage.errors` and `storage.objects` load
neither optuna nor SQLAlchemy: a bundle is read from S3 without either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.checkpoint_versions import Quota, Removal, format_size
    from storage.checkpoints import Checkpoint, CheckpointStore
    from storage.confirmation import DEFAULT_TOP, REPLICATE_OF, Confirmation
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
    from storage.leases import RENEWALS, Lease, add_repeated_epochs, advance, renew, set_checkpoint
    from storage.objects import ObjectStore, is_url, open_objects
    from storage.reaping import LeaseInfo, Reaped, expire_dead_neighbours, expire_leases, lease_infos, reap
    from storage.retry import GRACE, LEAVING, RetryPolicy
    from storage.spec import StudySpec, check_same, has_spec, read_spec
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
        Convergence,
        Limits,
        check_study_name,
        create_study,
        delete_study,
        end_converged,
        get_control,
        give_own_id,
        open_study,
        quiet_optuna,
        read_limits,
        set_control,
        studies_with_same_id,
        study_counts,
        study_names,
        write_limits,
    )
    from storage.test_accesses import read_openings, read_openings_of_data, write_opening
    from storage.trials import Claim, NoTrial, claim_trial, load_trial, reported_epochs
    from storage.urls import give_password
    from storage.workers import LEASE_SECONDS, Worker

__all__ = [
    "DEFAULT_TOP",
    "GRACE",
    "LEASE_SECONDS",
    "LEAVING",
    "RENEWALS",
    "REPLICATE_OF",
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "Claim",
    "Confirmation",
    "Control",
    "Convergence",
    "Database",
    "DatabaseUnavailableError",
    "DiskFullError",
    "EmbeddedServer",
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
    "Removal",
    "RetryPolicy",
    "StorageError",
    "StoreUnavailableError",
    "StudyError",
    "StudySpec",
    "Worker",
    "add_repeated_epochs",
    "advance",
    "check_same",
    "check_study_name",
    "claim_files",
    "claim_trial",
    "create_study",
    "delete_study",
    "end_converged",
    "expire_dead_neighbours",
    "expire_leases",
    "format_size",
    "get_control",
    "give_own_id",
    "give_password",
    "has_spec",
    "is_url",
    "lease_infos",
    "load_trial",
    "open_database",
    "open_objects",
    "open_store",
    "open_study",
    "quiet_optuna",
    "read_limits",
    "read_openings",
    "read_openings_of_data",
    "read_spec",
    "reap",
    "refuse_foreign_files",
    "remove_checkpoints",
    "remove_stray_study",
    "renew",
    "reported_epochs",
    "set_checkpoint",
    "set_control",
    "stop_embedded",
    "stray_studies",
    "studies_with_same_id",
    "study_counts",
    "study_names",
    "write_attributes",
    "write_limits",
    "write_opening",
]

_NAMES = {
    "checkpoint_versions": ("Quota", "Removal", "format_size"),
    "checkpoints": ("Checkpoint", "CheckpointStore"),
    "confirmation": ("DEFAULT_TOP", "REPLICATE_OF", "Confirmation"),
    "database": ("Database", "open_database"),
    "embedded": ("EmbeddedServer", "stop_embedded"),
    "errors": (
        "CheckpointError",
        "DatabaseUnavailableError",
        "DiskFullError",
        "LeaseLostError",
        "StorageError",
        "StoreUnavailableError",
        "StudyError",
    ),
    "fenced_storage": ("write_attributes",),
    "lease_session": ("LeaseSession", "PendingWrite"),
    "leases": ("RENEWALS", "Lease", "advance", "add_repeated_epochs", "renew", "set_checkpoint"),
    "objects": ("ObjectStore", "is_url", "open_objects"),
    "reaping": ("LeaseInfo", "Reaped", "expire_dead_neighbours", "expire_leases", "lease_infos", "reap"),
    "retry": ("GRACE", "LEAVING", "RetryPolicy"),
    "spec": ("StudySpec", "check_same", "has_spec", "read_spec"),
    "stores": (
        "claim_files",
        "open_store",
        "refuse_foreign_files",
        "remove_checkpoints",
        "remove_stray_study",
        "stray_studies",
    ),
    "studies": (
        "Control",
        "Convergence",
        "Limits",
        "check_study_name",
        "create_study",
        "delete_study",
        "end_converged",
        "get_control",
        "give_own_id",
        "open_study",
        "quiet_optuna",
        "read_limits",
        "set_control",
        "studies_with_same_id",
        "study_counts",
        "study_names",
        "write_limits",
    ),
    "test_accesses": ("read_openings", "read_openings_of_data", "write_opening"),
    "trials": ("Claim", "NoTrial", "claim_trial", "reported_epochs", "load_trial"),
    "urls": ("give_password",),
    "workers": ("LEASE_SECONDS", "Worker"),
}
"""Public names by the module that defines them; `__all__` and the imports for type checkers list the same names."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"storage.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(globals().keys() | _MODULES)

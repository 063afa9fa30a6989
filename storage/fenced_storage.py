"""FencedStorage: optuna's storage in our transactions, behind the fence of a lease, with retries of conflicts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from storage.errors import ConflictError, StudyGoneError
from storage.retry import pauses

# Optuna needs two statements for each attribute.
_INSERT = """
    INSERT INTO {table} (trial_id, key, value_json)
    SELECT t.trial_id, a.key, a.value
    FROM trials t, unnest(CAST(:keys AS text[]), CAST(:values AS text[])) AS a (key, value)
    WHERE t.trial_id = :trial AND t.state IN ('RUNNING', 'WAITING')
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
    """

_WRITE, _WRITE_SYSTEM = (
    text(_INSERT.format(table=f"trial_{kind}_attributes")) for kind in ("user", "system")
)  # fmt: skip


def write_attributes(connection: Connection, trial_id: int, values: Mapping[str, Any], *, system: bool = False) -> None:
    """Write user attributes of a trial (JSON values) in one statement. UpdateFinishedTrialError if it is finished.

    With `system` they are system attributes, which a dashboard does not show.
    """
    if not values:
        return
    texts = [json.dumps(value) for value in values.values()]
    statement = _WRITE_SYSTEM if system else _WRITE
    written = connection.execute(statement, {"trial": trial_id, "keys": list(values), "values": texts}).rowcount
    if written != len(values):
        raise UpdateFinishedTrialError(f"trial (id {trial_id}) is finished, and cannot be written for any more")


ATTEMPTS = 5
"""Runs of a transaction before a conflict is raised."""

PAUSES = (0.5, 4.0)
"""Seconds before the second attempt and before any, at most."""

Fence = Callable[[Connection], None]
"""Locks the row of a lease in the transaction that writes for its trial; raises LeaseLostError if it was lost."""

# Optuna would write the time of the worker's clock, which may be wrong. The columns hold UTC without a time zone.
_STARTED = text("UPDATE trials SET datetime_start = clock_timestamp() AT TIME ZONE 'UTC' WHERE trial_id = :trial")

_ENDED = text("UPDATE trials SET datetime_complete = clock_timestamp() AT TIME ZONE 'UTC' WHERE trial_id = :trial")

_R = TypeVar("_R")

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _retried(transaction: _Method) -> _Method:
    """Decorate a method: it is repeated after a conflict, and raises StudyGoneError if its study or trial is gone."""

    @wraps(transaction)
    def run(storage: FencedStorage, *args: Any, **kwargs: Any) -> Any:
        return storage.retry_conflicts(lambda: _translated(transaction, storage, *args, **kwargs))

    return cast(_Method, run)


def _fenced(write: _Method) -> _Method:
    """Decorate a method that writes for a trial: it runs behind the fence that is set for the trial."""

    @wraps(write)
    def run(storage: FencedStorage, trial_id: int, *args: Any, **kwargs: Any) -> Any:
        fence = storage.fences.get(trial_id)
        if fence is None or storage.in_transaction:
            return storage.retry_conflicts(lambda: _translated(write, storage, trial_id, *args, **kwargs))
        return storage.atomically(lambda _: _translated(write, storage, trial_id, *args, **kwargs), fence)

    return cast(_Method, run)


def _translated(method: Callable[..., _R], *args: Any, **kwargs: Any) -> _R:
    """Return the result of optuna's method; its KeyError for a missing study or trial becomes StudyGoneError."""
    try:
        return method(*args, **kwargs)
    except StudyGoneError:
        raise
    except KeyError as error:
        raise StudyGoneError from error


class FencedStorage(RDBStorage):
    """Optuna's storage as a worker uses it.

    Inside `transaction` all statements of optuna join one transaction on one connection: a trial is claimed or told
    together with its lease, or not at all. Writes for a trial that has a fence in `fences` run behind it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._thread = threading.local()
        self.fences: dict[int, Fence] = {}
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            if "engine" in vars(self):  # else its connections stay open while the error is referenced
                self.engine.dispose()
            raise

    @property
    def scoped_session(self) -> Any:
        """Factory of optuna's sessions: within `transaction` a session that joins it, else an independent one."""
        connection: Connection | None = getattr(self._thread, "connection", None)
        if connection is None:
            return self._own_sessions
        return lambda: Session(bind=connection, join_transaction_mode="rollback_only")

    @scoped_session.setter
    def scoped_session(self, sessions: Any) -> None:
        self._own_sessions = sessions

    @property
    def in_transaction(self) -> bool:
        """Whether this thread is inside `transaction`."""
        return getattr(self._thread, "connection", None) is not None

    @contextmanager
    def transaction(self, fence: Fence | None = None) -> Iterator[Connection]:
        """Run the block, optuna's statements included, in one transaction behind `fence`; commit at the end."""
        with self.engine.begin() as connection:
            if fence is not None:
                fence(connection)
            self._thread.connection = connection
            try:
                yield connection
            finally:
                self._thread.connection = None

    def atomically(self, action: Callable[[Connection], _R], fence: Fence | None = None) -> _R:
        """Run `action` in a transaction, and repeat it after a conflict."""

        def once() -> _R:
            with self.transaction(fence) as connection:
                return action(connection)

        return self.retry_conflicts(once)

    def retry_conflicts(self, action: Callable[[], _R]) -> _R:
        """Run `action`, and repeat it after a conflict; within `transaction` the caller of that does."""
        attempts = 1 if self.in_transaction else ATTEMPTS
        for _, pause in zip(range(attempts - 1), pauses(*PAUSES, jitter=1), strict=False):
            try:
                return action()
            except ConflictError:
                time.sleep(pause)
        return action()

    @_fenced
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set the state as optuna does, but with start and end of the trial by the database's clock, as for leases."""
        connection: Connection | None = getattr(self._thread, "connection", None)
        if connection is None:
            return self.atomically(lambda _: self.set_trial_state_values(trial_id, state, values))
        changed = super().set_trial_state_values(trial_id, state, values)
        stamp = _STARTED if state == TrialState.RUNNING else _ENDED if state.is_finished() else None
        if changed and stamp is not None:
            connection.execute(stamp, {"trial": trial_id})
        return changed

    _create_new_trial = _retried(RDBStorage._create_new_trial)
    _get_trials = _retried(RDBStorage._get_trials)
    get_study_directions = _retried(RDBStorage.get_study_directions)
    get_study_system_attrs = _retried(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = _retried(RDBStorage.get_study_user_attrs)
    get_trial = _retried(RDBStorage.get_trial)
    set_study_user_attr = _retried(RDBStorage.set_study_user_attr)
    _set_trial_param = _fenced(RDBStorage._set_trial_param)
    set_trial_intermediate_value = _fenced(RDBStorage.set_trial_intermediate_value)
    set_trial_system_attr = _fenced(RDBStorage.set_trial_system_attr)
    set_trial_user_attr = _fenced(RDBStorage.set_trial_user_attr)

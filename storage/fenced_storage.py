"""The user attributes of a trial, all of one occasion in one statement.

PersistentStorage: optuna's storage in transactions of ours: fenced, tried again, clear when a study is gone.
"""

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

# As optuna writes them, which takes two statements for each.
_WRITE = text(
    """
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT t.trial_id, a.key, a.value
    FROM trials t, unnest(CAST(:keys AS text[]), CAST(:values AS text[])) AS a (key, value)
    WHERE t.trial_id = :trial AND t.state IN ('RUNNING', 'WAITING')
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json
    """
)


def write_attributes(connection: Connection, trial_id: int, values: Mapping[str, Any]) -> None:
    """Write user attributes of a trial, JSON-ready. Raises UpdateFinishedTrialError when it is finished, as optuna."""
    if not values:
        return
    texts = [json.dumps(value) for value in values.values()]
    written = connection.execute(_WRITE, {"trial": trial_id, "keys": list(values), "values": texts}).rowcount
    if written != len(values):
        raise UpdateFinishedTrialError(f"trial (id {trial_id}) is finished, and cannot be written for any more")


ATTEMPTS = 5
"""Times that a transaction is run before a conflict is raised."""

PAUSES = (0.5, 4.0)
"""Seconds before the second attempt and before any, at most."""

Fence = Callable[[Connection], None]
"""Takes the row lock of a lease in the transaction that is about to write for its trial; raises LeaseLostError."""

# Optuna writes the time of the worker's clock, which may be wrong, into these columns of naive UTC.
_STARTED = text("UPDATE trials SET datetime_start = clock_timestamp() AT TIME ZONE 'UTC' WHERE trial_id = :trial")

_ENDED = text("UPDATE trials SET datetime_complete = clock_timestamp() AT TIME ZONE 'UTC' WHERE trial_id = :trial")

_R = TypeVar("_R")

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _persistent(transaction: _Method) -> _Method:
    """`transaction` run again after a conflict, which undid it; StudyError where its study or trial is gone."""

    @wraps(transaction)
    def run(storage: FencedStorage, *args: Any, **kwargs: Any) -> Any:
        return storage.retry_conflicts(lambda: _there(transaction, storage, *args, **kwargs))

    return cast(_Method, run)


def _fenced(write: _Method) -> _Method:
    """`write` for a trial, behind the fence that was put up for it."""

    @wraps(write)
    def run(storage: FencedStorage, trial_id: int, *args: Any, **kwargs: Any) -> Any:
        fence = storage.fences.get(trial_id)
        if fence is None or storage.in_transaction:
            return storage.retry_conflicts(lambda: _there(write, storage, trial_id, *args, **kwargs))
        return storage.atomically(lambda _: _there(write, storage, trial_id, *args, **kwargs), fence)

    return cast(_Method, run)


def _there(method: Callable[..., _R], *args: Any, **kwargs: Any) -> _R:
    """What a method of optuna's gives; its KeyError says that the study or the trial is not there any more.

    A KeyError of anything else, as of a sampler, is no such thing and is not translated.
    """
    try:
        return method(*args, **kwargs)
    except StudyGoneError:
        raise
    except KeyError as error:
        raise StudyGoneError from error


class FencedStorage(RDBStorage):
    """Optuna's storage as a worker uses it.

    Inside `transaction` all statements of optuna's join one transaction of ours on one connection: a trial is claimed
    or told with its lease, or not at all. A trial that has a fence in `fences` is written for only behind it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._thread = threading.local()
        self.fences: dict[int, Fence] = {}
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            if "engine" in vars(self):  # else its connections stay open for as long as the error is looked at
                self.engine.dispose()
            raise

    @property
    def scoped_session(self) -> Any:
        """Where optuna gets its sessions from: within a transaction one that joins it, else its own."""
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
        """One transaction for everything inside, optuna's statements too; commits at the end. Behind `fence`."""
        with self.engine.begin() as connection:
            if fence is not None:
                fence(connection)
            self._thread.connection = connection
            try:
                yield connection
            finally:
                self._thread.connection = None

    def atomically(self, action: Callable[[Connection], _R], fence: Fence | None = None) -> _R:
        """Run `action` in a transaction, again where PostgreSQL ended it for a conflict."""

        def once() -> _R:
            with self.transaction(fence) as connection:
                return action(connection)

        return self.retry_conflicts(once)

    def retry_conflicts(self, action: Callable[[], _R]) -> _R:
        """Run `action`, again after a conflict; within a transaction its beginner does that."""
        attempts = 1 if self.in_transaction else ATTEMPTS
        for _, pause in zip(range(attempts - 1), pauses(*PAUSES, jitter=1), strict=False):
            try:
                return action()
            except ConflictError:
                time.sleep(pause)
        return action()

    @_fenced
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As optuna's, but the start and the end of a trial are by the database's clock, as leases are."""
        connection: Connection | None = getattr(self._thread, "connection", None)
        if connection is None:
            return self.atomically(lambda _: self.set_trial_state_values(trial_id, state, values))
        changed = super().set_trial_state_values(trial_id, state, values)
        stamp = _STARTED if state == TrialState.RUNNING else _ENDED if state.is_finished() else None
        if changed and stamp is not None:
            connection.execute(stamp, {"trial": trial_id})
        return changed

    _create_new_trial = _persistent(RDBStorage._create_new_trial)
    _get_trials = _persistent(RDBStorage._get_trials)
    get_study_directions = _persistent(RDBStorage.get_study_directions)
    get_study_system_attrs = _persistent(RDBStorage.get_study_system_attrs)
    get_study_user_attrs = _persistent(RDBStorage.get_study_user_attrs)
    get_trial = _persistent(RDBStorage.get_trial)
    set_study_user_attr = _persistent(RDBStorage.set_study_user_attr)
    _set_trial_param = _fenced(RDBStorage._set_trial_param)
    set_trial_intermediate_value = _fenced(RDBStorage.set_trial_intermediate_value)
    set_trial_system_attr = _fenced(RDBStorage.set_trial_system_attr)
    set_trial_user_attr = _fenced(RDBStorage.set_trial_user_attr)

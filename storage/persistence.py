"""PersistentStorage: optuna's storage, which tries again where PostgreSQL says so, and tells when a study is gone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from optuna.storages import RDBStorage

from storage.errors import ConflictError, StudyError

ATTEMPTS = 5
"""Times that a transaction is run before a conflict is raised."""
PAUSE = 0.5
"""Seconds waited at most before the second attempt, and twice that before each next one."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _persistent(
    transaction: Callable[Concatenate[RDBStorage, _P], _R],
) -> Callable[Concatenate[RDBStorage, _P], _R]:
    """`transaction` run again after a conflict, which undid it; StudyError where its study or trial is gone."""

    @wraps(transaction)
    def run(storage: RDBStorage, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        attempt = 0
        while True:
            try:
                return transaction(storage, *args, **kwargs)
            except ConflictError:
                attempt += 1
                if attempt == ATTEMPTS:
                    raise
            except KeyError as error:
                raise StudyError(
                    "the study is gone: it was deleted or renamed meanwhile; give its present name with --study, "
                    "or make it anew with `hpo run`"
                ) from error
            time.sleep(random.uniform(0, PAUSE * 2 ** (attempt - 1)))  # noqa: S311 - only to part the two

    return run


class PersistentStorage(RDBStorage):
    """What a worker calls while it trains. Elsewhere optuna and its dashboard act on a KeyError themselves."""

    _create_new_trial = _persistent(RDBStorage._create_new_trial)
    _get_trials = _persistent(RDBStorage._get_trials)
    _set_trial_param = _persistent(RDBStorage._set_trial_param)
    get_study_user_attrs = _persistent(RDBStorage.get_study_user_attrs)
    get_trial = _persistent(RDBStorage.get_trial)
    set_study_user_attr = _persistent(RDBStorage.set_study_user_attr)
    set_trial_intermediate_value = _persistent(RDBStorage.set_trial_intermediate_value)
    set_trial_state_values = _persistent(RDBStorage.set_trial_state_values)
    set_trial_system_attr = _persistent(RDBStorage.set_trial_system_attr)
    set_trial_user_attr = _persistent(RDBStorage.set_trial_user_attr)

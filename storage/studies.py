"""Studies: created exactly once, opened, listed and deleted; their limits, and the control of their workers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from sqlalchemy import Connection, text

from storage.confirmation import NOTHING, Confirmation
from storage.database import Database
from storage.errors import StudyError
from storage.spec import SPEC, StudySpec, check_same, has_spec, id_of, make_id, read_spec, write_spec
from storage.workers import Worker

_log = logging.getLogger(__name__)

NAME_LENGTH = 120
"""Most characters of a study's name."""

_CREATING = "hpo:creating"


def create_study(
    db: Database,
    name: str,
    spec: StudySpec,
    points: Sequence[Mapping[str, Any]] = (),
    limits: Limits | None = None,
    *,
    first: Sequence[Mapping[str, Any]] = (),
) -> optuna.Study:
    """Create the study with its points enqueued, or open it if it exists. Concurrent calls create it exactly once.

    `first` are user attributes of trials without parameters that are enqueued before the points. A new study gets an id
    and `limits` before it can be opened; an existing one keeps its own. Raises StudyError, before anything is changed,
    when the study exists with another space, data set, split, metric, weights, seed, sampler or pruner, or was not made
    by hpo.
    """
    check_study_name(name)
    with db.lock(study_lock(name)):
        study = _existing(db, name, spec)
        if study is None:
            queue = [*(({}, attributes) for attributes in first), *((point, None) for point in points)]
            return _create(db, name, spec.model_copy(update={"id": make_id(name)}), queue, limits)
    give_own_id(db, study)
    return study


def open_study(
    db: Database, name: str, sampler: BaseSampler | None = None, pruner: BasePruner | None = None
) -> optuna.Study:
    """Open the study `name`. Raises StudyError, naming the existing ones, when there is no such study."""
    try:
        return optuna.load_study(study_name=name, storage=db.storage, sampler=sampler, pruner=pruner)
    except KeyError:
        names = study_names(db)
        known = f"the studies are {', '.join(names)}" if names else "there is none yet; make one with `hpo run`"
        raise StudyError(f"no study {name!r} in {db.where}: {known}") from None


def give_own_id(db: Database, study: optuna.Study) -> StudySpec:
    """Give `study` an id of its own if an earlier study of the database has the same one; return its present spec.

    `optuna.copy_study` copies the id with the spec. Checkpoints are stored by id and trial number, so two studies with
    one id would overwrite, resume and remove each other's. The study that was created first keeps the id, the files and
    the checkpoints of the copied trials. Raises StudyError when there is no spec.
    """
    spec = read_spec(study)
    with db.engine.connect() as connection:
        if _owner_of(connection, spec.id, study) is None:
            return spec
    with db.lock(f"hpo:id:{spec.id}") as connection:
        spec = read_spec(study)
        first = _owner_of(connection, spec.id, study)
        if first is None:
            return spec
        own = spec.model_copy(update={"id": make_id(study.study_name)})
        write_spec(study, own)
    _log.warning(
        "study %r is a copy of %r and had the same id, %s: its id is %s from now on. The checkpoints of the trials "
        "that were copied stay with %r",
        study.study_name, first, spec.id, own.id, first,
    )  # fmt: skip
    return own


def studies_with_same_id(study: optuna.Study) -> list[optuna.Study]:
    """Return the other studies of the same database that have the id of `study`, and so the same checkpoints.

    A copy has it between `optuna.copy_study` and its first worker, which gives it an id of its own.
    """
    own, storage = read_spec(study).id, study._storage
    names = [one.study_name for one in storage.get_all_studies() if id_of(one.user_attrs) == own]
    return [optuna.load_study(study_name=name, storage=storage) for name in names if name != study.study_name]


def study_names(db: Database) -> list[str]:
    """Return the names of all studies, in the order of their creation."""
    with db.engine.connect() as connection:
        return list(connection.execute(text("SELECT study_name FROM studies ORDER BY study_id")).scalars())


def study_counts(db: Database) -> dict[str, dict[str, int]]:
    """Return trials by state (RUNNING, COMPLETE, …) of each study, in the order of their creation."""
    query = text(
        "SELECT s.study_name, t.state, count(t.trial_id) AS trials FROM studies s LEFT JOIN trials t USING (study_id) "
        "GROUP BY s.study_id, s.study_name, t.state ORDER BY s.study_id"
    )
    counts: dict[str, dict[str, int]] = {}
    with db.engine.connect() as connection:
        for row in connection.execute(query):
            counts.setdefault(row.study_name, {}).update({row.state: row.trials} if row.state else {})
    return counts


def delete_study(db: Database, name: str) -> None:
    """Delete a study with its trials and leases, but not its checkpoints."""
    with db.lock(study_lock(name)):
        optuna.delete_study(study_name=name, storage=db.storage)


def study_lock(name: str) -> str:
    """Return the key of the advisory lock under which a study is created."""
    return f"hpo:study:{name}"


def quiet_optuna() -> None:
    """Limit optuna's log to warnings: hpo logs every trial itself."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def check_study_name(name: str) -> None:
    """Raise StudyError unless `name` is 1 to 120 printable characters with no blanks around them."""
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable() or name != name.strip():
        raise StudyError(
            f"study name {name!r:.140} must be 1 to {NAME_LENGTH} printable characters with no blanks around them; "
            "give another with --study"
        )


def _existing(db: Database, name: str, spec: StudySpec) -> optuna.Study | None:
    """Return the study `name`, made with the same options (else StudyError); None if it has to be created."""
    try:
        study = optuna.load_study(study_name=name, storage=db.storage)
    except KeyError:
        return None
    if has_spec(study):
        check_same(name, read_spec(study), spec)
        return study
    _remove_unfinished(db, study)
    return None


_FIRST_WITH = text(
    """
    SELECT s.study_id, s.study_name FROM study_user_attributes a JOIN studies s ON s.study_id = a.study_id
    WHERE a.key = :key AND CAST(a.value_json AS jsonb) ->> 'id' = :id ORDER BY s.study_id LIMIT 1
    """
)


def _owner_of(connection: Connection, study_id: str, study: optuna.Study) -> str | None:
    """Return the name of the study that was created first with this id; None if that is `study` itself."""
    first = connection.execute(_FIRST_WITH, {"key": SPEC, "id": study_id}).one_or_none()
    return None if first is None or first.study_id == study._study_id else str(first.study_name)


def _create(
    db: Database,
    name: str,
    spec: StudySpec,
    queue: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]],
    limits: Limits | None,
) -> optuna.Study:
    """Create a study with a queue of trials, each with its parameters and attributes.

    The spec is written last: a study without one was left unfinished by a kill, and is replaced.
    """
    study = optuna.create_study(study_name=name, storage=db.storage, direction="maximize")
    study.set_user_attr(_CREATING, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([spec.metric])  # shown on the axes of the dashboard
    for point, attributes in queue:
        study.enqueue_trial(dict(point), user_attrs=dict(attributes) if attributes else None)
    if limits is not None:
        write_limits(study, limits)
    write_spec(study, spec)
    return study


def _remove_unfinished(db: Database, study: optuna.Study) -> None:
    if _CREATING not in study.user_attrs and (study.user_attrs or study.get_trials(deepcopy=False)):
        read_spec(study)  # raises: the study of another program
    optuna.delete_study(study_name=study.study_name, storage=db.storage)


LIMITS = "hpo:limits"
"""User attribute of a study: its limits."""


@dataclass(frozen=True)
class Convergence:
    """The figures that showed that further trials would not pay."""

    trials: int
    """Finished trials that it was seen from."""
    gain: float
    """Expected gain of the further trials in the value of the best."""
    error: float
    """Standard error of the value of the best."""


@dataclass(frozen=True)
class Limits:
    """The budget of a study, for all its workers: trials claimed in all, and a deadline. None means no limit.

    The deadline has a time zone and is compared with the database's clock. All of it may change from run to run.
    """

    trials: int | None = None
    deadline: datetime | None = None
    run: Worker | None = None
    """The `hpo run` that set the deadline; None if `hpo init` did, or an earlier version, which did not record it."""
    until_converged: bool = False
    """Whether the study ends when its further trials are expected to gain less than the standard error."""
    converged: Convergence | None = None
    """Set when that was so: no further trial of the search is claimed, only those that confirm the best."""
    confirm: Confirmation = NOTHING
    """How many of the best trials are trained again at the end; none in a study of an earlier version."""

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 0:
            raise StudyError(f"trials is {self.trials}, but must be 0 or more")
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise StudyError(f"deadline {self.deadline} has no time zone, but must have one")

    def allow(self, claimed: int, now: datetime) -> bool:
        """Return whether one more trial may be claimed at the time `now`, after `claimed` ones."""
        within_cap = (self.trials is None or claimed < self.trials) and self.converged is None
        return within_cap and (self.deadline is None or now < self.deadline)


def read_limits(study: optuna.Study) -> Limits:
    """Return the limits of `study`; without any, nothing is limited."""
    return limits_from(study.user_attrs.get(LIMITS))


def write_limits(study: optuna.Study, limits: Limits) -> None:
    """Store the limits in `study`; every worker reads them before its next trial."""
    deadline = limits.deadline.isoformat() if limits.deadline else None
    run = vars(limits.run) if limits.run else None
    ending: dict[str, Any] = {"until_converged": True} if limits.until_converged else {}
    if limits.converged is not None:
        ending["converged"] = asdict(limits.converged)
    confirm = asdict(limits.confirm)
    study.set_user_attr(
        LIMITS, {"trials": limits.trials, "deadline": deadline, "run": run, "confirm": confirm, **ending}
    )


_LOCK = text("SELECT 1 FROM studies WHERE study_id = :study FOR UPDATE")


def end_converged(db: Database, study: optuna.Study, found: Convergence) -> Limits:
    """Write into the limits that the study has converged, unless another worker has, or it is not to end so.

    Returns the limits as they are then. The study's row is locked meanwhile, as it is for a claim.
    """

    def write(connection: Connection) -> Limits:
        connection.execute(_LOCK, {"study": study._study_id})
        limits = read_limits(study)
        if limits.until_converged and limits.converged is None:
            limits = replace(limits, converged=found)
            write_limits(study, limits)
        return limits

    return db.storage.atomically(write)


def limits_from(stored: Mapping[str, Any] | None) -> Limits:
    """Return the limits from their stored form; without any, nothing is limited."""
    stored = stored or {}
    deadline = stored.get("deadline")
    run, converged = stored.get("run"), stored.get("converged")
    return Limits(
        trials=stored.get("trials"),
        deadline=datetime.fromisoformat(deadline) if deadline else None,
        run=Worker(**run) if run else None,
        until_converged=bool(stored.get("until_converged")),
        converged=Convergence(**converged) if converged else None,
        confirm=Confirmation(**stored.get("confirm", {})),
    )


class Control(StrEnum):
    """The order that the workers of a study follow; they read it with every renewal of a lease."""

    RUN = "run"
    PAUSE = "pause"
    """Requeue the trial, stay, and wait."""
    STOP = "stop"
    """Requeue the trial and end."""


_SET = text(
    "INSERT INTO hpo_studies (study_id, control) VALUES (:study, :control) "
    "ON CONFLICT (study_id) DO UPDATE SET control = excluded.control"
)

_GET = text("SELECT control FROM hpo_studies WHERE study_id = :study")


def set_control(db: Database, study: optuna.Study, control: Control) -> Control:
    """Set the control of `study` for its present and future workers; return the previous one."""
    with db.engine.begin() as connection:
        before = control_of(connection, study._study_id)
        connection.execute(_SET, {"study": study._study_id, "control": control.value})
    return before


def get_control(db: Database, study: optuna.Study) -> Control:
    """Return the control of `study`."""
    with db.engine.connect() as connection:
        return control_of(connection, study._study_id)


def control_of(connection: Connection, study_id: int) -> Control:
    """Return the control of the study: RUN unless it was set."""
    return Control(connection.execute(_GET, {"study": study_id}).scalar_one_or_none() or Control.RUN)

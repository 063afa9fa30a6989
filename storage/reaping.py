"""The leases of a study as people see them, and the reaper, which requeues the trials of workers that are gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from storage import leases
from storage.database import Database
from storage.fenced_storage import FencedStorage
from storage.trials import close_if_finished, fail_poison, is_poison
from storage.workers import Worker, is_alive, this_place

_LEASES = text(
    """
    SELECT t.number, l.state, l.host, l.pid, l.device, l.claimed_at, l.renewed_at, l.deadline, l.deaths, l.position,
           l.redone, l.takings, l.note, clock_timestamp() AS now
    FROM hpo_leases l JOIN trials t ON t.trial_id = l.trial_id WHERE l.study_id = :study ORDER BY t.number
    """
)

# A lease of 0 seconds has expired even directly after a restart of the server.
_EXPIRE = text(
    """
    UPDATE hpo_leases SET deadline = clock_timestamp(), seconds = 0, deaths = deaths - :pardon
    WHERE study_id = :study AND state = 'held' AND host = :host AND pid = :pid AND (:place = '' OR place = :place)
    """
)

_NEIGHBOURS = text(
    "SELECT DISTINCT host, pid FROM hpo_leases "
    "WHERE study_id = :study AND state = 'held' AND place = :place AND place <> ''"
)

_WITHOUT_LEASE = text(
    """
    SELECT t.trial_id, t.number FROM trials t LEFT JOIN hpo_leases l ON l.trial_id = t.trial_id
    WHERE t.study_id = :study AND t.state = 'RUNNING' AND (l.trial_id IS NULL OR l.state <> 'held')
    ORDER BY t.number FOR UPDATE OF t
    """
)


@dataclass(frozen=True)
class LeaseInfo:
    """The lease of one trial at one moment."""

    number: int
    state: str
    """held, free or ended."""
    owner: str
    """host:pid."""
    device: str
    claimed_at: datetime
    age: float
    """Seconds since it was last renewed."""
    left: float
    """Seconds until it expires; negative once it has."""
    deaths: int
    position: float
    redone: float
    attempts: int
    """Times that the trial was claimed."""
    note: str | None

    @property
    def alive(self) -> bool:
        """Whether a worker holds the trial and its lease has not expired."""
        return self.state == "held" and self.left >= 0


@dataclass(frozen=True)
class Reaped:
    """Numbers of the trials that were requeued, and of those that were failed after too many lost workers."""

    requeued: tuple[int, ...]
    failed: tuple[int, ...]


def lease_infos(db: Database, study: optuna.Study) -> list[LeaseInfo]:
    """Return the leases of all trials that were ever claimed, in order of their numbers."""
    with db.engine.connect() as connection:
        rows = connection.execute(_LEASES, {"study": study._study_id}).all()
    return [
        LeaseInfo(
            number=row.number, state=row.state, owner=f"{row.host}:{row.pid}" if row.host else row.host,
            device=row.device, claimed_at=row.claimed_at, age=(row.now - row.renewed_at).total_seconds(),
            left=(row.deadline - row.now).total_seconds(), deaths=row.deaths, position=row.position,
            redone=row.redone, attempts=row.takings, note=row.note,
        )
        for row in rows
    ]  # fmt: skip


def expire_leases(db: Database, study: optuna.Study, worker: Worker, *, blame: bool = True) -> int:
    """End the leases of a process that has certainly ended, so that its trials can be claimed; return their number.

    Only the leases of `worker.place` are ended, if a place is given: another container may have the same host name and
    pid. Without `blame` the loss does not count against the trial: the process was ended on purpose.
    """
    values = {"study": study._study_id, "host": worker.host, "pid": worker.pid, "place": worker.place}
    with db.engine.begin() as connection:
        return connection.execute(_EXPIRE, {**values, "pardon": int(not blame)}).rowcount


def expire_dead_neighbours(db: Database, study: optuna.Study) -> int:
    """End the leases of dead processes of this machine, as after a kill or a crash of a whole run; return their number.

    A pid that the system has given to another process since counts as alive; that lease expires by itself.
    """
    with db.engine.connect() as connection:
        rows = connection.execute(_NEIGHBOURS, {"study": study._study_id, "place": this_place()}).all()
    dead = [Worker(host=row.host, pid=row.pid) for row in rows if not is_alive(row.pid)]
    return sum(expire_leases(db, study, worker) for worker in dead)


def reap(db: Database, study: optuna.Study) -> Reaped:
    """Requeue the trials of expired leases, and running trials without a lease (of programs that know no leases).

    Workers do the first by themselves when they claim a trial; this is for a study without workers.
    """
    return db.storage.atomically(lambda connection: _reap(db.storage, connection, study._study_id))


def _reap(storage: FencedStorage, connection: Connection, study_id: int) -> Reaped:
    requeued, failed = [], []
    while (expired := leases.next_expired(connection, study_id)) is not None:
        if close_if_finished(connection, expired):
            continue
        number = storage.get_trial(expired.trial_id).number
        if is_poison(expired):
            fail_poison(storage, connection, expired)
            failed.append(number)
        else:
            leases.requeue(connection, expired)
            storage.set_trial_state_values(expired.trial_id, TrialState.WAITING)
            requeued.append(number)
    for trial_id, number in connection.execute(_WITHOUT_LEASE, {"study": study_id}).all():
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
        requeued.append(number)
    return Reaped(tuple(sorted(requeued)), tuple(sorted(failed)))

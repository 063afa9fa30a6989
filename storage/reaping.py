"""Who holds which trial, for people to read; and putting back what holders that are gone have left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.trial import TrialState
from sqlalchemy import Connection, text

from storage import leases
from storage.database import Database
from storage.fenced_storage import FencedStorage
from storage.trials import fail_poison, is_poison, settle_finished
from storage.workers import Worker, is_alive, this_place

_HOLDINGS = text(
    """
    SELECT t.number, l.state, l.host, l.pid, l.device, l.claimed_at, l.renewed_at, l.deadline, l.deaths, l.position,
           l.redone, l.takings, l.note, clock_timestamp() AS now
    FROM hpo_leases l JOIN trials t ON t.trial_id = l.trial_id WHERE l.study_id = :study ORDER BY t.number
    """
)

# A lease of 0 seconds has expired for certain, whenever the server was started.
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

_STRAY = text(
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
    """Seconds until it expires; below 0 it has."""
    deaths: int
    position: float
    redone: float
    takings: int
    """How often the trial was taken up."""
    note: str | None

    @property
    def alive(self) -> bool:
        """Whether a worker holds the trial and its lease has not expired."""
        return self.state == "held" and self.left >= 0


@dataclass(frozen=True)
class Reaped:
    """Numbers of trials that were put back, and of those that were failed for the loss of worker after worker."""

    put_back: tuple[int, ...]
    failed: tuple[int, ...]


def lease_infos(db: Database, study: optuna.Study) -> list[LeaseInfo]:
    """The leases of all trials that were ever taken up, by number."""
    with db.engine.connect() as connection:
        rows = connection.execute(_HOLDINGS, {"study": study._study_id}).all()
    return [
        LeaseInfo(
            number=row.number, state=row.state, owner=f"{row.host}:{row.pid}" if row.host else row.host,
            device=row.device, claimed_at=row.claimed_at, age=(row.now - row.renewed_at).total_seconds(),
            left=(row.deadline - row.now).total_seconds(), deaths=row.deaths, position=row.position,
            redone=row.redone, takings=row.takings, note=row.note,
        )
        for row in rows
    ]  # fmt: skip


def expire_leases(db: Database, study: optuna.Study, worker: Worker, *, blame: bool = True) -> int:
    """End the leases of a process that is gone for certain, so that its trials wait for nobody; how many there were.

    Only those of `worker.place`, where a place is given: another container may have the same name and number. Without
    `blame` the loss does not count against the trial: the process was ended by somebody who meant to.
    """
    values = {"study": study._study_id, "host": worker.host, "pid": worker.pid, "place": worker.place}
    with db.engine.begin() as connection:
        return connection.execute(_EXPIRE, {**values, "pardon": int(not blame)}).rowcount


def expire_dead_neighbours(db: Database, study: optuna.Study) -> int:
    """End the leases of processes of this machine that are dead, as after a kill or a crash of a whole run.

    A number that the system has given to another process by now is taken for alive; that lease expires by itself.
    """
    with db.engine.connect() as connection:
        rows = connection.execute(_NEIGHBOURS, {"study": study._study_id, "place": this_place()}).all()
    dead = [Worker(host=row.host, pid=row.pid) for row in rows if not is_alive(row.pid)]
    return sum(expire_leases(db, study, worker) for worker in dead)


def reap(db: Database, study: optuna.Study) -> Reaped:
    """Put back the trials of expired leases, and those that run without any (of programs that know no leases).

    Workers do the first by themselves when they look for a trial; this is for a study that nobody works on.
    """
    return db.storage.atomically(lambda connection: _reap(db.storage, connection, study._study_id))


def _reap(storage: FencedStorage, connection: Connection, study_id: int) -> Reaped:
    put_back, failed = [], []
    while (expired := leases.next_expired(connection, study_id)) is not None:
        if settle_finished(connection, expired):
            continue
        number = storage.get_trial(expired.trial_id).number
        if is_poison(expired):
            fail_poison(storage, connection, expired)
            failed.append(number)
        else:
            leases.requeue(connection, expired)
            storage.set_trial_state_values(expired.trial_id, TrialState.WAITING)
            put_back.append(number)
    for trial_id, number in connection.execute(_STRAY, {"study": study_id}).all():
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
        put_back.append(number)
    return Reaped(tuple(sorted(put_back)), tuple(sorted(failed)))

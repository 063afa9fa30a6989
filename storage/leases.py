"""Leases: which worker trains a trial, until when by the database's clock, and under which fencing token.

A lease is a row beside the trial, written in the transaction that sets the trial RUNNING, so every running trial has a
lease that can expire. Its token changes with every change of holder. Each write for the trial first locks the row by
the token, and fails if the trial has another holder by then.

    held    a worker trains the trial, or died doing it: then the deadline passes
    free    requeued: the trial waits, with its checkpoint
    ended   the trial is finished; kept, so that a finish whose COMMIT was not answered can be recognised
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storage.errors import LeaseLostError
from storage.studies import Control
from storage.workers import Worker

RENEWALS = 6
"""Renewals of a lease within its duration."""

DEATHS = 3
"""A trial that has lost this many holders in a row, without an epoch between, is not claimed again."""


@dataclass(frozen=True)
class Lease:
    """A lease as its holder knows it."""

    trial_id: int
    token: int
    seconds: float
    deaths: int = 0
    """Holders lost in a row before this one, without an epoch between."""
    position: float = 0.0
    """Epochs done at the last renewal, by this or an earlier holder."""
    redone: float = 0.0
    """Repeated epochs so far, of all holders."""
    checkpoint: Mapping[str, Any] | None = None
    """Reference to the last checkpoint of the last holder."""

    @property
    def interval(self) -> float:
        """Seconds between two renewals."""
        return self.seconds / RENEWALS

    def fence(self, connection: Connection) -> None:
        """Lock the row of the token. Raises LeaseLostError when the trial has another holder, or none."""
        if connection.execute(_FENCE, {"trial": self.trial_id, "token": self.token}).one_or_none() is None:
            raise self.lost()

    def lost(self) -> LeaseLostError:
        """Return the error for a worker whose lease was lost."""
        return LeaseLostError(f"it (id {self.trial_id}) was given to another worker, or finished by another program")


_FENCE = text("SELECT 1 FROM hpo_leases WHERE trial_id = :trial AND token = :token AND state = 'held' FOR UPDATE")

_HELD_BY = text(
    "SELECT l.* FROM hpo_leases l WHERE l.study_id = :study AND l.worker = :worker AND l.state = 'held' "
    "LIMIT 1 FOR UPDATE"
)

# After a restart of the server every holder has the time of a whole lease to reconnect and renew.
_EXPIRED = text(
    """
    SELECT l.* FROM hpo_leases l
    WHERE l.study_id = :study AND l.state = 'held' AND l.deadline < clock_timestamp()
      AND pg_postmaster_start_time() + make_interval(secs => l.seconds) < clock_timestamp()
    ORDER BY l.deadline LIMIT 1 FOR UPDATE SKIP LOCKED
    """
)

_GRANT = text(
    """
    INSERT INTO hpo_leases AS l (trial_id, study_id, state, worker, host, pid, place, device, token,
                                 claimed_at, renewed_at, deadline, seconds)
    VALUES (:trial, :study, 'held', :worker, :host, :pid, :place, :device, nextval('hpo_tokens'),
            clock_timestamp(), clock_timestamp(), clock_timestamp() + make_interval(secs => :seconds), :seconds)
    ON CONFLICT (trial_id) DO UPDATE SET
        state = 'held', worker = excluded.worker, host = excluded.host, pid = excluded.pid,
        place = excluded.place, device = excluded.device,
        token = excluded.token, claimed_at = excluded.claimed_at, renewed_at = excluded.renewed_at,
        deadline = excluded.deadline, seconds = excluded.seconds,
        deaths = l.deaths + :lost, takings = l.takings + 1, note = NULL
    RETURNING l.*
    """
)

_RENEW = text(
    """
    UPDATE hpo_leases l SET renewed_at = clock_timestamp(),
        deadline = clock_timestamp() + make_interval(secs => :seconds), seconds = :seconds,
        position = :position, note = :note
    WHERE l.trial_id = :trial AND l.token = :token AND l.state = 'held'
    RETURNING coalesce((SELECT s.control FROM hpo_studies s WHERE s.study_id = l.study_id), 'run') AS control
    """
)

_ADVANCE = text(
    """
    UPDATE hpo_leases l SET renewed_at = clock_timestamp(),
        deadline = clock_timestamp() + make_interval(secs => :seconds), seconds = :seconds,
        position = :position,
        deaths = CASE WHEN :further THEN 0 ELSE l.deaths END,
        checkpoint = :checkpoint
    WHERE l.trial_id = :trial AND l.token = :token AND l.state = 'held'
    RETURNING coalesce((SELECT s.control FROM hpo_studies s WHERE s.study_id = l.study_id), 'run') AS control
    """
).bindparams(bindparam("checkpoint", type_=JSONB(none_as_null=True)))

_ADD_REPEATED_EPOCHS = text("UPDATE hpo_leases SET redone = :redone WHERE trial_id = :trial AND token = :token")

_CLOSE = text("UPDATE hpo_leases SET state = :state, position = :position, note = NULL WHERE trial_id = :trial")

_REQUEUE = text(
    "UPDATE hpo_leases SET state = 'free', token = nextval('hpo_tokens'), deaths = deaths + 1 WHERE trial_id = :trial"
)

_STATE = text("SELECT state FROM hpo_leases WHERE trial_id = :trial AND token = :token")

_CLOSE_FOR_ANOTHER = text("UPDATE hpo_leases SET state = :state, token = nextval('hpo_tokens') WHERE trial_id = :trial")

_SET_CHECKPOINT = text("UPDATE hpo_leases SET checkpoint = :checkpoint, position = :position WHERE trial_id = :trial"
).bindparams(bindparam("checkpoint", type_=JSONB(none_as_null=True)))  # fmt: skip


def held_by(connection: Connection, study_id: int, worker: Worker) -> Lease | None:
    """Return a lease that `worker` holds: its claim was committed, but the answer to COMMIT was lost."""
    row = connection.execute(_HELD_BY, {"study": study_id, "worker": worker.name}).one_or_none()
    return None if row is None else _lease(row)


def next_expired(connection: Connection, study_id: int) -> Lease | None:
    """Return the lease that expired first, its row locked; rows that other sessions have locked are skipped."""
    row = connection.execute(_EXPIRED, {"study": study_id}).one_or_none()
    return None if row is None else _lease(row)


def grant(connection: Connection, study_id: int, trial_id: int, worker: Worker, *, orphaned: bool = False) -> Lease:
    """Grant the trial's lease to `worker`, under a new token. An earlier holder cannot write for it any more.

    An orphaned trial has lost one more holder; a requeued or a new one has not.
    """
    who = {
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "place": worker.place,
        "device": worker.device,
    }
    values = {"trial": trial_id, "study": study_id, "seconds": worker.seconds, "lost": int(orphaned), **who}
    return _lease(connection.execute(_GRANT, values).one())


def renew(connection: Connection, lease: Lease, position: float, note: str | None) -> Control:
    """Extend the deadline, and return the study's control. Raises LeaseLostError when the trial has another holder."""
    values = {"trial": lease.trial_id, "token": lease.token, "seconds": lease.seconds, "position": position}
    return _control(lease, connection.execute(_RENEW, {**values, "note": note}).one_or_none())


def advance(
    connection: Connection, lease: Lease, position: float, checkpoint: Mapping[str, Any] | None, *, further: bool = True
) -> Control:
    """Renew after an epoch whose checkpoint is written.

    An epoch that goes `further` than the one at which the holder claimed the trial resets the count of lost holders.
    """
    values: dict[str, Any] = {"trial": lease.trial_id, "token": lease.token, "seconds": lease.seconds}
    values |= {"position": position, "checkpoint": _json(checkpoint), "further": further}
    return _control(lease, connection.execute(_ADVANCE, values).one_or_none())


def add_repeated_epochs(connection: Connection, lease: Lease, epochs: float) -> None:
    """Add the epochs, or the part of one, that this holder repeats since no checkpoint had them."""
    connection.execute(
        _ADD_REPEATED_EPOCHS, {"trial": lease.trial_id, "token": lease.token, "redone": lease.redone + epochs}
    )


def set_checkpoint(connection: Connection, lease: Lease, position: float, checkpoint: Mapping[str, Any] | None) -> None:
    """Store the reference to the checkpoint that the next holder resumes from. The caller holds the row lock."""
    values = {"trial": lease.trial_id, "position": position, "checkpoint": _json(checkpoint)}
    connection.execute(_SET_CHECKPOINT, values)


def close(connection: Connection, lease: Lease, state: str, position: float) -> None:
    """Close the lease as `free` or `ended`. The caller is its holder and holds the row lock."""
    connection.execute(_CLOSE, {"trial": lease.trial_id, "state": state, "position": position})


def close_for_another(connection: Connection, trial_id: int, state: str) -> None:
    """Close the lease as `free` or `ended`, under a new token, so that a holder that still lives loses it."""
    connection.execute(_CLOSE_FOR_ANOTHER, {"trial": trial_id, "state": state})


def requeue(connection: Connection, expired: Lease) -> None:
    """Free the lease of a holder that is gone, and count the death."""
    connection.execute(_REQUEUE, {"trial": expired.trial_id})


def is_closed(connection: Connection, lease: Lease, state: str) -> bool:
    """Return whether the holder has closed the lease so: tells whether a COMMIT without an answer was done."""
    row = connection.execute(_STATE, {"trial": lease.trial_id, "token": lease.token}).one_or_none()
    return row is not None and row.state == state


def _json(checkpoint: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if checkpoint is None else dict(checkpoint)


def _lease(row: Any) -> Lease:
    return Lease(row.trial_id, row.token, row.seconds, row.deaths, row.position, row.redone, row.checkpoint)


def _control(lease: Lease, row: Any) -> Control:
    if row is None:
        raise lease.lost()
    return Control(row.control)

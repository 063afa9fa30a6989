"""Leases: who trains a trial, until when by the database's clock, and under which fencing token.

A lease is a row beside the trial, written in the transaction that sets the trial RUNNING, so that no trial ever runs
without one to expire. Its token changes with every change of hands; whoever writes for the trial locks the row by its
token first, and finds none when the trial is another's by now.

    held    somebody trains the trial, or died doing it: then the deadline passes
    free    put back: the trial waits, with its checkpoint
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
"""How often a lease is renewed before it would expire."""

DEATHS = 3
"""A trial whose holders are lost so often, one after another without an epoch between, is not given out again."""


@dataclass(frozen=True)
class Lease:
    """A lease as its holder knows it."""

    trial_id: int
    token: int
    seconds: float
    deaths: int = 0
    """Holders lost before this one, without an epoch between."""
    position: float = 0.0
    """Epochs that were done when it was last renewed, by whoever held it then."""
    redone: float = 0.0
    """Epochs trained again so far, by all holders."""
    checkpoint: Mapping[str, Any] | None = None
    """What the last holder wrote down of its last checkpoint."""

    @property
    def interval(self) -> float:
        """Seconds between two renewals."""
        return self.seconds / RENEWALS

    def fence(self, connection: Connection) -> None:
        """Take the row lock of the token; LeaseLostError when the trial is not the holder's any more."""
        if connection.execute(_FENCE, {"trial": self.trial_id, "token": self.token}).one_or_none() is None:
            raise self.lost()

    def lost(self) -> LeaseLostError:
        """The error of a holder that is none any more."""
        return LeaseLostError(f"it (id {self.trial_id}) was given to another worker, or finished by somebody else")


_FENCE = text("SELECT 1 FROM hpo_leases WHERE trial_id = :trial AND token = :token AND state = 'held' FOR UPDATE")

_MINE = text(
    "SELECT l.* FROM hpo_leases l WHERE l.study_id = :study AND l.worker = :worker AND l.state = 'held' "
    "LIMIT 1 FOR UPDATE"
)

# A server that was down gives every holder the time of a whole lease to come back and renew.
_EXPIRED = text(
    """
    SELECT l.* FROM hpo_leases l
    WHERE l.study_id = :study AND l.state = 'held' AND l.deadline < clock_timestamp()
      AND pg_postmaster_start_time() + make_interval(secs => l.seconds) < clock_timestamp()
    ORDER BY l.deadline LIMIT 1 FOR UPDATE SKIP LOCKED
    """
)

_GIVE = text(
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

_RESUME = text("UPDATE hpo_leases SET redone = :redone WHERE trial_id = :trial AND token = :token")

_CLOSE = text("UPDATE hpo_leases SET state = :state, position = :position, note = NULL WHERE trial_id = :trial")

_PUT_BACK = text(
    "UPDATE hpo_leases SET state = 'free', token = nextval('hpo_tokens'), deaths = deaths + 1 WHERE trial_id = :trial"
)

_STATE = text("SELECT state FROM hpo_leases WHERE trial_id = :trial AND token = :token")

_CLOSE_FOR_ANOTHER = text("UPDATE hpo_leases SET state = :state, token = nextval('hpo_tokens') WHERE trial_id = :trial")

_SET_CHECKPOINT = text("UPDATE hpo_leases SET checkpoint = :checkpoint, position = :position WHERE trial_id = :trial"
).bindparams(bindparam("checkpoint", type_=JSONB(none_as_null=True)))  # fmt: skip


def mine(connection: Connection, study_id: int, worker: Worker) -> Lease | None:
    """A lease that `worker` holds without knowing: the COMMIT of its claim went through, but not the answer."""
    row = connection.execute(_MINE, {"study": study_id, "worker": worker.name}).one_or_none()
    return None if row is None else _lease(row)


def next_expired(connection: Connection, study_id: int) -> Lease | None:
    """The lease that expired first, its row locked; rows that others are just taking are passed over."""
    row = connection.execute(_EXPIRED, {"study": study_id}).one_or_none()
    return None if row is None else _lease(row)


def give(connection: Connection, study_id: int, trial_id: int, worker: Worker, *, orphaned: bool = False) -> Lease:
    """Make the trial `worker`'s, under a new token. Whoever held it before cannot write for it any more.

    An orphaned trial has lost one more holder; one that was put back, or is new, has not.
    """
    who = {
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "place": worker.place,
        "device": worker.device,
    }
    values = {"trial": trial_id, "study": study_id, "seconds": worker.seconds, "lost": int(orphaned), **who}
    return _lease(connection.execute(_GIVE, values).one())


def renew(connection: Connection, lease: Lease, position: float, note: str | None) -> Control:
    """Put the deadline off; gives what the study's workers are told. LeaseLostError when the trial is another's."""
    values = {"trial": lease.trial_id, "token": lease.token, "seconds": lease.seconds, "position": position}
    return _told(lease, connection.execute(_RENEW, {**values, "note": note}).one_or_none())


def advance(
    connection: Connection, lease: Lease, position: float, checkpoint: Mapping[str, Any] | None, *, further: bool = True
) -> Control:
    """Renew after an epoch whose checkpoint is written.

    When it goes `further` than where the holder took the trial up, those lost before were not lost to the trial itself.
    """
    values: dict[str, Any] = {"trial": lease.trial_id, "token": lease.token, "seconds": lease.seconds}
    values |= {"position": position, "checkpoint": _json(checkpoint), "further": further}
    return _told(lease, connection.execute(_ADVANCE, values).one_or_none())


def count_redone(connection: Connection, lease: Lease, epochs: float) -> None:
    """Add the epochs, or the part of one, that this holder trains again since they were in no checkpoint."""
    connection.execute(_RESUME, {"trial": lease.trial_id, "token": lease.token, "redone": lease.redone + epochs})


def set_checkpoint(connection: Connection, lease: Lease, position: float, checkpoint: Mapping[str, Any] | None) -> None:
    """Write down the checkpoint that the next holder goes on from. The caller holds the row lock."""
    values = {"trial": lease.trial_id, "position": position, "checkpoint": _json(checkpoint)}
    connection.execute(_SET_CHECKPOINT, values)


def close(connection: Connection, lease: Lease, state: str, position: float) -> None:
    """`free` or `ended`, by the holder, who holds the row lock."""
    connection.execute(_CLOSE, {"trial": lease.trial_id, "state": state, "position": position})


def close_for_another(connection: Connection, trial_id: int, state: str) -> None:
    """`free` or `ended`, under a new token: the holder is gone, or is to find out that it is no holder any more."""
    connection.execute(_CLOSE_FOR_ANOTHER, {"trial": trial_id, "state": state})


def requeue(connection: Connection, expired: Lease) -> None:
    """Free the lease of a holder that is gone, and count the death."""
    connection.execute(_PUT_BACK, {"trial": expired.trial_id})


def is_closed(connection: Connection, lease: Lease, state: str) -> bool:
    """Whether the holder itself has closed the lease so: what it then learns of a COMMIT that was not answered."""
    row = connection.execute(_STATE, {"trial": lease.trial_id, "token": lease.token}).one_or_none()
    return row is not None and row.state == state


def _json(checkpoint: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if checkpoint is None else dict(checkpoint)


def _lease(row: Any) -> Lease:
    return Lease(row.trial_id, row.token, row.seconds, row.deaths, row.position, row.redone, row.checkpoint)


def _told(lease: Lease, row: Any) -> Control:
    if row is None:
        raise lease.lost()
    return Control(row.control)

"""Confirmation: the last rung of a study, which trains its best trials again with fresh seeds.

A trial was found the best among many by a value that holds some luck; the value of the same parameters under a fresh
seed holds none that chose it. A *replicate* is a trial of the study with the parameters of another, its *original*.
Each one is decided and created by a worker's claim, under the study's row lock and in the claim's transaction: there is
no time at which some of it is written. It counts like any trial, so a budget of 50 trains 50, the last few of which are
replicates. What the search finds while the rung goes on is considered by the next claim.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import Connection, text

from storage.errors import StudyError

REPLICATE_OF = "replicate_of"
"""User attribute of a trial: the number of the first trial with these parameters."""

DEFAULT_TOP = 3
"""Trials that are confirmed where the user gives no number and the budget allows."""

FEWEST_TRIALS = 12
"""By default nothing is confirmed in a study of fewer trials (with a deadline: before so many are finished)."""

DEFAULT_SHARE = 5
"""By default at most one trial in so many is a replicate, and at most this share of the time goes to them."""


PATIENCE = 1.5
"""Times that a rung which has begun may take longer than expected of it before the search goes on instead."""


@dataclass(frozen=True)
class Confirmation:
    """How many of the best trials a study trains again at its end; none unless it is said. StudyError below 0."""

    top: int = 0
    asked: bool = True
    """Whether the user gave the number; a default is lowered where the budget is small."""

    def __post_init__(self) -> None:
        if self.top < 0:
            raise StudyError(f"confirm is {self.top}, but must be 0 or more")

    def within(self, trials: int | None) -> int:
        """Return the replicates at the end of a study of so many trials; None is no limit.

        By default a fifth of the trials at most, and none under 12; what the user asks for may be half of them.
        """
        if trials is None:
            return self.top
        if self.asked:
            return min(self.top, trials // 2)
        return min(self.top, trials // DEFAULT_SHARE) if trials >= FEWEST_TRIALS else 0


NOTHING = Confirmation()
"""Nothing is trained again."""


@dataclass(frozen=True)
class MeasuredTrial:
    """A trial as the rung sees it."""

    trial_id: int
    number: int
    state: str
    value: float | None = None
    seconds: float | None = None
    """Seconds of its training; None where they are not recorded."""
    replicate_of: int | None = None
    cut_short: bool = False
    """Whether it is complete because the time was up."""
    probe: bool = False
    """Whether it is a frozen probe, which a fresh seed would not change."""

    @property
    def original(self) -> int:
        """The number of the first trial with its parameters."""
        return self.number if self.replicate_of is None else self.replicate_of

    @property
    def counts(self) -> bool:
        """Whether its value may be compared: it is complete, to its end."""
        return self.state == "COMPLETE" and self.value is not None and not (self.cut_short or self.probe)

    @property
    def searched(self) -> bool:
        """Whether the search trained it, as it would train the next one."""
        return bool(self.seconds) and self.replicate_of is None and not self.probe


@dataclass(frozen=True)
class Remaining:
    """The rest of a study's budget; None where it is not limited."""

    trials: int | None = None
    seconds: float | None = None
    workers: int = 1


def next_replicate(
    confirmation: Confirmation, most: int | None, trials: Sequence[MeasuredTrial], left: Remaining
) -> MeasuredTrial | None:
    """Return the trial that the next one repeats; None where the next one belongs to the search.

    `most` is the study's limit of trials. The rung is due when no more trials are left than it needs, or about as much
    time.
    """
    top = confirmation.within(most)
    lacking = unconfirmed(trials, top)
    if left.seconds is not None and not confirmation.asked:
        lacking = lacking[: _affordable(trials, lacking)]
    if not (_due_by_count(lacking, left) or _due_by_time(trials, lacking, left)):
        return None
    # One that cannot be trained to its end would tell nothing.
    return next((one for one in lacking if left.seconds is None or (one.seconds or 0.0) <= left.seconds), None)


def unconfirmed(trials: Sequence[MeasuredTrial], top: int) -> list[MeasuredTrial]:
    """Return a trial of each of the best `top` configurations that no second one confirms or is to confirm, best first.

    The value of a configuration is the mean of its trials.
    """
    measured: dict[int, list[MeasuredTrial]] = defaultdict(list)
    for trial in trials:
        if trial.counts:
            measured[trial.original].append(trial)
    means = {original: fmean(one.value or 0.0 for one in group) for original, group in measured.items()}
    best = sorted(means, key=lambda original: (-means[original], original))[:top]
    coming = {trial.original for trial in trials if trial.state in ("RUNNING", "WAITING")}
    return [measured[original][0] for original in best if len(measured[original]) == 1 and original not in coming]


def _due_by_count(lacking: Sequence[MeasuredTrial], left: Remaining) -> bool:
    return left.trials is not None and left.trials <= len(lacking)


def _due_by_time(trials: Sequence[MeasuredTrial], lacking: Sequence[MeasuredTrial], left: Remaining) -> bool:
    """Return whether a further trial of the search would leave too little time for the replicates."""
    known = [one.seconds for one in lacking if one.seconds]
    if left.seconds is None or not known:
        return False
    need = math.ceil(len(lacking) / left.workers) * fmean(known)
    searched = [one.seconds or 0.0 for one in trials if one.searched]
    begun = max(trials, key=lambda one: one.number).replicate_of is not None
    # A rung that has begun goes on where its first replicates took less time than was expected.
    return left.seconds <= (need + fmean(searched or known)) * (PATIENCE if begun else 1.0)


def _affordable(trials: Sequence[MeasuredTrial], lacking: Sequence[MeasuredTrial]) -> int:
    """Return how many further replicates keep to their share of the time that the study has taken and will take."""
    known = [one.seconds for one in lacking if one.seconds]
    searched = [one.seconds or 0.0 for one in trials if one.searched]
    if len(searched) < FEWEST_TRIALS or not known:
        return 0
    replicates = sum(one.replicate_of is not None for one in trials)
    return max(0, int(sum(searched) / (DEFAULT_SHARE - 1) / fmean(known)) - replicates)


_TRIALS = text(
    """
    SELECT t.trial_id, t.number, CAST(t.state AS text) AS state, v.value,
           max(a.value_json) FILTER (WHERE a.key = :replicate_of) AS replicate_of,
           max(a.value_json) FILTER (WHERE a.key = 'seconds') AS seconds,
           max(a.value_json) FILTER (WHERE a.key = 'reason') AS reason,
           max(a.value_json) FILTER (WHERE a.key = 'probe') AS probe
    FROM trials t
    LEFT JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
    LEFT JOIN trial_user_attributes a
        ON a.trial_id = t.trial_id AND a.key IN (:replicate_of, 'seconds', 'reason', 'probe')
    WHERE t.study_id = :study GROUP BY t.trial_id, t.number, t.state, v.value ORDER BY t.number
    """
)

_LONGEST = text(
    """
    SELECT max(CAST(a.value_json AS double precision))
    FROM trials t JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = 'seconds'
    WHERE t.study_id = :study AND a.value_json <> 'null'
    """
)

_COPY = text(
    """
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT :trial, param_name, param_value, distribution_json FROM trial_params WHERE trial_id = :original
    ORDER BY param_id
    """
)

_MARK = text("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, :key, :value)")


def most_time(connection: Connection, study_id: int, top: int) -> float:
    """Return the seconds before a deadline above which no replicate of `top` is due, by the longest trial so far."""
    longest = connection.execute(_LONGEST, {"study": study_id}).scalar_one()
    return PATIENCE * (top + 1) * (longest or 0.0)


def measured_trials(connection: Connection, study_id: int) -> list[MeasuredTrial]:
    """Return every trial of the study as the rung sees it, by number."""
    rows = connection.execute(_TRIALS, {"study": study_id, "replicate_of": REPLICATE_OF})
    return [
        MeasuredTrial(
            row.trial_id, row.number, row.state, row.value,
            seconds=json.loads(row.seconds) if row.seconds else None,
            replicate_of=json.loads(row.replicate_of) if row.replicate_of else None,
            cut_short=row.state == "COMPLETE" and row.reason is not None, probe=row.probe is not None,
        )
        for row in rows
    ]  # fmt: skip


def make_replicate(connection: Connection, trial_id: int, original: MeasuredTrial) -> None:
    """Give a new trial the parameters of `original`, in every bit, and the mark of a replicate."""
    # As parameters that are written already, not as optuna's `fixed_params`: those pass through JSON and the space.
    connection.execute(_COPY, {"trial": trial_id, "original": original.trial_id})
    connection.execute(_MARK, {"trial": trial_id, "key": REPLICATE_OF, "value": json.dumps(original.original)})

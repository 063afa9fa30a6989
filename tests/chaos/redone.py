"""Repeated epochs, counted from the diary of the workers' steps and not from hpo's own records.

When a trial is claimed again, the steps between the next owner's start and the last owner's position are repeated.
Their cost is shared equally by the faults since the last owner's first step that may lose the steps since a checkpoint
(SIGKILL, SIGSTOP beyond the lease, a corrupted checkpoint, a full disk, an outage longer than half a lease). Steps
repeated without such a fault are an error.

A worker that was suspended beyond its lease notices only at its next renewal or step, whichever is later, that its
trial has another owner. Its steps until then count neither as progress nor as repeated.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.ledger import Struck
from tests.chaos.steps import Step

Blow = tuple[float, float]
"""Beginning and end of a fault, in seconds of the monotonic clock."""


@dataclass(frozen=True)
class Redone:
    """The cost of the faults."""

    total: float
    """All repeated epochs."""
    most: float
    """Most repeated epochs by one fault."""
    unexplained: float
    """Repeated epochs without a fault."""
    unexplained_of: tuple[int, ...]
    """Trials with repeated epochs without a fault."""
    faults: int
    """Number of all faults that hit a target, also those without a cost."""

    @property
    def mean(self) -> float:
        """Mean of the repeated epochs per fault."""
        return self.total / max(1, self.faults)


def redone(steps: Sequence[Step], struck: Sequence[Struck], steps_of_epoch: int) -> Redone:
    """Count the repeated epochs that `struck` caused, from the diary of all steps in the order of time."""
    of_trial: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        of_trial[step.trial].append(step)
    blows = _blows(steps, struck)
    costs = {trial: _costs(taken, blows[trial], steps_of_epoch) for trial, taken in of_trial.items()}
    groups = [group for groups, _ in costs.values() for group in groups]
    unexplained = sum(lost for _, lost in costs.values())
    return Redone(
        total=sum(epochs for epochs, _ in groups) + unexplained,
        most=max((epochs / faults for epochs, faults in groups), default=0.0),
        unexplained=unexplained,
        unexplained_of=tuple(trial for trial, (_, lost) in costs.items() if lost),
        faults=len(struck),
    )


def _blows(steps: Sequence[Step], struck: Sequence[Struck]) -> dict[int, list[Blow]]:
    """Return by trial the beginning and end of the faults that may have lost some of its steps."""
    blows: dict[int, list[Blow]] = defaultdict(list)
    for fault in struck:
        if not fault.loses:
            continue
        for trial in _hit(steps, fault):
            blows[trial].append((fault.at, fault.at + fault.lasts))
    return blows


def _hit(steps: Sequence[Step], fault: Struck) -> set[int]:
    """Return the trials that a fault hit: its process's current one; for a fault of all, each begun before its end."""
    if fault.trial is not None:
        return {fault.trial}
    if fault.pid is None:
        return {step.trial for step in steps if step.at <= fault.at + fault.lasts}
    under_way = [step.trial for step in steps if step.pid == fault.pid and step.at <= fault.at + 0.1]
    return set(under_way[-1:])


def _costs(taken: Sequence[Step], blows: list[Blow], steps_of_epoch: int) -> tuple[list[tuple[float, int]], float]:
    """Return for one trial (repeated epochs, number of faults) at each change of owner, and epochs without a fault."""
    groups: list[tuple[float, int]] = []
    unexplained = 0.0
    for before, after in itertools.pairwise(_attempts(taken)):
        cost = max(0.0, _position(before[-1]) - (_position(after[0]) - 1 / steps_of_epoch))
        faults = [begun for begun, ended in blows if begun <= after[0].at and ended >= before[0].at]
        if faults:
            groups.append((cost, len(faults)))
        else:
            unexplained += cost
    return groups, unexplained


def _attempts(taken: Sequence[Step]) -> list[list[Step]]:
    """Return the steps of each owner, without its steps after it lost the trial, and without owners that made none."""
    attempts: list[list[Step]] = []
    owner: int | None = None
    for step in taken:
        if step.position is None:
            owner = step.pid
            attempts.append([])
        elif step.pid == owner:
            attempts[-1].append(step)
    return [steps for steps in attempts if steps]


def _position(step: Step) -> float:
    assert step.position is not None
    return step.position

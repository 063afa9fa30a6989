"""Epochs redone: counted from the diary that the workers' steps leave, not from what hpo says of itself.

A step is redone when the trial had taken it before, by whichever worker. What a worker does between waking from a sleep
longer than its lease and noticing that its trial is another's (a renewal or a step, whichever is later) is nobody's
progress: those steps neither count as taken nor as redone. The faults that may cost a trial what it did
since its last checkpoint (SIGKILL, SIGSTOP beyond the lease, a corrupted checkpoint, a full disk, an outage longer than
half a lease) count together until the first redone step after them; the steps redone from there until the next such
fault are theirs, in epochs, shared evenly. Steps redone with no such fault before them are redone without a fault: that
is never allowed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.ledger import Struck
from tests.chaos.steps import Step


@dataclass(frozen=True)
class Redone:
    """What the faults have cost."""

    total: float
    """Epochs."""
    most: float
    """Epochs that one fault has cost."""
    unexplained: float
    """Epochs redone without a fault."""
    unexplained_of: tuple[int, ...]
    """The trials that those are of."""
    faults: int
    """All that struck, those that cost nothing too."""

    @property
    def mean(self) -> float:
        """Epochs for each fault."""
        return self.total / max(1, self.faults)


def redone(steps: Sequence[Step], struck: Sequence[Struck], steps_of_epoch: int) -> Redone:
    """What `struck` has cost, by the diary of all steps in the order of time."""
    of_trial: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        of_trial[step.trial].append(step)
    blows = _blows(steps, struck)
    costs = {trial: _costs(taken, sorted(blows[trial]), steps_of_epoch) for trial, taken in of_trial.items()}
    groups = [group for groups, _ in costs.values() for group in groups]
    unexplained = sum(lost for _, lost in costs.values())
    return Redone(
        total=sum(epochs for epochs, _ in groups) + unexplained,
        most=max((epochs / faults for epochs, faults in groups), default=0.0),
        unexplained=unexplained,
        unexplained_of=tuple(trial for trial, (_, lost) in costs.items() if lost),
        faults=len(struck),
    )


def _blows(steps: Sequence[Step], struck: Sequence[Struck]) -> dict[int, list[float]]:
    """Trial -> the times of the faults that may have cost it something."""
    blows: dict[int, list[float]] = defaultdict(list)
    for fault in struck:
        if not fault.loses:
            continue
        for trial in _hit(steps, fault):
            blows[trial].append(fault.at)
    return blows


def _hit(steps: Sequence[Step], fault: Struck) -> set[int]:
    """The trials that a fault hit: what its worker had under way; of one of all, every trial begun before it ended."""
    if fault.pid is None:
        return {step.trial for step in steps if step.at <= fault.at + fault.lasts}
    under_way = [step.trial for step in steps if step.pid == fault.pid and step.at <= fault.at + 0.1]
    return set(under_way[-1:])


def _costs(taken: Sequence[Step], blows: list[float], steps_of_epoch: int) -> tuple[list[tuple[float, int]], float]:
    """Of one trial: (epochs redone, faults that cost them) for each group of faults, and epochs without any."""
    seen: set[float] = set()
    groups: list[tuple[float, int]] = []
    unexplained = 0.0
    waiting = list(blows)
    owner: int | None = None
    for step in taken:
        if step.position is None:
            owner = step.pid
            continue
        if step.pid != owner:
            continue
        if step.position not in seen:
            seen.add(step.position)
            continue
        fresh = [at for at in waiting if at <= step.at]
        if fresh:
            waiting = waiting[len(fresh) :]
            groups.append((0.0, len(fresh)))
        if groups:
            groups[-1] = (groups[-1][0] + 1 / steps_of_epoch, groups[-1][1])
        else:
            unexplained += 1 / steps_of_epoch
    return groups, unexplained

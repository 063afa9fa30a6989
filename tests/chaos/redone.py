"""Epochs redone: counted from the diary that the workers' steps leave, not from what hpo says of itself.

Each time a trial is taken up again, what its last owner had reached and the next one begins behind is redone: it is
the cost of those faults since that owner's first step that may cost a trial what it did since its last checkpoint
(SIGKILL, SIGSTOP beyond the lease, a corrupted checkpoint, a full disk, an outage longer than half a lease), shared
evenly among them. Without such a fault it is redone without a fault: that is never allowed.

What a worker does between waking from a sleep longer than its lease and noticing that its trial is another's (a renewal
or a step, whichever is later) is nobody's progress: those steps count neither as taken nor as redone.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.ledger import Struck
from tests.chaos.steps import Step

Blow = tuple[float, float]
"""When a fault began and ended."""


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
    """Trial -> beginning and end of the faults that may have cost it something."""
    blows: dict[int, list[Blow]] = defaultdict(list)
    for fault in struck:
        if not fault.loses:
            continue
        for trial in _hit(steps, fault):
            blows[trial].append((fault.at, fault.at + fault.lasts))
    return blows


def _hit(steps: Sequence[Step], fault: Struck) -> set[int]:
    """The trials that a fault hit: what its worker had under way; of one of all, every trial begun before it ended."""
    if fault.pid is None:
        return {step.trial for step in steps if step.at <= fault.at + fault.lasts}
    under_way = [step.trial for step in steps if step.pid == fault.pid and step.at <= fault.at + 0.1]
    return set(under_way[-1:])


def _costs(taken: Sequence[Step], blows: list[Blow], steps_of_epoch: int) -> tuple[list[tuple[float, int]], float]:
    """Of one trial: (epochs redone, faults that cost them) for each time that it changed hands, and epochs without."""
    groups: list[tuple[float, int]] = []
    unexplained = 0.0
    for before, after in itertools.pairwise(_takings(taken)):
        cost = max(0.0, _position(before[-1]) - (_position(after[0]) - 1 / steps_of_epoch))
        faults = [begun for begun, ended in blows if begun <= after[0].at and ended >= before[0].at]
        if faults:
            groups.append((cost, len(faults)))
        else:
            unexplained += cost
    return groups, unexplained


def _takings(taken: Sequence[Step]) -> list[list[Step]]:
    """The steps of each owner, those left out that an owner took after it was none; owners that took none left out."""
    takings: list[list[Step]] = []
    owner: int | None = None
    for step in taken:
        if step.position is None:
            owner = step.pid
            takings.append([])
        elif step.pid == owner:
            takings[-1].append(step)
    return [steps for steps in takings if steps]


def _position(step: Step) -> float:
    assert step.position is not None
    return step.position

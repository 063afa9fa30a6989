"""Findings: checks of promises that `verify` does not cover. Each returns a message for every broken promise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from storage import CheckpointError
from tests.chaos.crew import Exit
from tests.chaos.ledger import Struck
from tests.chaos.scene import Scene
from tests.chaos.sql import Sql
from tests.chaos.steps import Step
from tests.chaos.verify import Curve, read_curves
from tests.chaos.worker import KEEP


def with_poison(expected: Mapping[int, Curve], poison: frozenset[int]) -> dict[int, Curve]:
    """Return the expected curves: those of a run without faults, but poison trials fail after their first epoch."""
    return {
        number: replace(curve, state="FAIL", value=None, reports={1: curve.reports[1]}) if number in poison else curve
        for number, curve in expected.items()
    }


def unblamed(sql: Sql, poison: frozenset[int]) -> list[str]:
    """Report the poison trials that have not failed with the deaths of their workers as the reason."""
    rows = sql(
        "SELECT number FROM trials JOIN trial_user_attributes USING (trial_id) "
        "WHERE study_id = (SELECT min(study_id) FROM studies) AND key = 'reason' AND value_json LIKE '%worker died%'"
    )
    blamed = {number for (number,) in rows}
    return [f"poison trial {number} was not failed for killing its workers" for number in sorted(poison - blamed)]


def missing_best(scene: Scene) -> list[str]:
    """Report the best complete trials whose checkpoint is missing or damaged, among those that workers keep.

    Workers of a copy of the study with the same id could remove these checkpoints.
    """
    complete = [curve for curve in read_curves(scene.sql) if curve.state == "COMPLETE" and curve.value is not None]
    best = sorted(complete, key=lambda curve: curve.value or 0.0, reverse=True)[:KEEP]
    store = scene.store.open(scene.study)
    missing = []
    for curve in best:
        try:
            store.read(curve.number, "best")
        except CheckpointError as error:
            missing.append(f"trial {curve.number} is among the best, but {error}")
    return missing


def unwritten(curves: Iterable[Curve], steps: Iterable[Step]) -> list[str]:
    """Report the trials with a reported epoch whose last step is not in the diary.

    Repeated epochs of a process without a diary would not be counted.
    """
    taken = {(step.trial, round(step.position, 3)) for step in steps if step.position is not None}
    missing = {c.number: [epoch for epoch in sorted(c.reports) if (c.number, epoch) not in taken] for c in curves}
    return [
        f"trial {number}: epochs {epochs} were reported, but their steps are not in the diary"
        for number, epochs in missing.items()
        if epochs
    ]


def attempts_by(steps: Iterable[Step], processes: Collection[int]) -> int:
    """Return how often one of `processes` has claimed a trial."""
    return sum(step.position is None and step.pid in processes for step in steps)


def wrong_exits(
    exits: Iterable[Exit], outages: Sequence[Struck], trained: Collection[int]
) -> tuple[list[str], list[str]]:
    """Return messages on unexpected exits, and notes on exits that are allowed during `outages`.

    `outages` are those of the object store and the stalls of the machine, `trained` the pids of workers that claimed a
    trial. Meanwhile a worker may take longer to end after a signal, and a worker without a trial ends with 2.
    """
    wrong, late, unable = [], 0, 0
    for ended in exits:
        meanwhile = any(
            begun.at <= ended.at and begun.at + begun.lasts >= ended.at - (ended.leaving or ended.lived)
            for begun in outages
        )
        if ended.late and meanwhile:
            late += 1
        elif ended.code == 2 and meanwhile and ended.pid not in trained:
            unable += 1
        elif ended.wrong:
            wrong.append(ended.wrong)
    notes = [
        f"{late} workers took longer than 10 s to leave while the object store was away or the machine stood still",
        f"{unable} workers that were started while the object store was away ended with 2",
    ]
    return wrong, [note for note in notes if not note.startswith("0 ")]

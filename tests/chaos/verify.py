"""Verify: compare a study with faults to a run without faults.

lost              numbers below the cap without a trial
duplicated        numbers or parameters that two trials share; trials finished twice; reports written twice (a
                  replicate shares the parameters of its original, in every bit, and no other's)
stuck             trials that are not finished
wrongly failed    failed trials that did not fail without faults
differing         reports that are missing, additional or different in any bit; final values, states and
                  parameters that differ (for failed and unfinished trials only their reports count)
beyond the cap    trials more than the cap
unleased          commits that left a trial RUNNING with no lease to expire
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.audit import Note, notes
from tests.chaos.sql import Sql

FINISHED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Curve:
    """A trial in the database."""

    number: int
    state: str
    value: float | None
    parameters: Mapping[str, float]
    reports: Mapping[int, float]
    replicate_of: int | None = None
    """The number of the trial whose parameters it has."""

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


@dataclass(frozen=True)
class Verdict:
    """The counts; each has to be 0. `details` names the trials."""

    lost: int
    duplicated: int
    stuck: int
    wrongly_failed: int
    differing: int
    beyond_cap: int
    unleased: int
    details: Sequence[str] = field(default=())

    def counts(self) -> dict[str, int]:
        return {
            "lost": self.lost,
            "duplicated": self.duplicated,
            "stuck": self.stuck,
            "wrongly failed": self.wrongly_failed,
            "reports differing from the fault-free run": self.differing,
            "trials beyond the cap": self.beyond_cap,
            "running without a lease": self.unleased,
        }


def read_curves(sql: Sql) -> list[Curve]:
    """Return every trial of the first study in the database, by number; copies of that study come later."""
    reports: dict[int, dict[int, float]] = {}
    for trial, step, value in sql("SELECT trial_id, step, intermediate_value FROM trial_intermediate_values"):
        reports.setdefault(trial, {})[step] = value
    parameters: dict[int, dict[str, float]] = {}
    for trial, name, value in sql("SELECT trial_id, param_name, param_value FROM trial_params"):
        parameters.setdefault(trial, {})[name] = value
    marks = sql("SELECT trial_id, value_json FROM trial_user_attributes WHERE key = 'replicate_of'")
    originals = {trial: int(value) for trial, value in marks}
    rows = sql(
        "SELECT trial_id, number, state::text, value "
        "FROM trials LEFT JOIN trial_values USING (trial_id) "
        "WHERE study_id = (SELECT min(study_id) FROM studies) ORDER BY number, trial_id"
    )
    return [
        Curve(n, state, value, parameters.get(i, {}), reports.get(i, {}), originals.get(i))
        for i, n, state, value in rows
    ]


def judge(sql: Sql, expected: Mapping[int, Curve]) -> Verdict:
    """Compare the study in a database, which `audit` has watched, to the curves of a run without faults."""
    return compare(read_curves(sql), notes(sql), expected)


def compare(found: Sequence[Curve], seen: Sequence[Note], expected: Mapping[int, Curve]) -> Verdict:
    """Compare curves and audit records that were read; see `judge`."""
    numbers = Counter(curve.number for curve in found)
    lost = sorted(set(expected) - set(numbers))
    twice = _twice(found, seen)
    stuck = [c.number for c in found if not c.finished]
    failed = [c.number for c in found if c.state == "FAIL" and _state(expected, c.number) != "FAIL"]
    different = [text for c in found if c.number in expected for text in _differences(c, expected[c.number])]
    unleased = [
        f"trial {note.trial} ran without a lease, by a write to {note.what}" for note in seen if note.kind == "unleased"
    ]
    return Verdict(
        lost=len(lost),
        duplicated=len(twice),
        stuck=len(stuck),
        wrongly_failed=len(failed),
        differing=len(different),
        beyond_cap=max(0, len(found) - len(expected)),
        unleased=len(unleased),
        details=(
            *(f"trial {number} is lost" for number in lost),
            *twice,
            *(f"trial {number} is stuck" for number in stuck),
            *(f"trial {number} failed wrongly" for number in failed),
            *different,
            *unleased,
        ),
    )


def _twice(found: Sequence[Curve], seen: Sequence[Note]) -> list[str]:
    """Return a message for everything that exists more than once."""
    numbers = Counter(curve.number for curve in found)
    searched = [curve for curve in found if curve.replicate_of is None]
    drawn = Counter(tuple(sorted(curve.parameters.items())) for curve in searched if curve.parameters)
    repeated = Counter(curve.replicate_of for curve in found if curve.replicate_of is not None)
    parameters = {curve.number: curve.parameters for curve in found}
    other = [c for c in found if c.replicate_of is not None and c.parameters != parameters.get(c.replicate_of)]
    ends = Counter(note.trial for note in seen if note.kind == "state" and note.what in FINISHED)
    written = Counter((note.trial, note.what) for note in seen if note.kind == "report")
    return [
        *(f"number {number} is that of {count} trials" for number, count in numbers.items() if count > 1),
        *(f"{count} trials have the parameters {dict(values)}" for values, count in drawn.items() if count > 1),
        *(f"trial {number} was repeated {count} times" for number, count in repeated.items() if count > 1),
        *(f"trial {c.number} repeats trial {c.replicate_of} with other parameters" for c in other),
        *(f"trial {number} was finished {count} times" for number, count in ends.items() if count > 1),
        *(f"trial {n}, epoch {step} was reported {count} times" for (n, step), count in written.items() if count > 1),
    ]


def _differences(found: Curve, expected: Curve) -> list[str]:
    """Return a message for every difference between a trial and the same trial without faults."""
    whole = found.state in ("COMPLETE", "PRUNED")
    steps = {*found.reports, *(expected.reports if whole else ())}
    differences = [
        f"trial {found.number}, epoch {step}: {found.reports.get(step)!r}, not {expected.reports.get(step)!r}"
        for step in sorted(steps)
        if not same_bits(found.reports.get(step), expected.reports.get(step))
    ]
    if whole and (found.state != expected.state or not same_bits(found.value, expected.value)):
        ends = f"{found.state} {found.value!r}, not {expected.state} {expected.value!r}"
        differences.append(f"trial {found.number} ended {ends}")
    if whole and found.parameters != expected.parameters:
        differences.append(f"trial {found.number} has other parameters: {dict(found.parameters)}")
    return differences


def same_bits(one: float | None, other: float | None) -> bool:
    """Return whether two numbers are equal in every bit; NaN equals itself then."""
    if one is None or other is None:
        return one is other
    return struct.pack("d", one) == struct.pack("d", other)


def _state(expected: Mapping[int, Curve], number: int) -> str | None:
    return expected[number].state if number in expected else None

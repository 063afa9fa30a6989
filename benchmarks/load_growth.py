"""What a trial costs as the study grows: through hpo's leases and through plain optuna, in turns on one server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Connection, inspect, text

from benchmarks.load_studies import EPOCHS, STEPS, Study

ROUNDS = 20
"""Trials that are measured at each size."""
_OF_TRIALS = (
    "trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes", "trial_system_attributes",
    "hpo_leases",
)  # fmt: skip


@dataclass
class Growth:
    """The cost of one kind of study at each size."""

    sizes: list[int] = field(default_factory=list)
    median: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in (*STEPS, "trial")})
    """Seconds."""
    statements: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    start: list[float] = field(default_factory=list)
    """Seconds of the first trial of a process that has not seen the others yet, with all its steps."""

    def note(self, size: int, study: Study, start: float) -> None:
        """Add the medians at one size."""
        self.sizes.append(size)
        self.start.append(start)
        for step in STEPS:
            self.median[step].append(statistics.median(study.watch.seconds[step]))
            self.statements[step].append(statistics.median(study.watch.statements[step]))
        once = sum(self.median[step][-1] for step in STEPS if step != "report")
        self.median["trial"].append(once + EPOCHS * self.median["report"][-1])

    def exponent(self, step: str) -> float:
        """b of the least-squares fit seconds = a * size ** b."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.median[step]), 1)[0])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**vars(self), "exponent": {step: self.exponent(step) for step in self.median}}


def grow(studies: dict[str, Study], sizes: Sequence[int], found: dict[str, Growth]) -> Iterator[int]:
    """Fill the studies up to one size after another, measure, and add what was found; yields each size when done."""
    for study in studies.values():
        study.run_trial()  # the one that the fill is copied from
    for size in sizes:
        starts = {name: _prepare(study, size) for name, study in studies.items()}
        for _ in range(ROUNDS):
            for study in studies.values():
                study.run_trial()
        for name, study in studies.items():
            found[name].note(size, study, starts[name])
        yield size


def _prepare(study: Study, size: int) -> float:
    """Fill up to `size` trials; seconds of the first trial after that, which reads them all. It is not measured."""
    with study.engine.begin() as connection:
        fill(connection, study.study._study_id, size)
    with study.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    begin = time.perf_counter()
    study.run_trial()
    seconds = time.perf_counter() - begin
    study.watch.forget()
    return seconds


def fill(connection: Connection, study: int, size: int) -> None:
    """Copy the study's first trial, with all that belongs to it, until there are `size`."""
    values = {"study": study, "size": size}
    first = connection.execute(text("SELECT coalesce(max(number), -1) + 1 FROM trials WHERE study_id = :study"), values)
    values["first"] = first.scalar_one()
    connection.execute(
        text(
            """
            INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
            SELECT g, t.study_id, t.state, t.datetime_start, t.datetime_complete
            FROM trials t, generate_series(:first, :size - 1) g WHERE t.study_id = :study AND t.number = 0 ORDER BY g
            """
        ),
        values,
    )
    existing = inspect(connection).get_table_names()
    for table in (name for name in _OF_TRIALS if name in existing):
        connection.execute(text(_copy(connection, table)), values)


def _copy(connection: Connection, table: str) -> str:
    """SQL that gives the new trials the rows that the first one has in `table`."""
    columns = [column["name"] for column in inspect(connection).get_columns(table)]
    own = {"trial_id", *inspect(connection).get_pk_constraint(table)["constrained_columns"]}
    names = [name for name in columns if name not in own]
    # Names of tables and columns, from the database itself.
    return f"""
        INSERT INTO {table} (trial_id, {", ".join(names)})
        SELECT n.trial_id, {", ".join(f"c.{name}" for name in names)}
        FROM {table} c JOIN trials t ON t.trial_id = c.trial_id AND t.study_id = :study AND t.number = 0
        JOIN trials n ON n.study_id = :study AND n.number >= :first
    """  # noqa: S608

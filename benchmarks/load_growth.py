"""Measure the cost of a trial as the study grows: with hpo's leases and with plain optuna, in turns on one server."""

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
"""Number of trials that are measured at each size."""
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
    """Seconds of all steps of the first trial in a process that has not read the other trials yet."""

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
        """Return b of the least-squares fit seconds = a * size ** b."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.median[step]), 1)[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return {**vars(self), "exponent": {step: self.exponent(step) for step in self.median}}


def grow(studies: dict[str, Study], sizes: Sequence[int], found: dict[str, Growth]) -> Iterator[int]:
    """Fill the studies to one size after another and measure; yield each size when it is done."""
    for study in studies.values():
        study.run_trial()  # the trial that is copied to fill the study
    for size in sizes:
        starts = {name: _prepare(study, size) for name, study in studies.items()}
        for _ in range(ROUNDS):
            for study in studies.values():
                study.run_trial()
        for name, study in studies.items():
            found[name].note(size, study, starts[name])
        yield size


def _prepare(study: Study, size: int) -> float:
    """Fill up to `size` trials; return the seconds of the next trial, which reads them all and is not measured."""
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
    """Copy the study's first trial, with all its rows, until there are `size` trials."""
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
    """Return SQL that copies the first trial's rows in `table` for the new trials."""
    columns = [column["name"] for column in inspect(connection).get_columns(table)]
    own = {"trial_id", *inspect(connection).get_pk_constraint(table)["constrained_columns"]}
    names = [name for name in columns if name not in own]
    # The names of tables and columns come from the database itself.
    return f"""
        INSERT INTO {table} (trial_id, {", ".join(names)})
        SELECT n.trial_id, {", ".join(f"c.{name}" for name in names)}
        FROM {table} c JOIN trials t ON t.trial_id = c.trial_id AND t.study_id = :study AND t.number = 0
        JOIN trials n ON n.study_id = :study AND n.number >= :first
    """  # noqa: S608

"""Steps: the diary of every training step of every worker, independent of hpo's own records.

Each worker appends a line to one file when it has claimed a trial, and after every step: with `O_APPEND` and one
`write` a line, so that neither a kill nor another worker tears a line. Times are of the machine's monotonic clock, the
same for all processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_TICK = 0.02  # seconds


@dataclass(frozen=True)
class Step:
    """One line of the diary."""

    at: float
    """Seconds of the monotonic clock."""
    pid: int
    trial: int
    position: float | None
    """Epochs done after the step, with the fraction of the current one; None when a worker has claimed the trial."""


class Diary:
    """Appends to the file at `path`; `numbers` gives the trial's number by the seed of its training.

    `after_step` is called with the trial and its position after each step was written. While the file `hold_file(path)`
    exists, training waits between two steps, unless it is asked to stop.
    """

    def __init__(
        self, path: Path, numbers: Mapping[int, int], after_step: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._numbers, self._after_step = numbers, after_step
        self._hold = hold_file(path)

    def noting_claims(self, run_trial: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `run_trial` so that the claim is written before the trial is prepared, which may take seconds."""

        def note_and_run(context: Any, claim: Any) -> Any:
            self._note(claim.number, None)
            return run_trial(context, claim)

        return note_and_run

    def noting_steps(self, fit: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `fit` so that each step is written before the caller's `on_step` is called."""

        def fit_and_note(config: Any, data: Any, runtime: Any, *rest: Any) -> Any:
            trial, forward = self._numbers[runtime.seed], runtime.on_step

            def on_step(position: float) -> None:
                self._note(trial, position)
                self._after_step(trial, position)
                while self._hold.exists() and not runtime.should_stop():
                    time.sleep(_TICK)
                forward(position)

            return fit(config, data, replace(runtime, on_step=on_step), *rest)

        return fit_and_note

    def _note(self, trial: int, position: float | None) -> None:
        where = "-" if position is None else f"{position:.6f}"
        os.write(self._file, f"{time.monotonic():.6f} {os.getpid()} {trial} {where}\n".encode())


def hold_file(diary: Path) -> Path:
    """Return the file whose existence lets all training wait, so that faults keep pace on a busy machine."""
    return diary.with_name("hold")


def read_steps(path: Path) -> list[Step]:
    """Return every line of the diary, in the order of time."""
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text().splitlines())
    steps = [Step(float(at), int(pid), int(t), None if p == "-" else float(p)) for at, pid, t, p in lines]
    return sorted(steps, key=lambda step: step.at)

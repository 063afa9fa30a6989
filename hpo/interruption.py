"""Stopping of a run: lengthy code calls `should_stop` between two parts of its work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

ShouldStop = Callable[[], bool]

T = TypeVar("T")


def never() -> bool:
    """Return False: the default `should_stop`, which never stops a run."""
    return False


def until_stopped(parts: Iterable[T], should_stop: ShouldStop) -> Iterator[T]:
    """Yield `parts` until `should_stop()` is True; then raise TrainingInterrupted in place of the next part.

    A caller that passes a generator with threads must close it: the exception keeps the frames of its traceback, and
    so the generator, alive.
    """
    for part in parts:
        if should_stop():
            raise TrainingInterrupted("stopped on request")
        yield part


class TrainingInterrupted(Exception):  # noqa: N818 - an outcome, not an error
    """Training stopped between two steps, or two batches of validation, because `should_stop()` returned True.

    `snapshot` is the state to resume from; None if there is none newer than the last epoch's, or than the one that the
    run resumed from.
    """

    def __init__(self, message: str, snapshot: Any = None) -> None:
        self.snapshot = snapshot
        super().__init__(message)

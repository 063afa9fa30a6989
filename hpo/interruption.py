"""How a run is stopped: whoever does something lengthy asks `should_stop` between two parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

ShouldStop = Callable[[], bool]

T = TypeVar("T")


def never() -> bool:
    """The `should_stop` of a run that nobody stops."""
    return False


def until_stopped(parts: Iterable[T], should_stop: ShouldStop) -> Iterator[T]:
    """`parts`, as long as nobody asks to stop; TrainingInterrupted instead of the next one then.

    Who gives a generator with threads closes it: an exception keeps alive what the frames that it went through hold.
    """
    for part in parts:
        if should_stop():
            raise TrainingInterrupted("stopped on request")
        yield part


class TrainingInterrupted(Exception):  # noqa: N818 - an outcome, not an error
    """Training stopped between two steps, or two batches of validation, because `should_stop()` returned True.

    `snapshot` is the state to go on from; None where there is nothing newer than the last epoch's, or than the one
    that the run went on from.
    """

    def __init__(self, message: str, snapshot: Any = None) -> None:
        self.snapshot = snapshot
        super().__init__(message)

"""What asks a worker to stop: signals, the notice of a preemption, the end of the parent that started it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

LOOK = 1.0
"""Seconds between two looks for the file that announces a preemption."""


NOTICE = signal.SIGUSR1
"""What asks for a stop and may come any number of times: a worker hands on its own stop with it."""


@contextmanager
def handled(handler: Handler, numbers: Iterable[int], always: Iterable[int] = ()) -> Iterator[None]:
    """Handle the signals inside the block, and restore the former handlers after it.

    One that was ignored when this process was started stays ignored: `nohup` and `trap '' HUP` ask for that, and a
    shell does it to SIGINT for what a script runs in the background. Only those of `always` are handled all the same.
    """
    given = list(always)
    wanted = [number for number in (*numbers, *given) if number in given or signal.getsignal(number) != signal.SIG_IGN]
    former = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP ask for a stop at the next step; a second one ends the process at once.

    SIGUSR1 and SIGXCPU, which Slurm sends ahead of a time limit (`--signal=USR1@60`), and the appearance of the file
    `notice`, which the shutdown hooks of spot machines can make, ask too, and never count as the second. Of the first
    three those that were ignored from the start ask for nothing.
    """

    _STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    _NOTICES = (NOTICE, signal.SIGXCPU)

    def __init__(self, notice: Path | None = None) -> None:
        self._received: str | None = None
        self._stopped = False
        self._notice = notice
        self._next_look = 0.0

    @property
    def received(self) -> str | None:
        """What asked for a stop; None while nobody did."""
        if self._received is None and self._notice is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK
            if self._notice.exists():
                self._ask(f"notice of preemption {self._notice}")
        return self._received

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Signal handler."""
        if number in self._STOPS:
            if self._stopped:
                os._exit(128 + number)
            self._stopped = True
        self._ask("asked to stop" if number == NOTICE else signal.Signals(number).name)

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals inside the block, and restore the former handlers after it."""
        with handled(self, self._STOPS, always=self._NOTICES):
            yield self

    def _ask(self, what: str) -> None:
        if self._received is None:
            self._received = what
            # Not through `logging`: a handler may interrupt a line that is just being written.
            now = time.strftime("%H:%M:%S")
            os.write(2, f"{now} {what}: stopping at the next step, a second SIGTERM leaves at once\n".encode())


def stop_with_parent() -> None:
    """Ask this process to stop when its standard input ends: the parent that held the other end is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), NOTICE)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()

"""Requests to stop a worker: signals, the notice of a preemption, the end of the parent that started it."""

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

NOTICE_INTERVAL = 1.0
"""Seconds between two checks for the file that announces a preemption."""

STOP_REQUEST = signal.SIGUSR1
"""The signal by which a worker forwards its own stop to its processes: it may come any number of times."""


@contextmanager
def handle_signals(handler: Handler, numbers: Iterable[int], always: Iterable[int] = ()) -> Iterator[None]:
    """Handle the signals inside the block, and restore the former handlers after it.

    A signal that was ignored when this process was started stays ignored: `nohup` and `trap '' HUP` ask for that, and
    a shell does it to SIGINT for the background jobs of a script. Only those of `always` are handled all the same.
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
    _NOTICES = (STOP_REQUEST, signal.SIGXCPU)

    def __init__(self, notice: Path | None = None) -> None:
        self._received: str | None = None
        self._stopped = False
        self._notice = notice
        self._next_check = 0.0

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals inside the block, and restore the former handlers after it."""
        with handle_signals(self, self._STOPS, always=self._NOTICES):
            yield self

    @property
    def received(self) -> str | None:
        """The first request to stop, in words; None before it."""
        if self._received is None and self._notice is not None and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + NOTICE_INTERVAL
            if self._notice.exists():
                self._request_stop(f"notice of preemption {self._notice}")
        return self._received

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Handle a signal."""
        if number in self._STOPS:
            if self._stopped:
                os._exit(128 + number)
            self._stopped = True
        self._request_stop("asked to stop" if number == STOP_REQUEST else signal.Signals(number).name)

    def _request_stop(self, cause: str) -> None:
        if self._received is None:
            self._received = cause
            # Not through `logging`: a handler may interrupt a line that is just being written.
            now = time.strftime("%H:%M:%S")
            os.write(2, f"{now} {cause}: stopping at the next step, a second SIGTERM leaves at once\n".encode())


def stop_with_parent() -> None:
    """Ask this process to stop when its standard input ends: the parent that held the other end is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), STOP_REQUEST)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()

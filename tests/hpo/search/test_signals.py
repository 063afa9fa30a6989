"""Signals that ask for a stop; a signal that was ignored from the start does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest

from hpo.cli import _unwinding
from hpo.cli.watching import forwarding
from hpo.search.signals import StopSignal, handle_signals


@contextmanager
def stop_signal(seen: list[str]) -> Iterator[None]:
    with StopSignal().installed() as stop:
        yield
    if stop.received:
        seen.append(stop.received)


@contextmanager
def local_workers(seen: list[str]) -> Iterator[None]:
    stand_in: Any = SimpleNamespace(stopping=False, stop=lambda: seen.append("stopped"))
    with forwarding(stand_in):
        yield


@contextmanager
def unwinding(seen: list[str]) -> Iterator[None]:
    try:
        with _unwinding():
            yield
    except SystemExit:
        seen.append("left")


Way = Callable[[list[str]], AbstractContextManager[None]]
WAYS: list[Way] = [stop_signal, local_workers, unwinding]


@pytest.fixture
def ignore() -> Iterator[Callable[[int], None]]:
    """Ignores a signal, as a shell does before it starts a program."""
    former = {}

    def ignore(number: int) -> None:
        former[number] = signal.signal(number, signal.SIG_IGN)

    yield ignore
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_from_the_start_stays_ignored(
    way: Way, number: int, ignore: Callable[[int], None]
) -> None:
    ignore(number)
    seen: list[str] = []
    with way(seen):
        os.kill(os.getpid(), number)
    assert seen == []
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize("way", WAYS)
def test_a_signal_that_was_not_ignored_asks_for_a_stop(way: Way) -> None:
    before, seen = signal.getsignal(signal.SIGHUP), list[str]()
    with way(seen):
        os.kill(os.getpid(), signal.SIGHUP)
    assert len(seen) == 1
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.parametrize("way", [stop_signal, local_workers])
def test_the_stop_request_of_a_run_is_handled_even_where_it_was_ignored(
    way: Way, ignore: Callable[[int], None]
) -> None:
    ignore(signal.SIGUSR1)
    seen: list[str] = []
    with way(seen):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert len(seen) == 1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def test_the_former_handlers_are_there_again_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with handle_signals(lambda *_: None, [signal.SIGTERM]):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.postgres
@pytest.mark.parametrize("before", [("nohup",), ("sh", "-c", 'trap \'\' HUP; exec "$0" "$@"'), ()])
def test_a_dashboard_under_nohup_outlives_its_terminal(
    database_url: str, tmp_path: Path, before: tuple[str, ...]
) -> None:
    dashboard = subprocess.Popen(
        [*before, sys.executable, "-m", "hpo", "dashboard", "--port", "0", "--storage", database_url], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert dashboard.stdout is not None
    try:
        url = next(found[0] for line in dashboard.stdout if (found := re.search(r"http://[\d.:]+", line)))
        dashboard.send_signal(signal.SIGHUP)
        if before:
            with urlopen(url) as answer:
                assert answer.status == 200
            dashboard.terminate()
        dashboard.communicate(timeout=30)
    finally:
        dashboard.kill()
        dashboard.wait()

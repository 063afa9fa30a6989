"""Writers whose object operations are interleaved by a schedule, one at a time, with kills in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from storage.objects import ObjectStore, StoredObject


class MemoryObjects:
    """Objects in a dictionary."""

    place = "memory"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        self.content[key] = content

    def get(self, key: str) -> bytes:
        if key not in self.content:
            raise FileNotFoundError(2, "No such object", key)
        return self.content[key]

    def list(self, prefix: str = "") -> list[StoredObject]:
        return [StoredObject(key, len(data), 0.0) for key, data in self.content.items() if key.startswith(prefix)]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.content.pop(key, None)


class KilledError(BaseException):
    """A killed process: it does nothing any more, not even clean up."""


class Interleaving:
    """Lets one writer after another act; writers that have finished or were killed are skipped."""

    def __init__(self, schedule: Sequence[int], check: Callable[[], None]) -> None:
        self._schedule = list(schedule)
        self._check = check
        self._turn = threading.Condition()
        self._live: set[int] = set()
        self.faults: list[BaseException] = []

    def run(self, *writers: Callable[[], None]) -> None:
        """Run the writers to their ends. Raises the first error of a writer or of a check."""
        self._live = set(range(len(writers)))
        threads = [threading.Thread(target=self._one, args=(i, w), daemon=True) for i, w in enumerate(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads), "a writer hangs"
        if self.faults:
            raise self.faults[0]

    def step(self, writer: int, operation: Callable[[], object]) -> object:
        """Do one operation when it is the writer's turn, and check."""
        with self._turn:
            self._turn.wait_for(lambda: self._next() == writer)
            try:
                return operation()
            finally:
                self._schedule[:1] = []
                self._turn.notify_all()
                self._checked()

    def _next(self) -> int:
        while self._schedule and self._schedule[0] not in self._live:
            self._schedule.pop(0)
        return self._schedule[0] if self._schedule else min(self._live)

    def _checked(self) -> None:
        try:
            self._check()
        except AssertionError as error:
            self.faults.append(error)

    def _one(self, number: int, writer: Callable[[], None]) -> None:
        try:
            writer()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self.faults.append(error)
        finally:
            with self._turn:
                self._live.discard(number)
                self._turn.notify_all()


class Gated:
    """The objects as one writer uses them; it is killed after `life` operations."""

    def __init__(self, objects: ObjectStore, interleaving: Interleaving, writer: int, life: int) -> None:
        self.place = objects.place
        self._objects, self._interleaving, self._writer, self._life = objects, interleaving, writer, life

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        self._do(lambda: self._objects.put(key, content, settled=settled))

    def get(self, key: str) -> bytes:
        return self._do(lambda: self._objects.get(key))  # type: ignore[return-value]

    def list(self, prefix: str = "") -> list[StoredObject]:
        return self._do(lambda: self._objects.list(prefix))  # type: ignore[return-value]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._do(lambda key=key: self._objects.delete([key]))  # type: ignore[misc]

    def _do(self, operation: Callable[[], object]) -> object:
        if self._life <= 0:
            raise KilledError
        self._life -= 1
        return self._interleaving.step(self._writer, operation)

"""The quota holds before and after every operation on the objects, for interleaved writers and for processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import CheckpointError, CheckpointStore, DiskFullError, Quota, open_objects
from storage.checkpoint_versions import format_size
from storage.objects import FolderObjects, ObjectStore, StoredObject

from .interleaving import Gated, Interleaving, MemoryObjects

BODY = 1000
MANIFEST = 184  # bytes, with a file `a` and no notes
SIZE = BODY + MANIFEST


class Watched:
    """Objects whose total size is checked before and after every operation."""

    def __init__(self, objects: ObjectStore, limit: int) -> None:
        self.place = objects.place
        self._objects, self._limit = objects, limit

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        self._look()
        self._objects.put(key, content, settled=settled)
        self._look()

    def get(self, key: str) -> bytes:
        return self._objects.get(key)

    def list(self, prefix: str = "") -> list[StoredObject]:
        return self._objects.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._look()
            self._objects.delete([key])

    def _look(self) -> None:
        # A listing is no snapshot: what another process removes after it was counted, and writes later, counts twice.
        total = min(sum(found.size for found in self._objects.list()) for _ in range(3))
        assert total <= self._limit, f"{total} bytes lie there, {self._limit} may"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.checkpoints._TRIES", 0)


def write(store: CheckpointStore, trial: int, kind: Any = "latest", token: int = 1, body: int = BODY) -> str:
    return store.write(trial, kind, {"a": b"x" * body}, {}, token=token)


def store_of(objects: ObjectStore, limit: int, evictable: Iterable[int] = ()) -> CheckpointStore:
    return CheckpointStore(Watched(objects, limit), quota=Quota(limit, lambda: list(evictable)))


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_objects(tmp_path if request.param == "folder" else request.getfixturevalue("s3_root"))


def test_the_size_of_a_version_in_these_tests() -> None:
    memory = MemoryObjects()
    write(CheckpointStore(memory), 0)
    assert sum(map(len, memory.content.values())) == SIZE


def test_evictable_trials_are_removed_in_order_and_no_more_than_needed(objects: ObjectStore) -> None:
    full = CheckpointStore(objects)
    for trial in (0, 1, 2):
        write(full, trial, "best")
    store = store_of(objects, 3 * SIZE, [1, 0, 2])
    write(store, 9)
    assert store.trials() == {0, 2, 9}
    write(store, 9)
    assert store.trials() == {2, 9}


def test_drafts_and_second_versions_of_finished_trials_are_removed_before_their_newest_best() -> None:
    memory = MemoryObjects()
    full = CheckpointStore(memory)
    for kind in ("best", "best", "latest"):
        write(full, 0, kind)
    write(full, 1, token=1)
    memory.put("1/latest-0000000001-00000002/a", b"x" * SIZE)  # of an owner that was killed
    write(full, 1, "best", token=2)
    memory.put("1/latest-0000000001-00000002/a", b"x" * SIZE)
    store = store_of(memory, 6 * SIZE, [0])
    gone = []
    for trial in (10, 11, 12, 13):
        before = {key.rpartition("/")[0] for key in memory.content}
        write(store, trial)
        gone.append(before - {key.rpartition("/")[0] for key in memory.content})
    assert gone == [
        {"1/latest-0000000001-00000002"},
        {"0/latest-0000000001-00000001"},
        {"0/best-0000000001-00000001"},
        {"0/best-0000000001-00000002"},
    ]


def test_older_versions_of_the_trial_itself_are_removed_last_and_its_newest_never() -> None:
    memory = MemoryObjects()
    full = CheckpointStore(memory)
    write(full, 0)
    newest = write(full, 0)
    store = store_of(memory, 2 * SIZE)
    successor = write(store, 0)
    assert {key.split("/")[1] for key in memory.content} == {newest, successor}
    tight = CheckpointStore(memory, quota=Quota(2 * SIZE - 1))
    with pytest.raises(DiskFullError):
        write(tight, 0)
    assert full.read(0, "latest").name == successor


def test_an_older_version_of_the_trial_itself_is_kept_if_the_newest_is_damaged() -> None:
    memory = MemoryObjects()
    full = CheckpointStore(memory)
    sound, damaged = write(full, 0), write(full, 0)
    memory.content[f"0/{damaged}/a"] = b"y" * BODY
    with pytest.raises(DiskFullError):
        write(store_of(memory, 2 * SIZE), 0)
    assert full.read(0, "latest").name == sound


def test_a_checkpoint_that_cannot_fit_removes_nothing_and_the_error_names_the_way_out(objects: ObjectStore) -> None:
    full = CheckpointStore(objects)
    for trial in (0, 1):
        write(full, trial, "best")
    before = {found.key for found in objects.list()}
    store = store_of(objects, 2 * SIZE, [0])
    words = r"one checkpoint of trial 9 takes 3\.18 kB, more than the whole quota of 2\.37 kB; raise --checkpoint-quota"
    with pytest.raises(CheckpointError, match=words) as caught:
        write(store, 9, body=3000)
    assert not isinstance(caught.value, DiskFullError), "there will never be room, so no worker may wait for it"
    assert {found.key for found in objects.list()} == before


def test_other_unfinished_trials_keep_both_versions_and_their_drafts() -> None:
    memory = MemoryObjects()
    full = CheckpointStore(memory)
    write(full, 1)
    write(full, 1)
    memory.put(f"2/latest-0000000007-00000001/.needs-{SIZE}", b"")  # announced, nothing written yet
    before = set(memory.content)
    with pytest.raises(DiskFullError):
        write(store_of(memory, 4 * SIZE - 1), 0)
    assert set(memory.content) == before
    write(store_of(memory, 4 * SIZE), 0)


@given(st.lists(st.integers(0, 2), max_size=120), st.lists(st.integers(0, 60), min_size=3, max_size=3))
def test_the_quota_holds_in_any_interleaving_of_writers(schedule: list[int], lives: list[int]) -> None:
    memory, limit = MemoryObjects(), 5 * SIZE

    def check() -> None:
        assert sum(map(len, memory.content.values())) <= limit

    interleaving = Interleaving(schedule, check)

    def writer(number: int) -> None:
        store = CheckpointStore(Gated(memory, interleaving, number, lives[number]), quota=Quota(limit, lambda: [9]))
        for _ in range(3):
            with suppress(DiskFullError):
                write(store, number)

    for kind in ("best", "best", "latest"):
        write(CheckpointStore(memory), 9, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.checkpoints._TRIES", 0)
        interleaving.run(*(partial(writer, number) for number in range(3)))


def test_the_quota_holds_for_concurrent_processes_and_all_finish(tmp_path: Path, at_once: Any) -> None:
    write(CheckpointStore(FolderObjects(tmp_path)), 0, "best")
    # Two amid a write hold three versions each, and the third its newest and a draft.
    assert at_once(3, _write_many, tmp_path, 8 * SIZE) == ["latest-0000000001-00000010"] * 3


def _write_many(root: Path, limit: int) -> str:
    store, trial = store_of(FolderObjects(root), limit, [0]), os.getpid()
    for _ in range(9):
        write(store, trial)
    return write(store, trial)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_250_000_000, "1.25 GB"), (10**13, "10.00 TB")]
)
def test_a_size_is_shown_with_its_unit(size: int, text: str) -> None:
    assert format_size(size) == text

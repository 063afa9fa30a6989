"""Two owners of one trial, the later with the higher token, in any interleaving, killed at any operation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import CheckpointError, CheckpointStore, LeaseLostError
from storage.checkpoint_versions import is_sound, list_versions

from .interleaving import Gated, Interleaving, MemoryObjects

schedules = st.lists(st.integers(0, 1), max_size=80)
lives = st.integers(0, 60)


class Owner:
    """Writes epoch after epoch under its token, and keeps the name of its last durable version."""

    def __init__(self, store: CheckpointStore, token: int, epochs: int = 4) -> None:
        self._store, self._token, self._epochs = store, token, epochs
        self.durable: str | None = None

    def __call__(self) -> None:
        for epoch in range(self._epochs):
            try:
                info = {"epoch": epoch}
                self.durable = self._store.write(0, "latest", {"a": b"x" * 10}, info, token=self._token)
            except LeaseLostError:
                return


@given(schedules, lives, lives)
def test_the_last_version_of_the_highest_token_is_read_at_every_moment(
    schedule: list[int], first_life: int, second_life: int
) -> None:
    objects = MemoryObjects()
    store = CheckpointStore(objects)
    owners: list[Owner] = []

    def check() -> None:
        durable = next((owner.durable for owner in reversed(owners) if owner.durable), None)
        try:
            name = store.read(0, "latest").name
        except CheckpointError:
            name = ""
        assert durable is None or name >= durable  # names sort as (token, number) do
        whole = [version for version in list_versions(objects) if version.whole]
        assert all(is_sound(objects, version) for version in whole if version.token == whole[0].token)

    interleaving = Interleaving(schedule, check)
    for writer, (token, life) in enumerate(((5, first_life), (6, second_life))):
        owners.append(Owner(CheckpointStore(Gated(objects, interleaving, writer, life)), token))
    interleaving.run(*owners)
    check()


@given(schedules, lives)
def test_the_next_owner_leaves_two_versions_and_nothing_else(schedule: list[int], life: int) -> None:
    objects = MemoryObjects()
    interleaving = Interleaving(schedule, lambda: None)
    owners = [
        Owner(CheckpointStore(Gated(objects, interleaving, writer, left)), token)
        for writer, (token, left) in enumerate(((5, life), (6, 1000)))
    ]
    interleaving.run(*owners)
    CheckpointStore(objects).write(0, "latest", {"a": b""}, {}, token=7)
    found = {key.split("/")[1] for key in objects.content}
    assert found == {"latest-0000000006-00000004", "latest-0000000007-00000001"}
    assert not any(".needs-" in key for key in objects.content)


class Overtaken(MemoryObjects):
    """Objects into which a later owner writes just before the next manifest."""

    def __init__(self) -> None:
        super().__init__()
        self.later: CheckpointStore | None = None

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        if key.endswith("manifest.json") and self.later:
            later, self.later = self.later, None
            later.write(0, "latest", {"a": b""}, {}, token=6)
        super().put(key, content, settled=settled)


def test_a_writer_that_loses_the_trial_while_it_writes_gets_an_error_and_its_version_is_removed() -> None:
    objects = Overtaken()
    store = CheckpointStore(objects)
    for _ in range(2):
        store.write(0, "latest", {"a": b""}, {}, token=5)
    objects.later = CheckpointStore(objects)
    with pytest.raises(LeaseLostError):
        store.write(0, "latest", {"a": b""}, {}, token=5)
    assert store.read(0, "latest").name == "latest-0000000006-00000001"
    assert {key.split("/")[1] for key in objects.content} == {
        "latest-0000000005-00000002",
        "latest-0000000006-00000001",
    }

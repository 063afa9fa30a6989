"""The contract of checkpoint stores: one suite, run over a folder and over a real S3 server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import CheckpointError, CheckpointStore, LeaseLostError, ObjectStore, open_objects, open_store
from storage.checkpoint_versions import Kind
from storage.stores import study_folder

FILES = {"model.safetensors": b"\x00weights" * 100, "state.json": b"{}"}


@dataclass
class Place:
    """A root for checkpoints, with access to its objects."""

    root: Path | str
    study: str = "cells"
    store: CheckpointStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = open_store(self.root, self.study)

    @cached_property
    def objects(self) -> ObjectStore:
        return open_objects(self.store.place if isinstance(self.root, str) else Path(self.store.place))

    def versions(self, trial: int) -> list[str]:
        return sorted({found.key.split("/")[1] for found in self.objects.list(f"{trial}/")})

    def flip(self, key: str) -> None:
        content = bytearray(self.objects.get(key))
        content[len(content) // 2] ^= 1
        self.objects.put(key, bytes(content))


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path if request.param == "folder" else request.getfixturevalue("s3_root"))


def test_what_was_written_is_read(place: Place) -> None:
    info = {"epoch": 3, "values": [0.5, None], 7: "seven"}
    name = place.store.write(0, "latest", FILES, info, token=42)  # type: ignore[arg-type]
    checkpoint = place.store.read(0, "latest")
    assert checkpoint.files == FILES
    assert checkpoint.info == {"epoch": 3, "values": [0.5, None], "7": "seven"}
    assert (checkpoint.name, checkpoint.token, checkpoint.version) == (name, 42, 1)
    assert name == "latest-0000000042-00000001"
    assert checkpoint.damaged == ()
    assert place.objects.get(f"0/{name}/model.safetensors") == FILES["model.safetensors"]
    assert {found.key for found in place.objects.list()} == {f"0/{name}/{file}" for file in [*FILES, "manifest.json"]}
    assert place.store.has(0, "latest")
    assert not place.store.has(0, "best")
    assert not place.store.has(1, "latest")


@pytest.mark.parametrize("kind", ["latest", "best"])
def test_the_newest_two_versions_stay(place: Place, kind: Kind) -> None:
    names = [place.store.write(2, kind, {"a": b"%d" % epoch}, {"epoch": epoch}) for epoch in range(4)]
    assert place.store.read(2, kind).info == {"epoch": 3}
    assert place.versions(2) == names[2:] == sorted(names)[2:]


def test_the_named_version_is_read_if_it_is_sound(place: Place) -> None:
    first, second = (place.store.write(0, "latest", FILES, {"epoch": epoch}) for epoch in (1, 2))
    assert place.store.read(0, "latest", version=first).info == {"epoch": 1}
    place.flip(f"0/{first}/state.json")
    found = place.store.read(0, "latest", version=first)
    assert (found.name, found.info) == (second, {"epoch": 2})
    assert "state.json fails its checksum" in found.damaged[0]
    gone = place.store.read(0, "latest", version="latest-0000000000-00000009")
    assert (gone.name, len(gone.damaged)) == (second, 1)
    assert "latest-0000000000-00000009 is gone" in gone.damaged[0]


def test_names_lists_the_newest_version_first(place: Place) -> None:
    first, second = (place.store.write(0, "latest", FILES, {"epoch": epoch}) for epoch in (1, 2))
    assert place.store.names(0, "latest") == [second, first]
    assert place.store.names(0, "best") == place.store.names(1, "latest") == []


def test_latest_and_best_are_independent(place: Place) -> None:
    place.store.write(0, "best", FILES, {"epoch": 1})
    for epoch in range(2, 5):
        place.store.write(0, "latest", FILES, {"epoch": epoch})
    assert place.store.read(0, "best").info == {"epoch": 1}


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_file_is_noticed_and_the_version_before_is_used(place: Place, file: str, harm: str) -> None:
    place.store.write(0, "latest", FILES, {"epoch": 1}, token=1)
    key = f"0/{place.store.write(0, 'latest', FILES, {'epoch': 2}, token=2)}/{file}"
    if harm == "flip":
        place.flip(key)
    elif harm == "truncate":
        place.objects.put(key, place.objects.get(key)[:-1])
    elif harm == "empty":
        place.objects.put(key, b"")
    else:
        place.objects.delete([key])
    checkpoint = place.store.read(0, "latest")
    assert checkpoint.info == {"epoch": 1}
    assert checkpoint.files == FILES
    assert len(checkpoint.damaged) == 1
    assert f"{place.store.place}/{key}" in checkpoint.damaged[0]


def test_an_altered_note_is_detected(place: Place) -> None:
    key = f"0/{place.store.write(0, 'best', FILES, {'epoch': 2})}/manifest.json"
    content = json.loads(place.objects.get(key))
    content["info"]["epoch"] = 3
    place.objects.put(key, json.dumps(content).encode())
    with pytest.raises(CheckpointError, match="fails its checksum"):
        place.store.read(0, "best")


def test_without_a_sound_version_the_error_names_the_fault_of_each(place: Place) -> None:
    with pytest.raises(CheckpointError, match=r"trial 0 has no best checkpoint .* none was written"):
        place.store.read(0, "best")
    for _ in range(2):
        place.flip(f"0/{place.store.write(0, 'best', FILES, {})}/state.json")
    with pytest.raises(CheckpointError, match=r"-00000002/state\.json fails.*-00000001/state\.json fails"):
        place.store.read(0, "best")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "manifest.json", "x\0", "é"])
def test_a_file_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be a file of a checkpoint"):
        open_store(tmp_path, "cells").write(0, "latest", {name: b""}, {})
    assert list(tmp_path.iterdir()) == []


def test_notes_that_are_not_json_raise_a_type_error_and_write_nothing(place: Place) -> None:
    with pytest.raises(TypeError):
        place.store.write(0, "latest", FILES, {"path": Path()})
    assert place.objects.list() == []


def test_drop_removes_the_named_trials_only(place: Place) -> None:
    for trial in range(3):
        place.store.write(trial, "best", FILES, {})
    place.objects.put("notes.txt", b"mine")
    place.objects.put("0/.tmp-latest-ab12/model.safetensors", b"left by an older hpo")
    place.store.drop({0, 2, 99})
    assert place.store.trials() == {1}
    assert {found.key.split("/")[0] for found in place.objects.list()} == {"1", "notes.txt"}
    place.store.drop(())
    assert place.store.trials() == {1}


def test_discard_removes_one_kind_of_one_trial(place: Place) -> None:
    for trial in (1, 2):
        for kind in ("latest", "latest", "best"):
            place.store.write(trial, kind, FILES, {})  # type: ignore[arg-type]
    place.store.discard(1, "latest")
    assert not place.store.has(1, "latest")
    assert place.versions(1) == ["best-0000000000-00000001"]
    assert len(place.versions(2)) == 3
    place.store.discard(1, "latest")
    assert place.store.has(1, "best")


def test_a_new_store_is_empty(place: Place) -> None:
    place.store.drop({1})
    place.store.discard(1, "latest")
    assert place.store.trials() == set()
    assert place.store.usage() == 0
    assert place.objects.list() == []


def test_usage_is_the_sum_of_all_files(place: Place) -> None:
    name = place.store.write(0, "best", {"a": b"x" * 1000}, {})
    assert place.store.usage() == 1000 + len(place.objects.get(f"0/{name}/manifest.json"))


def test_a_draft_is_not_a_checkpoint_and_the_next_owner_removes_it(place: Place) -> None:
    first = place.store.write(0, "latest", FILES, {"epoch": 1}, token=1)
    for name in (".needs-900", "model.safetensors"):
        place.objects.put(f"0/latest-0000000001-00000002/{name}", b"")
    found = place.store.read(0, "latest")
    assert (found.name, found.damaged) == (first, ())
    second = place.store.write(0, "latest", FILES, {"epoch": 2}, token=2)
    assert place.versions(0) == [first, second]


def test_a_draft_alone_does_not_count(place: Place) -> None:
    place.objects.put("0/latest-0000000001-00000002/.needs-900", b"")
    assert not place.store.has(0, "latest")
    with pytest.raises(CheckpointError, match="none was written"):
        place.store.read(0, "latest")


def test_versions_written_before_there_were_tokens_are_read_and_continued(place: Place) -> None:
    name = place.store.write(0, "latest", FILES, {"epoch": 7})
    for found in place.objects.list(f"0/{name}/"):
        place.objects.put(found.key.replace(name, "latest-00000007"), place.objects.get(found.key))
        place.objects.delete([found.key])
    old = place.store.read(0, "latest")
    assert (old.name, old.token, old.version, old.info) == ("latest-00000007", 0, 7, {"epoch": 7})
    assert place.store.write(0, "latest", FILES, {"epoch": 8}) == "latest-0000000000-00000008"
    assert place.store.write(0, "latest", FILES, {"epoch": 9}, token=3) == "latest-0000000003-00000001"
    assert place.versions(0) == ["latest-0000000000-00000008", "latest-0000000003-00000001"]


def test_a_stale_writer_changes_nothing(place: Place) -> None:
    place.store.write(0, "latest", FILES, {"epoch": 1}, token=1)
    place.store.write(0, "latest", FILES, {"epoch": 1}, token=2)
    before = {found.key for found in place.objects.list()}
    with pytest.raises(LeaseLostError, match=r"trial 0 is another worker's now.*latest-0000000002-00000001"):
        place.store.write(0, "latest", FILES, {"epoch": 2}, token=1)
    assert {found.key for found in place.objects.list()} == before


@pytest.mark.parametrize("name", ["cells", "pbc96.standard-2_b"])
def test_a_plain_study_name_is_its_folder(name: str) -> None:
    assert study_folder(name) == name


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@given(names)
def test_any_study_name_gives_a_folder_name_that_is_valid_on_every_file_system(name: str) -> None:
    folder = study_folder(name)
    assert len(folder.encode()) <= 255
    assert "/" not in folder
    assert "\0" not in folder
    assert not folder.startswith(".")


@given(names, names)
def test_two_studies_never_share_a_folder_even_where_case_is_ignored(one: str, other: str) -> None:
    assert (study_folder(one).lower() == study_folder(other).lower()) == (one == other)


@pytest.mark.parametrize(
    "pair", [("Cells", "cells"), ("a/b", "a-b"), ("a b", "a  b"), ("..", "."), ("x" * 101, "x" * 102)]
)
def test_names_that_look_alike_get_folders_of_their_own(pair: tuple[str, str]) -> None:
    assert study_folder(pair[0]).lower() != study_folder(pair[1]).lower()


def test_digests_of_images_are_stored_once_beside_the_trials_and_kept(place: Place) -> None:
    assert place.store.images("d") is None
    place.store.keep_images("d", b"first")
    place.store.keep_images("d", b"later")
    place.store.keep_images("e", b"other")
    assert (place.store.images("d"), place.store.images("e")) == (b"first", b"other")
    place.store.write(3, "best", FILES, {})
    assert place.store.trials() == {3}
    place.store.drop([3])
    place.store.collect(finished={3}, keep=set())
    assert place.store.images("d") == b"first"

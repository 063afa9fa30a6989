from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import CheckpointError, CheckpointStore
from storage.checkpoints import study_folder

FILES = {"model.safetensors": b"\x00weights" * 100, "state.json": b"{}"}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, "cells")


def versions(store: CheckpointStore, trial: int, kind: str) -> list[Path]:
    return sorted((store.folder / str(trial)).glob(f"{kind}-*"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_was_written_is_read(store: CheckpointStore) -> None:
    info = {"epoch": 3, "values": [0.5, None], 7: "seven"}
    folder = store.write(0, "latest", FILES, info)  # type: ignore[arg-type]
    checkpoint = store.read(0, "latest")
    assert checkpoint.files == FILES
    assert checkpoint.info == {"epoch": 3, "values": [0.5, None], "7": "seven"}
    assert checkpoint.damaged == ()
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert store.has(0, "latest")
    assert not store.has(0, "best")
    assert not store.has(1, "latest")


@pytest.mark.parametrize("kind", ["latest", "best"])
def test_the_newest_two_versions_stay(store: CheckpointStore, kind: str) -> None:
    for epoch in range(5):
        store.write(2, kind, {"a": b"%d" % epoch}, {"epoch": epoch})  # type: ignore[arg-type]
    assert store.read(2, kind).info == {"epoch": 4}  # type: ignore[arg-type]
    assert [path.name for path in versions(store, 2, kind)] == [f"{kind}-00000004", f"{kind}-00000005"]
    assert {path.name for path in (store.folder / "2").iterdir()} == {f"{kind}-00000004", f"{kind}-00000005"}


def test_latest_and_best_do_not_disturb_each_other(store: CheckpointStore) -> None:
    store.write(0, "best", FILES, {"epoch": 1})
    for epoch in range(2, 6):
        store.write(0, "latest", FILES, {"epoch": epoch})
    assert store.read(0, "best").info == {"epoch": 1}


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_file_is_noticed_and_the_version_before_is_used(store: CheckpointStore, name: str, harm: str) -> None:
    store.write(0, "latest", FILES, {"epoch": 1})
    path = store.write(0, "latest", FILES, {"epoch": 2}) / name
    if harm == "flip":
        flip(path)
    elif harm == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    checkpoint = store.read(0, "latest")
    assert checkpoint.info == {"epoch": 1}
    assert checkpoint.files == FILES
    assert len(checkpoint.damaged) == 1
    assert str(path) in checkpoint.damaged[0]


def test_a_note_that_was_altered_is_noticed(store: CheckpointStore) -> None:
    path = store.write(0, "best", FILES, {"epoch": 2}) / "manifest.json"
    content = json.loads(path.read_text())
    content["info"]["epoch"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="fails its checksum"):
        store.read(0, "best")


def test_none_left_is_an_error_that_says_what_is_wrong_with_each(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"trial 0 has no best checkpoint .* none was written"):
        store.read(0, "best")
    for _ in range(2):
        flip(store.write(0, "best", FILES, {}) / "state.json")
    with pytest.raises(CheckpointError, match=r"best-00000002/state\.json fails.*best-00000001/state\.json fails"):
        store.read(0, "best")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "manifest.json", "x\0", "é"])
def test_a_file_name_that_could_leave_the_folder_is_refused(store: CheckpointStore, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be a file of a checkpoint"):
        store.write(0, "latest", {name: b""}, {})
    assert not store.folder.exists()


def test_notes_that_are_no_json_are_the_callers_mistake_and_leave_nothing(store: CheckpointStore) -> None:
    with pytest.raises(TypeError):
        store.write(0, "latest", FILES, {"path": Path()})
    assert list((store.folder / "0").iterdir()) == []


def test_drop_removes_the_named_trials_only(store: CheckpointStore) -> None:
    for trial in range(4):
        store.write(trial, "best", FILES, {})
    (store.folder / "notes.txt").write_text("mine")
    store.drop({0, 2, 99})
    assert store.trials() == {1, 3}
    assert {path.name for path in store.folder.iterdir()} == {"1", "3", "notes.txt"}
    store.drop(())
    assert store.trials() == {1, 3}


def test_discard_removes_one_kind_of_one_trial(store: CheckpointStore) -> None:
    for trial in (1, 2):
        for kind in ("latest", "latest", "best"):
            store.write(trial, kind, FILES, {})  # type: ignore[arg-type]
    store.discard(1, "latest")
    assert not store.has(1, "latest")
    assert [path.name for path in (store.folder / "1").iterdir()] == ["best-00000001"]
    assert len(versions(store, 2, "latest")) == 2
    assert {path.name for path in store.folder.iterdir()} == {"1", "2"}


def test_discarding_what_is_not_there_does_nothing(store: CheckpointStore) -> None:
    store.discard(1, "latest")
    assert not store.folder.exists()
    store.write(1, "best", FILES, {})
    store.discard(1, "latest")
    assert store.has(1, "best")


def test_a_store_that_nothing_was_written_to_is_empty(store: CheckpointStore) -> None:
    store.drop({1})
    assert store.trials() == set()
    assert store.usage() == 0
    assert not store.folder.exists()


def test_usage_is_the_sum_of_all_files(store: CheckpointStore) -> None:
    folder = store.write(0, "best", {"a": b"x" * 1000}, {})
    assert store.usage() == 1000 + (folder / "manifest.json").stat().st_size


def test_what_a_killed_writer_left_goes_when_it_is_old(store: CheckpointStore) -> None:
    store.write(0, "latest", FILES, {})
    old, young = store.folder / "0" / ".tmp-latest-0", store.folder / "0" / ".tmp-latest-1"
    for path in (old, young):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    os.utime(old, (0, 0))
    store.write(0, "latest", FILES, {})
    assert not old.exists()
    assert young.exists()  # another writer may be at work on it


def test_a_writer_killed_at_any_moment_leaves_a_whole_version(tmp_path: Path) -> None:
    code = f"""
    from pathlib import Path
    from storage.checkpoints import CheckpointStore
    store = CheckpointStore(Path({str(tmp_path)!r}), "cells")
    for epoch in range(1_000_000):
        store.write(0, "latest", {{"a": b"%d" % epoch * 100_000}}, {{"epoch": epoch}})
        print(epoch, flush=True)
    """
    store = CheckpointStore(tmp_path, "cells")
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        last = [*written, *(int(line) for line in rest.split())][-1]
        checkpoint = store.read(0, "latest")
        assert checkpoint.info["epoch"] in (last, last + 1)
        assert checkpoint.files["a"] == b"%d" % checkpoint.info["epoch"] * 100_000
        assert checkpoint.damaged == ()


def test_a_full_disk_is_reported_and_loses_nothing(tiny_disk: Path) -> None:
    store = CheckpointStore(tiny_disk, "cells")
    store.write(0, "best", {"a": b"x" * 300_000}, {"epoch": 1})
    before = store.usage()
    with pytest.raises(
        CheckpointError, match=r"cells/0 cannot be written: No space left on device; make room .*--artifacts"
    ):
        store.write(0, "best", {"a": b"x" * 900_000}, {"epoch": 2})
    assert store.read(0, "best").info == {"epoch": 1}
    assert store.usage() == before
    store.write(0, "best", {"a": b"x" * 300_000}, {"epoch": 2})
    assert store.read(0, "best").info == {"epoch": 2}


def test_a_file_that_may_not_grow_is_reported_and_loses_nothing(store: CheckpointStore) -> None:
    store.write(0, "latest", {"a": b"x" * 1000}, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(CheckpointError, match="cannot be written: File too large"):
            store.write(0, "latest", {"a": b"x" * 200_000}, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)
    assert store.read(0, "latest").info == {"epoch": 1}
    assert len(list((store.folder / "0").iterdir())) == 1


def test_a_root_that_is_no_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file.* cannot be written: Not a directory"):
        CheckpointStore(tmp_path / "file", "cells").write(0, "best", FILES, {})


@pytest.mark.parametrize("name", ["cells", "pbc96.standard-2_b"])
def test_a_plain_study_name_is_its_folder(name: str) -> None:
    assert study_folder(name) == name


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@given(names)
def test_any_study_name_gives_a_folder_name_that_every_file_system_takes(name: str) -> None:
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

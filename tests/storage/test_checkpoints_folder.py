"""Checkpoints in a folder: kills, full and read-only disks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from storage import CheckpointError, CheckpointStore, DiskFullError, StoreUnavailableError, open_store
from storage.objects import FolderObjects

FILES = {"model.safetensors": b"\x00weights" * 100, "state.json": b"{}"}


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_writer_killed_at_any_moment_leaves_a_whole_version(tmp_path: Path) -> None:
    code = f"""
    from pathlib import Path
    from storage import open_store
    store = open_store(Path({str(tmp_path)!r}), "cells")
    for epoch in range(1_000_000):
        store.write(0, "latest", {{"a": b"%d" % epoch * 100_000}}, {{"epoch": epoch}}, token=TOKEN)
        print(epoch, flush=True)
    """
    store = open_store(tmp_path, "cells")
    for token in (1, 2, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code).replace("TOKEN", str(token))],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        with process:
            # Of this file object alone: `communicate` reads the pipe past what it has in its buffer.
            last = [*written, *(int(line) for line in process.stdout)][-1]
        checkpoint = store.read(0, "latest")
        assert checkpoint.token == token
        assert checkpoint.info["epoch"] in (last, last + 1)
        assert checkpoint.files["a"] == b"%d" % checkpoint.info["epoch"] * 100_000
        assert checkpoint.damaged == ()
    store.write(0, "latest", FILES, {}, token=4)
    assert len({name.split("/")[2] for name in files(tmp_path)}) == 2


def test_a_full_disk_is_reported_and_loses_nothing(tiny_disk: Path) -> None:
    store = open_store(tiny_disk, "cells")
    store.write(0, "best", {"a": b"x" * 300_000}, {"epoch": 1})
    before = files(tiny_disk)
    with pytest.raises(DiskFullError, match=r"cannot be written: No space left on device; make room .*--artifacts"):
        store.write(0, "best", {"a": b"x" * 900_000}, {"epoch": 2})
    assert store.read(0, "best").info == {"epoch": 1}
    assert files(tiny_disk) == before
    store.write(0, "best", {"a": b"x" * 300_000}, {"epoch": 2})
    assert store.read(0, "best").info == {"epoch": 2}


def test_a_used_up_disk_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    monkeypatch.setattr("storage.objects.write_synced", refuse)
    with pytest.raises(DiskFullError, match="Disk quota exceeded"):
        FolderObjects(tmp_path).put("a", b"a")


def test_a_read_only_folder_is_reported_and_can_be_read(tiny_disk: Path) -> None:
    store = open_store(tiny_disk, "cells")
    store.write(0, "latest", FILES, {"epoch": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(CheckpointError, match="cannot be written: Read-only file system") as caught:
        store.write(0, "latest", FILES, {"epoch": 2})
    assert not isinstance(caught.value, DiskFullError)
    assert store.read(0, "latest").info == {"epoch": 1}
    with pytest.raises(CheckpointError, match="Read-only file system"):
        store.drop({0})


def test_a_limit_of_file_size_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path, "cells")
    store.write(0, "latest", {"a": b"x" * 1000}, {"epoch": 1})
    before = files(tmp_path)
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
    assert files(tmp_path) == before


def test_a_root_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match=r"file.* cannot be listed: Not a directory"):
        open_store(tmp_path / "file", "cells").write(0, "best", FILES, {})


def test_an_unreadable_version_is_skipped(tmp_path: Path) -> None:
    store = open_store(tmp_path, "cells")
    store.write(0, "latest", FILES, {"epoch": 1})
    state = tmp_path / "cells" / "0" / store.write(0, "latest", FILES, {"epoch": 2}) / "state.json"
    state.unlink()
    state.mkdir()  # reads as EISDIR, as a bad sector reads as EIO
    found = store.read(0, "latest")
    assert found.info == {"epoch": 1}
    assert "state.json cannot be read: Is a directory" in found.damaged[0]


def test_a_folder_is_removed_with_its_last_file(tmp_path: Path) -> None:
    store: CheckpointStore = open_store(tmp_path, "cells")
    store.write(3, "latest", FILES, {})
    store.discard(3, "latest")
    assert list((tmp_path / "cells").iterdir()) == []

"""What was read of a memory map is given back, and only there; old files make room for new ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hpo.data.cache import forget_pages, make_room, mark_used


def resident() -> int:
    """Bytes of files, in memory file systems too, that this process has in its memory."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        pytest.skip("there is no /proc here")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssFile", "RssShmem")))


def test_the_pages_of_a_map_are_given_back_and_read_again(tmp_path: Path) -> None:
    size = 32 << 20
    (tmp_path / "x").write_bytes(b"\x07" * size)
    view = np.asarray(np.memmap(tmp_path / "x", np.uint8, mode="r"))[1:].reshape(-1)
    assert view.sum() == 7 * (size - 1)
    full = resident()
    forget_pages(view)
    assert resident() < full - 0.9 * size
    assert view[-1] == 7


def test_values_that_were_written_stay(tmp_path: Path) -> None:
    own = np.arange(5)
    copied = np.memmap(tmp_path / "x", np.uint8, mode="w+", shape=9000)
    copied[:] = 3
    changed = np.memmap(tmp_path / "x", np.uint8, mode="c")
    changed[:] = 4
    frozen = np.asarray(changed)[:]
    frozen.flags.writeable = False
    for array in (own, copied, changed, frozen):
        forget_pages(array)
    assert (own.tolist(), int(copied.max()), int(changed.min()), int(frozen.min())) == ([0, 1, 2, 3, 4], 3, 4, 4)


def test_the_least_recently_used_files_make_room(tmp_path: Path) -> None:
    for age, name in enumerate(("new.npy", "older.npy", "oldest.npy", "other.txt")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1_000 - age, 1_000 - age))
    make_room(tmp_path, "*.npy", 100, 400)
    assert len(list(tmp_path.iterdir())) == 4, "all of them fit"
    mark_used(tmp_path / "oldest.npy")
    make_room(tmp_path, "*.npy", 150, 300)
    assert {path.name for path in tmp_path.iterdir()} == {"oldest.npy", "other.txt"}
    make_room(tmp_path, "*.npy", 1_000, 300)
    assert {path.name for path in tmp_path.iterdir()} == {"other.txt"}, "one that is larger than the limit is made too"
    mark_used(tmp_path / "missing.npy")

"""What was read of a memory map is given back, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpo.data.cache import forget_pages


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

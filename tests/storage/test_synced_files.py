from __future__ import annotations

from pathlib import Path

import pytest

from storage import DatabaseUnavailableError
from storage.synced_files import SharedHold, exclusive, is_held


def test_the_exclusive_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    second = exclusive(path, timeout=0.05)
    with (
        exclusive(path, timeout=1),
        pytest.raises(DatabaseUnavailableError, match=r"lock has been held .* for 0\.05 s"),
    ):
        second.__enter__()
    with exclusive(path, timeout=0.05):
        pass


def test_a_shared_lock_is_held_until_the_last_holder_releases_it(tmp_path: Path) -> None:
    path = tmp_path / "users"
    assert not is_held(path)
    with SharedHold(path), SharedHold(path) as second:
        second.release()
        assert is_held(path)
    assert not is_held(path)

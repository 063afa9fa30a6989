from __future__ import annotations

from pathlib import Path

import pytest

from hpo.training.tuning import get_cached, set_cached


def test_an_unwritable_cache_is_reported_by_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "file"
    cache.write_text("in the way")
    set_cached(cache, "resnet50", 1)
    assert get_cached(cache, "resnet50") is None
    assert [message.split(":")[0] for message in caplog.messages] == ["resnet50 is not stored"]


def test_a_write_that_fails_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_cached(tmp_path, "resnet50", 1)

    def full(_: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    set_cached(tmp_path, "resnet50", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    assert get_cached(tmp_path, "resnet50") == 1

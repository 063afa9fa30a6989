"""The result of each check, passed and failed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from hpo.doctor import machine, study
from hpo.doctor.check import failed, passed
from storage import Control, LeaseInfo, StorageError


def holding(number: int, left: float = 60.0, state: str = "held") -> LeaseInfo:
    return LeaseInfo(
        number=number, state=state, owner="node-7:1", device="cpu", claimed_at=datetime(2026, 1, 1, tzinfo=UTC),
        age=3.0, left=left, deaths=0, position=0.0, redone=0.0, attempts=1, note=None,
    )  # fmt: skip


def test_the_message_of_an_error_is_split_into_detail_and_fix() -> None:
    found = failed("database", StorageError("database h/d: no server listens there; start it, or check --storage"))
    assert found.to_dict() == {
        "what": "database", "ok": False, "detail": "database h/d: no server listens there",
        "fix": "start it, or check --storage",
    }  # fmt: skip
    assert passed("clock", "fine").to_dict()["fix"] is None


@pytest.mark.parametrize(("used", "ok", "room"), [(0, True, 50), (98, True, 1), (99, False, 0), (103, False, 0)])
def test_a_worker_needs_two_connections(used: int, ok: bool, room: int) -> None:
    found = study.check_connections(100, used)
    assert found.ok is ok
    assert f"room for {room} more" in found.detail


@pytest.mark.parametrize(
    ("skew", "ok", "expected"),
    [(0.2, True, "0.2 s ahead of"), (-5.0, True, "5.0 s behind"), (-3600, False, "leases follow the database's clock")],
)
def test_a_wrong_clock_is_reported_and_that_leases_are_not_affected(skew: float, ok: bool, expected: str) -> None:
    found = study.check_clock(skew)
    assert found.ok is ok
    assert expected in found.detail


def test_requirements_are_compared_with_installed_versions() -> None:
    assert machine.unmet_requirements("hpo") == []
    assert machine.unmet_requirements("no-such-library") == ["no-such-library is not installed"]


def test_a_version_out_of_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["optuna<5", "no-such-library>=1", "click", 'also-not-there; extra == "dev"']
    monkeypatch.setattr(machine, "requires", lambda _: asked)
    assert machine.unmet_requirements("hpo") == [
        f"hpo needs optuna<5, but {machine.version('optuna')} is installed",
        "hpo needs no-such-library>=1, which is not installed",
    ]


def test_a_pair_that_does_not_import_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore of it")
        return __import__(name)

    monkeypatch.setattr(machine, "import_module", broken)
    found = machine.check_torch()
    assert not found.ok
    assert found.detail.endswith("operator torchvision::nms does not exist")
    assert "one package index" in found.fix


def test_a_place_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    found = machine.check_location("home", "--home", tmp_path / "not" / "yet")
    assert found.ok
    assert "not there yet" in found.detail
    assert list(tmp_path.iterdir()) == []


def test_a_location_that_cannot_be_written_is_reported_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = machine.check_location("artifacts", "--artifacts", tmp_path / "file")
    assert not found.ok
    assert "--artifacts" in found.fix


def test_a_full_disk_is_reported(tiny_disk: Path) -> None:
    found = machine.check_location("home", "--home", tiny_disk)
    assert not found.ok
    assert "make room" in found.fix
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "filler").write_bytes(bytes(2**21))
    assert "cannot be written: No space left" in machine.check_location("home", "--home", tiny_disk).detail


def test_a_bucket_is_written_and_read(s3_root: str) -> None:
    import boto3

    assert machine.check_location("artifacts", "--artifacts", s3_root).ok
    bucket = s3_root.split("/")[2]
    assert boto3.client("s3").list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    missing = machine.check_location("artifacts", "--artifacts", "s3://no-such-bucket-here/x")
    assert not missing.ok
    assert "NoSuchBucket" in missing.detail


def test_the_cpu_computes() -> None:
    (found,) = machine.check_devices("cpu")
    assert "computes" in found.detail


def test_a_device_that_is_not_there() -> None:
    (found,) = machine.check_devices("cuda:99")
    assert not found.ok
    assert "use --device cpu" in found.fix


@pytest.mark.gpu
def test_every_gpu_computes() -> None:
    import torch

    found = list(machine.check_devices("auto"))
    assert len(found) == torch.cuda.device_count()
    assert all("computes" in one.detail for one in found)


@pytest.mark.parametrize("control", list(Control))
def test_a_paused_or_stopped_study_fails_the_check(control: Control) -> None:
    found = study.check_control("blood cells", control)
    assert found.ok is (control is Control.RUN)
    assert found.ok or "hpo resume --study 'blood cells'" in found.fix


def test_running_trials_need_a_valid_lease() -> None:
    held = [holding(0), holding(1)]
    assert study.check_leases("cells", [*held, holding(2, -5.0, "free")], {0, 1}).ok
    expired = study.check_leases("cells", [holding(0), holding(1, -5.0)], {0, 1})
    assert "lease has expired: 1" in expired.detail
    bare = study.check_leases("cells", held, {0, 1, 5})
    assert "run without a lease: 5" in bare.detail
    assert "hpo reap --study cells" in bare.fix
    many = study.check_leases("cells", [], set(range(20)))
    assert many.detail.endswith("7 and 12 more")

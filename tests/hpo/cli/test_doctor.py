"""`hpo doctor`: one line for each check; a fault does not prevent the other checks."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import Result

from hpo.data.synthetic import write_cells
from storage import Control, Database, set_control

Here = Callable[..., Result]
EVERYTHING = [
    "python", "libraries", "torch", "device", "home", "artifacts", "database", "schema", "connections", "clock",
    "study", "leases", "data",
]  # fmt: skip


def looked(here: Here, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = here("doctor", "--device", "cpu", "--json", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    document = json.loads(result.stdout)
    assert document["ok"] is all(check["ok"] for check in document["checks"])
    return result.exit_code, {check["what"]: check for check in document["checks"]}


def faults(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [what for what, check in checks.items() if not check["ok"]]


@pytest.mark.postgres
def test_a_healthy_machine_and_study_pass(here: Here, bare_study: optuna.Study, cells: Path) -> None:
    code, checks = looked(here, "--study", "bare", str(cells))
    assert list(checks) == EVERYTHING
    assert faults(checks) == ["data"], "the study was made without images"
    assert code == 1
    code, checks = looked(here, "--study", "bare")
    assert (code, faults(checks)) == (0, [])
    code, checks = looked(here, str(cells))
    assert (code, faults(checks)) == (0, [])
    assert "120 images of 8 classes" in checks["data"]["detail"]


@pytest.mark.postgres
def test_each_check_is_printed_as_a_line(here: Here, database: Database, bare_study: optuna.Study) -> None:
    set_control(database, bare_study, Control.PAUSE)
    result = here("doctor", "--device", "cpu", "--study", "bare")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if not line.startswith("OK  ")] == [
        "!!  study        bare is paused; `hpo resume --study bare` lets workers go on"
    ]
    assert [line.split()[1] for line in lines] == EVERYTHING[:-1]


@pytest.mark.postgres
def test_what_is_wrong_with_a_study(here: Here, database: Database, bare_study: optuna.Study) -> None:
    bare_study.ask()
    code, checks = looked(here, "--study", "bare")
    assert (code, faults(checks)) == (1, ["leases"])
    assert "no study 'other'" in looked(here, "--study", "other")[1]["study"]["detail"]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE hpo_openings; UPDATE hpo_schema SET version = 2")
    code, checks = looked(here, "--study", "bare")
    assert faults(checks) == ["leases"]
    assert "of an earlier hpo, with which this one works" in checks["schema"]["detail"]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM hpo_schema")
    assert faults(looked(here, "--study", "bare")[1]) == ["schema", "study"]


@pytest.mark.postgres
def test_an_empty_database_passes(here: Here, empty_url: str) -> None:
    code, checks = looked(here, "--storage", empty_url)
    assert (code, faults(checks)) == (0, [])
    assert "makes the tables" in checks["schema"]["detail"]


def test_a_dead_database_is_one_line(here: Here, cells: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        url = f"postgresql://someone:hunter2@127.0.0.1:{taken.getsockname()[1]}/hpo"
        code, checks = looked(here, "--storage", url, "--study", "bare", str(cells))
    assert code == 1
    assert faults(checks) == ["database", "study"]
    assert checks["database"]["fix"] == "start it, or check --storage"
    assert checks["data"]["ok"]
    assert "hunter2" not in json.dumps(checks)


def test_classes_are_listed_with_counts_and_ignored_files(here: Here, tmp_path: Path) -> None:
    write_cells(tmp_path / "cells", 80, size=32, seed=0)
    (tmp_path / "cells" / "readme.txt").touch()
    lines = here("doctor", "--device", "cpu", str(tmp_path / "cells")).stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("OK  data "))
    assert lines[start].endswith("80 images of 8 classes, all decoded")
    rows = [line.split() for line in lines[start + 1 :]]
    assert rows[0] == ["class", "images"]
    assert rows[1][0] == "basophil"
    assert rows[-1] == ["left", "out:", "1", ".txt"]
    data = looked(here, str(tmp_path / "cells"))[1]["data"]["data"]
    assert sum(entry["images"] for entry in data["classes"]) == 80
    assert data["left_out"] == [{"kind": ".txt", "count": 1, "names": ["readme.txt"]}]


def test_a_class_whose_images_cannot_be_read_is_a_fault(here: Here, tmp_path: Path) -> None:
    write_cells(tmp_path / "cells", 80, size=32, seed=0)
    for file in (tmp_path / "cells" / "monocyte").iterdir():
        file.write_bytes(b"no image")
    code, checks = looked(here, str(tmp_path / "cells"))
    assert (code, faults(checks)) == (1, ["data"])
    assert checks["data"]["detail"].startswith("none of 7 images of class 'monocyte' can be read")
    assert checks["data"]["fix"] == "mend or remove them"


def test_the_doctor_creates_no_folder(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPO_STORAGE")
    code, checks = looked(here, "--home", str(tmp_path / "new"))
    assert (code, faults(checks)) == (0, [])
    assert "makes it" in checks["database"]["detail"]
    assert not (tmp_path / "new").exists()


def test_an_invalid_option_is_an_error_and_not_a_finding(here: Here) -> None:
    assert here("doctor", "--no-such-option").exit_code == 2

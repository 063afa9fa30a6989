"""Invalid input ends in one line and exit code 2, and leaves no study behind."""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import create_engine

from hpo.cli import main
from storage import Database, study_names
from tests.conftest import TcpServer
from tests.hpo.cli.conftest import TINY, Command

pytestmark = pytest.mark.postgres
Refused = Callable[[Sequence[str]], str]


def images(folder: Path, classes: dict[str, int], *, size: int = 16) -> Path:
    """Class folders with the given number of different PNGs each."""
    random = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def no_path(at: Path) -> Path:
    return at / "nowhere"


def a_file(at: Path) -> Path:
    (at / "notes.txt").write_text("no images here")
    return at / "notes.txt"


def no_images(at: Path) -> Path:
    (at / "data" / "a").mkdir(parents=True)
    (at / "data" / "b").mkdir()
    return at / "data"


def one_class(at: Path) -> Path:
    return images(at / "data", {"a": 12})


def lone_image(at: Path) -> Path:
    return images(at / "data", {"a": 12, "b": 1})


def many_broken(at: Path) -> Path:
    data = images(at / "data", {"a": 12, "b": 12})
    (data / "a" / "empty.png").write_bytes(b"")
    whole = (data / "a" / "0.png").read_bytes()
    (data / "b" / "torn.png").write_bytes(whole[: len(whole) // 2])
    return data


def bad_zip(at: Path) -> Path:
    (at / "data.zip").write_bytes(b"PK\x03\x04 but no more")
    return at / "data.zip"


def zip_without_images(at: Path) -> Path:
    with zipfile.ZipFile(at / "data.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return at / "data.zip"


def arrays(at: Path, **values: object) -> Path:
    np.savez(at / "data.npz", **values)  # type: ignore[arg-type]
    return at / "data.npz"


PIXELS = np.zeros((8, 16, 16, 3), np.uint8)


def object_arrays(at: Path) -> Path:
    return arrays(at, images=np.array([PIXELS[0], None], dtype=object), labels=np.array([0, 1]))


def wrong_keys(at: Path) -> Path:
    return arrays(at, x=PIXELS, y=np.arange(8) % 2)


def float_images(at: Path) -> Path:
    return arrays(at, images=PIXELS.astype(np.float32), labels=np.arange(8) % 2)


def other_length(at: Path) -> Path:
    return arrays(at, images=PIXELS, labels=np.arange(7) % 2)


def table(at: Path, rows: list[list[str]]) -> Path:
    with (at / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return at / "data.csv"


def missing_column(at: Path) -> Path:
    return table(at, [["path", "kind"], ["a.png", "a"]])


def missing_file(at: Path) -> Path:
    images(at / "img", {"a": 4, "b": 4})
    rows = [[f"img/{name}/{n}.png", name] for name in "ab" for n in range(4)]
    return table(at, [["path", "label"], *rows, ["img/a/gone.png", "a"]])


def untrained_class(at: Path) -> Path:
    images(at / "data" / "train", {"a": 8, "b": 8})
    images(at / "data" / "val", {"a": 3, "c": 3})
    return at / "data"


DATA = [
    (no_path, "nowhere: no such file or folder"),
    (a_file, "notes.txt"),
    (no_images, "no image"),
    (one_class, "class"),
    (lone_image, "b"),
    (many_broken, "unreadable"),
    (bad_zip, "zip"),
    (zip_without_images, "no image"),
    (object_arrays, "object"),
    (wrong_keys, "images"),
    (float_images, "uint8"),
    (other_length, "7"),
    (missing_column, "label"),
    (missing_file, "gone.png"),
    (untrained_class, "c"),
]


@pytest.mark.parametrize(("make", "message"), DATA, ids=[make.__name__ for make, _ in DATA])
def test_data_that_cannot_be_used(
    refused: Refused, database: Database, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    line = refused(["init", str(make(tmp_path)), "--study", "bad", "--space", "quick", *TINY])
    assert message in line
    database.initialise()
    assert study_names(database) == []


SPACES = [
    ("dimensions: {learning_rat: {type: float, low: 1e-4, high: 1e-2}}", "learning_rate"),
    ("dimensions: {learning_rate: {type: float, low: 1e-2, high: 1e-2}}", "dimensions.learning_rate"),
    ("dimensions: {learning_rate: {type: float, low: 1e-1, high: 1e-2}}", "dimensions.learning_rate"),
    ("dimensions: {learning_rate: {type: float, low: 1e-4, high: 1e-2, when: {optimizer: adamw}}}", "optimizer"),
    (
        "dimensions: {mixup: {type: float, low: 0, high: 1, when: {cutmix: 0.5}}, "
        "cutmix: {type: choice, choices: [0.0, 0.5], when: {mixup: 0.5}}}",
        "cycle",
    ),
    ("fixed: {epochs: none}", "fixed.epochs"),
    ("extends: no-such-space", "no-such-space"),
    ("dimensions: [", "line"),
]


@pytest.mark.parametrize(("text", "message"), SPACES)
def test_a_space_that_breaks_a_rule(refused: Refused, cells: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    line = refused(["init", str(cells), "--study", "bad", "--space", str(file)])
    assert "mine.yaml" in line
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "no-such-space"], "no-such-space"),
        (["--set", "epochs"], "KEY=VALUE"),
        (["--set", "epoch=3"], "epochs"),
        (["--set", "dropout=2"], "dropout"),
        (["--backbone", "mobilenet_v2_035", "--set", "pretrained=false"], "mobilenetv2_035"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--storage", "sqlite:///x.db"], "postgresql"),
    ],
)
def test_options_that_cannot_work(refused: Refused, cells: Path, arguments: list[str], message: str) -> None:
    space = [] if "--space" in arguments else ["--space", "quick"]
    tiny = ["--set", "image_size=32", *([] if "--weights" in arguments else ["--set", "pretrained=false"])]
    assert message in refused(["init", str(cells), "--study", "bad", *space, *tiny, *arguments])


def test_weights_of_another_architecture(refused: Refused, cells: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "other.safetensors")
    line = refused(
        [
            "init", str(cells), "--study", "bad", "--space", "quick", "--backbone", "mobilenetv2_035",
            "--weights", str(tmp_path / "other.safetensors"), "--set", "image_size=32",
        ]
    )  # fmt: skip
    assert "other.safetensors" in line
    assert "mobilenetv2_035" in line


@pytest.mark.parametrize(("made", "message"), [(no_images, "has no images"), (one_class, "the only class is")])
def test_data_are_checked_before_the_weights_of_the_backbone(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[Path], Path], message: str
) -> None:
    """A download of minutes, or a missing network, would hide a mistake that costs no time to find."""
    monkeypatch.setattr("hpo.models.check_trainable", lambda *_: pytest.fail("the backbone was built"))
    assert message in refused(["run", str(made(tmp_path)), "--study", "x", "--backbone", "resnet18"])


def test_an_unreachable_server(refused: Refused, cells: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/hpo?connect_timeout=1"
    line = refused(["status", "--study", "cells", "--storage", url])
    assert "127.0.0.1" in line
    assert "hunter2" not in line


def test_a_missing_study(refused: Refused, database: Database) -> None:
    database.initialise()
    assert "cells" in refused(["status", "--study", "cells"])


def test_a_study_keeps_its_space_and_its_data(refused: Refused, cells: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from hpo.cli import main

    def init(data: Path, *more: str) -> list[str]:
        return ["init", str(data), "--study", "kept", "--space", "quick", *TINY, *more]

    assert CliRunner().invoke(main, init(cells)).exit_code == 0
    assert CliRunner().invoke(main, init(cells, "--trials", "7")).exit_code == 0, "the budget may change"
    assert "space" in refused(init(cells, "--set", "learning_rate=0.01"))
    other = tmp_path / "other"
    shutil.copytree(cells, other)
    next(iter(sorted(other.rglob("*.jpg"))), next(iter(sorted(other.rglob("*.png"))), None)).unlink()  # type: ignore[union-attr]
    assert "made with other images" in refused(init(other))
    assert "seed" in refused(init(cells, "--seed", "1"))


def test_a_wrong_password(refused: Refused, tcp_server: TcpServer) -> None:
    line = refused(["status", "--study", "cells", "--storage", tcp_server.url(password="Secret-2")])
    assert "wrong user or password" in line
    assert "Secret-2" not in line


def test_a_password_from_a_file(
    refused: Refused, tcp_server: TcpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://admin@127.0.0.1:{tcp_server.port}/postgres"
    monkeypatch.setenv("HPO_STORAGE_PASSWORD_FILE", str(tmp_path / "secret"))
    assert "secret, which cannot be read" in refused(["status", "--study", "cells", "--storage", url])
    (tmp_path / "secret").write_text("Secret-1\n")
    line = refused(["status", "--study", "cells", "--storage", url])
    # The login worked; whether the tables exist depends on other tests that use this server.
    assert "no study 'cells'" in line or "holds no studies" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"Se\xe4cret-1", "not UTF-8"), (b"", "is empty"), (b"\n", "is empty"), (b"Secret-1\nSecret-2\n", "one line")],
)
def test_a_file_that_holds_no_password(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, expected: str
) -> None:
    monkeypatch.setenv("HPO_STORAGE_PASSWORD_FILE", str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(content)
    line = refused(["status", "--study", "cells", "--storage", "postgresql://admin@127.0.0.1:1/postgres"])
    assert expected in line
    assert "cret" not in line


@pytest.mark.parametrize("name", ["status", "doctor"])
def test_a_raw_password_in_a_url_is_not_shown(here: Callable[..., Result], name: str) -> None:
    for password in ("top?se@cret", "to#psec@ret", "tops:ec/re@t", "topse%cret"):
        done = here(name, "--study", "cells", "--storage", f"postgresql://u:{password}@h/db")
        assert done.exit_code != 0
        assert not [start for start in range(len(password) - 3) if password[start : start + 4] in done.output]


def test_a_full_disk_where_images_are_packed(refused: Refused, cells: Path, tiny_disk: Path) -> None:
    home = tiny_disk / "home"
    larger = [text if text != "image_size=32" else "image_size=128" for text in TINY]  # 120 of them: 6 MB
    line = refused(["init", str(cells), "--study", "full", "--space", "quick", *larger, "--home", str(home)])
    assert "packing needs" in line
    assert not list(home.rglob("*.u8")), "nothing half-made is left"


def test_unreadable_images_are_listed_and_skipped(command: Command, tmp_path: Path) -> None:
    data = images(tmp_path / "data", {"a": 30, "b": 30})
    whole = (data / "a" / "0.png").read_bytes()
    (data / "a" / "empty.png").write_bytes(b"")
    (data / "b" / "torn.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (10_000, 10_000)).save(data / "b" / "huge.png")
    done = command("init", str(data), "--study", "listed", "--space", "quick", *TINY)
    assert done.returncode == 0, done.stderr
    assert "3 images are unreadable and skipped" in done.stderr
    for name, reason in (("empty.png", "0 bytes"), ("torn.png", "truncated"), ("huge.png", "100")):
        assert any(name in line and reason in line for line in done.stderr.splitlines()), done.stderr
    assert "study listed is ready for 50 trials" in done.stdout


LOOKING = (
    ("status",), ("status", "--json"), ("status", "--watch"), ("pause",), ("stop",), ("resume",), ("reap",), ("gc",),
    ("export-best", "--out", "best"), ("ensemble", "--out", "joined"), ("worker", "data"), ("dashboard", "--port", "0"),
)  # fmt: skip


@pytest.mark.parametrize("looking", [*LOOKING, ("report", "cells", "--out", "page.html")])
@pytest.mark.parametrize("there", [(), (".hpo/cache/kept",)])
def test_a_command_that_only_reads_studies_creates_no_folder(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looking: tuple[str, ...], there: tuple[str, ...]
) -> None:
    monkeypatch.delenv("HPO_STORAGE")
    monkeypatch.delenv("HPO_HOME")
    images(tmp_path / "data", {"a": 2, "b": 2})
    for name in there:
        (tmp_path / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    study = () if looking[0] in ("report", "dashboard") else ("--study", "cells")
    line = refused([*looking, *study])
    assert ".hpo holds no studies; make one with `hpo run`" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_the_doctor_creates_no_folder_and_reports_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner(env={"HPO_STORAGE": None, "HPO_HOME": None}).invoke(main, ["doctor", "--device", "cpu"])
    assert "none in .hpo yet" in result.stdout or f"none in {tmp_path / '.hpo'} yet" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_database_of_another_program_is_refused_and_left_alone(
    refused: Refused, here: Callable[..., Result], cells: Path, empty_url: str
) -> None:
    """A database of another program that manages its schema with alembic."""
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('bda7b8c39065')")
    study = ["--study", "x", "--storage", empty_url]
    new = [str(cells), "--space", "quick", *TINY]
    for command in (["init", *new], ["run", *new], ["worker", str(cells)], ["status"], ["reap"], ["pause"], ["gc"]):
        line = refused([*command, *study])
        assert "holds the tables of another program (alembic_version bda7b8c39065)" in line
        assert "give hpo a database of its own" in line
    doctor = here("doctor", *study)
    assert doctor.exit_code != 0
    assert "holds the tables of another program (alembic_version bda7b8c39065)" in " ".join(doctor.output.split())
    with engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").scalars()
        assert list(tables) == ["alembic_version"]
    engine.dispose()


def test_the_cheapest_trial_and_a_named_one_are_not_asked_for_together(refused: Callable[[list[str]], str]) -> None:
    line = refused(["export-best", "--study", "any", "--out", "best", "--trial", "1", "--prefer", "cheap"])
    assert "--prefer cheap chooses the trial, and --trial names 1; give one of them" in line

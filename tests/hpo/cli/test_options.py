from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.cli.options import Duration, Location, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172_800), ("0.5h", 1800), (" 25M ", 1500)],
)
def test_a_duration_is_parsed(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-5m", "5 minutes", "m", "1m30h", "9999999d"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 90s, 30m, 1h30m or 2d"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), ("500", 500), ("500MB", 500_000_000), ("20GB", 20 * 10**9), (" 20 gb ", 20 * 10**9),
        ("1.5GiB", 3 * 2**29), ("2TB", 2 * 10**12), ("64KiB", 65_536), (7, 7),
    ],
)  # fmt: skip
def test_a_size_is_parsed(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "0", "-5GB", "GB", "5 gigabytes", "1.5.2GB", "0.5B", "20G B"])
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"write 20GB, 500MB or 1\.5GiB"):
        Size().convert(text, None, None)


def test_a_location_is_a_path_or_a_url(tmp_path: Path) -> None:
    assert Location().convert("s3://bucket/a//b", None, None) == "s3://bucket/a//b"
    assert Location().convert("~/x", None, None) == Path.home() / "x"
    assert Location().convert(tmp_path, None, None) == tmp_path


def test_the_help_speaks_of_workers_only_where_there_are_some() -> None:
    helps = {name: CliRunner().invoke(main, [name, "--help"]).output for name in ("run", "worker", "predict", "report")}
    said = {name: "threads of each worker" in " ".join(text.split()) for name, text in helps.items()}
    assert said == {"run": True, "worker": True, "predict": False, "report": False}

"""`hpo report`: what it writes, and the one line with which it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.cli.report import is_bundle


def test_a_study_becomes_a_page(here, bare_study, tmp_path: Path) -> None:
    result = here("report", "bare", "--out", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    assert re.search(r"page\.html: [1-9]\S* kB, opens in any browser", result.output), "a small page has a size too"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>bare" in page
    assert "No trial has reported a value yet." in page


def test_a_page_is_replaced(here, bare_study, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("before")
    assert here("report", "bare", "--out", str(out)).exit_code == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_with_a_manifest_is_a_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    assert not is_bundle(Path("cells"))
    (tmp_path / "config.json").write_text("{}")
    assert is_bundle(tmp_path)
    assert is_bundle("s3://bucket/best")


def refusal(*words: str) -> str:
    result = CliRunner().invoke(main, ["report", *words])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(("out", "rule"), [
    ("page.pdf", "must end in .html"), ("nowhere/page.html", "there is no folder"), ("taken.html", "that is a folder"),
])  # fmt: skip
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    out: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.html").mkdir()
    assert rule in refusal("best", "--out", out)


def test_a_broken_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "not a bundle" in refusal(str(tmp_path), "--out", str(tmp_path / "page.html"))


def test_a_name_of_neither_study_nor_bundle_is_refused(here, bare_study, tmp_path: Path) -> None:
    for hint in ("", "; and the folder best is no bundle: it has no config.json"):
        result = here("report", "best", "--out", str(tmp_path / "page.html"))
        assert result.exit_code == 2
        assert result.stderr.startswith("hpo: no study 'best'")
        assert result.stderr.endswith(f"the studies are bare{hint}\n")
        (tmp_path / "best").mkdir(exist_ok=True)
    assert not (tmp_path / "page.html").exists()

"""`hpo data`: a page, a table and a summary; and `hpo run --clean`, which keeps its decisions."""

import html
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from hpo.cli.data import data_command, steps
from hpo.cli.run import run_command
from hpo.data.findings import read_findings
from tests.hpo.cli.conftest import TINY


@pytest.fixture
def faulty(cells, tmp_path):
    """Return cells with a copy, and with a picture under two classes."""
    folder = tmp_path / "cells"
    shutil.copytree(cells, folder)
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())[:2]
    images = sorted(first.iterdir())
    shutil.copy(images[0], first / "copy.png")
    shutil.copy(images[1], second / "conflict.png")
    return folder


def test_a_page_a_table_and_a_summary(here, faulty, tmp_path):
    table, page = tmp_path / "found.csv", tmp_path / "page.html"
    printed = here("data", str(faulty), "--no-embeddings", "--out", str(table), "--report", str(page))
    assert printed.exit_code == 0, printed.output
    assert "copy " in printed.output
    assert "left out: embeddings: they were not asked for" in printed.output
    assert f"--findings {table}" in printed.output
    assert page.read_text().startswith("<!")
    counts = read_findings(table).counts()
    assert counts["conflict"]["drop"] == 2
    document = json.loads(here("data", str(faulty), "--no-embeddings", "--json", "--report", str(page)).stdout)
    assert document["counts"] == json.loads(json.dumps(counts))
    assert {"file", "finding", "group", "score", "action", "reason"} == set(document["findings"][0])
    assert document["target"] is None


def test_groups_are_understood_as_by_a_search(here, faulty, tmp_path):
    by = r"([0-9]|copy|conflict)\.[a-z]+$"
    command = ["data", str(faulty), "--no-embeddings", "--group-by", by]
    printed = here(*command)
    assert printed.exit_code == 0, printed.output
    assert f"grouped by «{by}»: " in printed.output
    assert f"--study cells --group-by '{by}' --clean" in printed.output
    document = json.loads(here(*command, "--json").stdout)
    assert document["groups"]["by"] == f"«{by}»"
    refused = here("data", str(faulty), "--no-embeddings", "--group-by", "patient")
    assert refused.exit_code == 2
    assert "--group-by 'patient' has no group in parentheses" in refused.output


def test_the_commands_that_are_printed_run_with_the_options_that_were_given(here, faulty, tmp_path):
    """In the terminal, in the JSON and on the page; the weights would be missed where no others can be fetched."""
    weights, page = tmp_path / "w e.safetensors", tmp_path / "page.html"
    weights.write_bytes(b"")
    given = ["--backbone", "test_resnet", "--weights", str(weights), "--group-by", r"([0-9]|copy|conflict)\.[a-z]+$"]
    command = ["data", str(faulty), *given, "--no-embeddings", "--report", str(page)]
    printed = here(*command, "--home", str(tmp_path / "other"))
    lines = [line.strip() for line in printed.output.partition("next:\n")[2].splitlines()]
    runs, again = (lines[0], lines[2]), lines[1].partition("    #")[0]
    for line in runs:
        words = shlex.split(line)
        found = run_command.make_context("run", words[2:]).params
        assert (found["weights"], found["backbone"]) == (weights, "test_resnet")
        assert (found["group_by"], found["home"]) == (given[-1], tmp_path / "other")
        assert html.escape(line, quote=False) in html.unescape(page.read_text()).replace("&", "&amp;")
    found = data_command.make_context("data", shlex.split(again)[2:]).params
    assert (found["weights"], found["home"], found["embeddings"]) == (weights, tmp_path / "other", False)
    assert json.loads(here(*command, "--home", str(tmp_path / "other"), "--json").stdout)["next"] == lines


def test_without_weights_to_be_fetched_the_command_trains_from_random_ones(here, faulty, monkeypatch):
    monkeypatch.setattr("hpo.inspection.inspect_data._backbone", lambda _: (None, {"embeddings": "no network"}))
    printed = here("data", str(faulty), "--report", "page.html")
    line = printed.output.partition("next:\n")[2].splitlines()[0]
    command, _, why = line.partition("    # ")
    assert run_command.make_context("run", shlex.split(command)[2:]).params["fixed"] == ("pretrained=false",)
    assert why == "from random weights, as none can be fetched here; --weights FILE starts from better ones"


def test_images_that_cannot_be_read_are_counted_apart_everywhere(here, faulty):
    """Where `hpo data`, its page and `hpo doctor` count images."""
    sorted(faulty.glob("*/*"))[-1].write_bytes(b"no image")
    printed = here("data", str(faulty), "--no-embeddings", "--report", "page.html")
    assert ": 121 images that can be read, 1 that cannot, 8 classes" in printed.output
    page = Path("page.html").read_text()
    assert "121 images that can be read in 8 classes" in page
    assert (
        re.search(r"The doctor would leave out [^.<]*", page)[0]
        == "The doctor would leave out 3 of them, and 1 that cannot be read"
    )
    assert ": 121 images of 8 classes that can be read, 1 that cannot, all tried" in here("doctor", str(faulty)).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "found.txt"], "--out is found.txt, but must end in .csv"),
        (["--report", "page.txt"], "--report is page.txt, but must end in .html"),
        (["--out", "nowhere/found.csv"], "in none"),
    ],
)
def test_wrong_files_are_refused_before_the_work(here, faulty, arguments, message):
    printed = here("data", str(faulty), "--no-embeddings", *arguments)
    assert printed.exit_code == 2
    assert message in printed.output


def test_a_table_that_may_be_edited_is_not_replaced(here, faulty, tmp_path):
    table = tmp_path / "found.csv"
    table.write_text("edited")
    command = ["data", str(faulty), "--no-embeddings", "--out", str(table)]
    printed = here(*command)
    assert printed.exit_code == 2
    assert "which is there and may hold what you edited: name another, or give --force" in printed.output
    assert table.read_text() == "edited"
    assert here(*command, "--force").exit_code == 0
    assert read_findings(table).rows
    listed = tmp_path / "cells.csv"
    listed.write_text("path,label\n")
    refused = here("data", str(listed), "--out", str(listed), "--force")
    assert refused.exit_code == 2
    assert "but that is DATA itself" in refused.output


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(here, faulty, tmp_path, monkeypatch):
    monkeypatch.setattr("hpo.cli.report.os.access", lambda _, mode, **__: not mode & os.W_OK)
    printed = here("data", str(faulty), "--no-embeddings", "--report", str(tmp_path / "page.html"))
    assert printed.exit_code == 2
    assert f"but nothing may be written in {tmp_path}: name another folder" in printed.output


def test_missing_data_are_one_line(here, tmp_path):
    printed = here("data", str(tmp_path / "nothing"))
    assert printed.exit_code == 2
    assert "does not exist" in printed.output


def test_steps_are_shown_one_after_the_other(capsys, monkeypatch):
    monkeypatch.setattr("hpo.cli.progress.LINE_INTERVAL", 0)
    with steps() as progress:
        for step in ("images", "copies", "judging"):
            progress(step, 1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["decoding images: 1 of 2", "looking for copies: 1 of 2", "judging the embeddings: 1 of 2"]


@pytest.mark.parametrize("option", ["--findings", "--clean"])
def test_a_study_keeps_its_decisions(here, faulty, tmp_path, monkeypatch, option):
    table = tmp_path / "found.csv"
    monkeypatch.setattr("hpo.inspection.inspect_data._backbone", lambda _: (None, {"embeddings": "no network"}))
    assert here("data", str(faulty), "--out", str(table)).exit_code == 0
    make = ["init", str(faulty), "--study", "s", *TINY]
    plain = here("init", str(faulty), "--study", "plain", *TINY)
    assert "the data doctor's quick checks: " in plain.output
    assert "2 copies of one picture under several classes" in plain.output
    chosen = [option, str(table)] if option == "--findings" else [option]
    made = here(*make, *chosen)
    assert made.exit_code == 0, made.output
    assert f"left out by {'found.csv' if option == '--findings' else '--clean'}: " in made.output
    assert "2 conflict" in made.output
    went_without = (
        "--clean looked for copies, unreadable and blank images, not for pictures that do not belong: no weights"
    )
    assert (went_without in made.output) == (option == "--clean")
    assert "quick checks" not in made.output

    def inspected(*_, **__):
        raise AssertionError("the data are inspected again")

    monkeypatch.setattr("hpo.inspection.inspect_data.inspect_images", inspected)
    for again in (make, [*make, *chosen]):
        printed = here(*again)
        assert printed.exit_code == 0, printed.output
        assert "2 conflict" in printed.output
    doctor = json.loads(here("doctor", str(faulty), "--study", "s", "--device", "cpu", "--json").stdout)
    summary = next(check["data"] for check in doctor["checks"] if check["what"] == "data")
    assert summary["changes"]["left_out"]["conflict"] == 2
    assert set(summary["classes"][0]) == {"name", "train", "val", "test"}
    other = here(*make, "--fix-leaks")
    assert other.exit_code == 2
    assert "study 's' was made with" in other.output
    refused = here("init", str(faulty), "--study", "plain", *TINY, *chosen)
    assert "study 'plain' was made without --findings, --clean and --fix-leaks" in refused.output


def test_a_command_without_a_space_continues_a_study_of_another(here, faulty):
    """The space `standard` has other weights, which would have to be fetched."""
    assert here("init", str(faulty), "--study", "s", "--space", "quick", *TINY).exit_code == 0
    again = here("init", str(faulty), "--study", "s", "--trials", "3")
    assert again.exit_code == 0, again.output
    assert "study s goes on with the space that it was made with: quick" in again.output
    assert "study s is ready for 3 trials" in again.output
    other = here("init", str(faulty), "--study", "s", "--space", "standard", "--set", "pretrained=false")
    assert other.exit_code == 2
    assert "study 's' exists with another search space" in other.output
    unfetched = here("init", str(faulty), "--study", "s", "--space", "standard")
    assert unfetched.exit_code == 2
    assert "study 's' exists with another search space" in unfetched.output, "before its weights are fetched"

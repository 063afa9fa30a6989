"""The table in its three forms, the figure, and the files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpo.data.changes import DataChanges
from hpo.errors import UsageError
from hpo.evaluation.intervals import Score
from hpo.experiments.compared_model import ComparedModel
from hpo.experiments.comparison import ComparisonRow, with_relative_errors
from hpo.experiments.comparison_figure import comparison_files
from hpo.experiments.comparison_table import corruptions_csv, count, csv_table, markdown, memory, notes, speed
from hpo.experiments.outputs import check_outputs, to_csv, write_outputs
from hpo.markdown import to_markdown

from .conftest import ABOUT, row

LONG = "a-preset-with-quite-a-long-name:epochs=3,batch_size=64"
ROWS = [
    row(LONG, 0.9812, seeds=3),
    row("retrained", None, macro_f1=None, corrupted=None, conditions={}, unseen=None, unseen_conditions={},
        seconds_per_epoch=None, peak_memory=None),
    row("majority-class", 0.24, parameters=0, trainable_parameters=0, notes=("fell ill",), openings=2, epochs=None,
        unseen_conditions={"motion": {1: 0.3, 5: 0.1}}),
]  # fmt: skip


def test_markdown_has_a_line_for_each_model_and_the_corruptions() -> None:
    lines = markdown(ROWS, ABOUT).splitlines()
    (head,) = [line for line in lines if line.startswith("| model | network")]
    width = head.count("|")
    assert all(line.count("|") == width for line in lines[lines.index(head) : lines.index(head) + 5])
    assert any("98.12 (97.4–98.7)" in line for line in lines)
    assert "| majority-class | 80.0 | 100.0 |" in lines, "means over severities"
    assert not any(line.startswith("| retrained |") and line.count("|") == 4 for line in lines)


def test_errors_are_relative_to_the_baseline_where_both_have_some() -> None:
    rows = with_relative_errors(ROWS, LONG)
    text = markdown(rows, ABOUT)
    assert f"## Errors under corruptions that no search sees, in % of those of {LONG}" in text
    assert "| majority-class | 266.7 | 266.7 |" in text
    assert f"mCE: errors under unseen corruptions in % of those of {LONG}, mean over the kinds" in text
    found = {one["model"]: one for one in csv.DictReader(io.StringIO(csv_table(rows).decode()))}
    assert float(found["majority-class"]["mce_unseen"]) == pytest.approx(1.6 / 0.6)
    assert float(found[LONG]["mce_seen"]) == 1.0
    assert found["retrained"]["mce_unseen"] == ""
    assert rows[2].to_dict()["errors"]["unseen"] == {"mean": pytest.approx(1.6 / 0.6), "interval": None, "kinds": {
        "motion": pytest.approx(1.6 / 0.6)}}  # fmt: skip
    json.dumps([one.to_dict() for one in rows])


def test_a_kind_without_an_error_of_the_baseline_is_named_and_left_out() -> None:
    perfect = replace(ROWS[0], unseen_conditions={"motion": {1: 0.8, 5: 0.6}, "defocus": {1: 1.0}})
    lines = notes(with_relative_errors([perfect], LONG), ABOUT)
    assert any(line.endswith("mean over the kinds, without defocus, where it makes no error") for line in lines)


def test_a_baseline_without_figures_is_named() -> None:
    lines = notes(with_relative_errors(ROWS, "retrained"), ABOUT)
    assert "no mCE: retrained has no figures under corruptions; name another model by --baseline" in lines


def test_every_condition_has_a_line_of_its_own() -> None:
    found = list(csv.DictReader(io.StringIO(corruptions_csv(ROWS).decode())))
    assert {"model": LONG, "family": "unseen", "kind": "motion", "severity": "5", "accuracy": "0.6"} in found
    assert len(found) == 2 * (3 + 2)
    assert corruptions_csv([]) == b"\n" or corruptions_csv([]) == b""


def test_another_laboratory_has_a_column_only_where_there_is_one() -> None:
    assert "other lab" not in markdown(ROWS, ABOUT)
    rows = [replace(ROWS[0], other=Score.of(0.5, 200), other_balanced=0.4), *ROWS[1:]]
    (line,) = [line for line in markdown(rows, ABOUT).splitlines() if line.startswith(f"| {LONG} | mobile")]
    assert "50.00 (43.1–56.9)" in line
    (one, *_) = csv.DictReader(io.StringIO(csv_table(rows).decode()))
    assert (one["other"], one["other_balanced"]) == ("0.5", "0.4")


def test_a_baseline_has_no_epochs() -> None:
    text = markdown([replace(ROWS[2], backbone="majority-class")], ABOUT)
    assert "| majority-class, 96 px |" in text
    (line,) = csv.DictReader(io.StringIO(csv_table(ROWS[2:]).decode()))
    assert line["epochs"] == ""


def test_csv_holds_the_figures_in_full() -> None:
    found = list(csv.DictReader(io.StringIO(csv_table(ROWS).decode())))
    assert [one["model"] for one in found] == [one.label for one in ROWS]
    score = ROWS[0].validation
    assert score is not None
    assert (float(found[0]["validation"]), float(found[0]["validation_low"])) == (score.value, score.interval[0])
    assert found[1]["validation"] == found[1]["peak_memory"] == ""
    assert float(found[0]["images_per_second_64"]) == 1234.5


def test_speeds_on_a_busy_machine_have_a_note() -> None:
    assert any("busy (load 2.6 per core)" in line for line in notes(ROWS, replace(ABOUT, load=2.61)))
    assert not any("busy" in line for line in notes(ROWS, replace(ABOUT, load=1.0)))
    assert not replace(ABOUT, device=None, load=2.6).busy, "nothing was measured here"


def test_the_number_of_models_measured_on_the_test_part_is_noted() -> None:
    (line,) = [line for line in notes(ROWS, ABOUT) if "test part" in line]
    assert line.startswith("5 different models were measured on this test part by now"), "3 seeds"
    assert "choose by validation" in line
    alone = [replace(ROWS[1]), replace(ROWS[2], test=None)]
    assert not any("test part" in line for line in notes(alone, ABOUT))


def test_models_measured_on_the_test_part_by_other_commands_count() -> None:
    alone = [replace(ROWS[1], test_models=7, openings=9), replace(ROWS[2], test=None)]
    assert any(line.startswith("7 different models were measured") for line in notes(alone, ABOUT))
    locked = [replace(row, test=None, test_models=0) for row in ROWS]
    assert not any("test part" in line for line in notes(locked, ABOUT))


def test_training_figures_of_other_machines_or_shared_processes_have_a_note() -> None:
    rows = [replace(ROWS[0], label=label, trained_on=("NVIDIA H200",)) for label in ("a", "b")]
    printed = notes([*rows, replace(ROWS[2], memory_shared=True)], ABOUT)
    assert "s/epoch and memory of a, b: training ran on NVIDIA H200" in printed
    assert any(line.startswith("≤: ") for line in printed)
    assert "≤1.3 GB" in markdown([replace(ROWS[0], memory_shared=True)], ABOUT)
    assert not any("training ran" in line or "≤" in line for line in notes(ROWS, ABOUT))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0, "0"), (999, "999"), (12_345, "12.3 k"), (26.08e6, "26.1 M")]
)
def test_counts(value: Any, text: str) -> None:
    assert count(value if value is None else int(value)) == text


def test_speeds_and_sizes() -> None:
    assert [speed(value) for value in (None, 8.314, 1234.5)] == ["–", "8.31", "1,234"]
    assert [memory(value) for value in (None, 64e7, 4.2e9)] == ["–", "640 MB", "4.2 GB"]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written() -> dict[str, bytes]:
    return comparison_files(ROWS, [ComparedModel("gone", "preset", (), notes=("failed: no memory",))], ABOUT)


def test_the_figure_is_the_same_for_the_same_figures(written: dict[str, bytes]) -> None:
    assert written["figure.png"].startswith(b"\x89PNG")
    again = comparison_files(ROWS, [], ABOUT)
    assert written["figure.svg"] == again["figure.svg"]
    assert b"<text" not in written["figure.svg"], "no font is needed to show it"


def test_the_figure_by_corruption_is_there_where_something_was_measured(written: dict[str, bytes]) -> None:
    assert written["corruptions.png"].startswith(b"\x89PNG")
    assert written["corruptions.svg"] == comparison_files(ROWS, [], ABOUT)["corruptions.svg"]
    without = comparison_files([ROWS[1]], [], ABOUT)
    assert set(written) - set(without) == {"corruptions.csv", "corruptions.svg", "corruptions.png"}


def test_results_hold_everything(written: dict[str, bytes]) -> None:
    results = json.loads(written["results.json"])
    assert results["command"] == ABOUT.command
    assert results["missing"] == [{"label": "gone", "notes": ["failed: no memory"]}]
    assert [one["label"] for one in results["models"]] == [one.label for one in ROWS]
    assert results["models"][0]["conditions"]["noise"] == {"1": 0.9, "2": 0.7}


@pytest.mark.parametrize("rows", [[ROWS[1]], [ROWS[2]]], ids=["no validation", "no parameters"])
def test_a_figure_of_few_values_is_drawn(rows: list[ComparisonRow]) -> None:
    assert comparison_files(rows, [], ABOUT)["figure.png"]


def test_files_are_replaced_and_others_stay(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write_outputs(out, {"table.md": b"old", "figure.png": b"1"})
    (out / "mine.txt").write_text("mine")
    write_outputs(out, {"table.md": b"new"})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "table.md": b"new", "figure.png": b"1", "mine.txt": b"mine",
    }  # fmt: skip


@pytest.mark.parametrize("out", ["file", "file/out", "file/a/b"])
def test_a_file_in_place_of_the_folder_is_refused_before_the_work(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file is a file; name a folder"):
        check_outputs(tmp_path / out)
    check_outputs(tmp_path)
    check_outputs(tmp_path / "new" / "out")
    check_outputs(None)
    assert not (tmp_path / "new").exists()


def test_markdown_and_csv_of_awkward_cells() -> None:
    assert to_markdown(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    assert to_csv([{"a": 'x,"y"', "b": None}]) == b'a,b\n"x,""y""",\n'


def test_what_findings_left_out_stands_under_the_table() -> None:
    changes = DataChanges({"a.png": "odd"}, {"b.png": "cat"}, source="--clean")
    said = {**changes.counts(), "line": changes.line()}
    about = replace(ABOUT, data={**ABOUT.data, "changes": said})
    assert "; left out by --clean: 1 image: 1 odd; 1 relabelled; " in about.line
    assert about.to_dict()["data"]["changes"]["left_out"] == {"odd": 1}
    assert "left out" not in ABOUT.line

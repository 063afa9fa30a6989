"""Predictions as JSON and CSV are whole or not written at all, with any names."""

import csv
import json
from dataclasses import replace

import pytest

from hpo.bundle.inputs import Prediction
from hpo.bundle.output import check_output, open_output
from hpo.data import Unreadable
from hpo.errors import UsageError

CLASSES = ("a,b", 'c"d')
PREDICTION = Prediction("é,\n.jpg", "a,b", 0, 0.75, {"a,b": 0.75, 'c"d': 0.25})
TORN = Unreadable("torn.jpg", "empty file")


def write(out):
    with open_output(str(out), CLASSES) as writer:
        writer.write(PREDICTION)
        writer.write_unreadable(TORN)


def test_json_holds_predictions_and_errors(tmp_path):
    write(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {
            "name": "é,\n.jpg", "label": "a,b", "index": 0, "probability": 0.75,
            "probabilities": {"a,b": 0.75, 'c"d': 0.25}, "abstained": False,
        },
        {"name": "torn.jpg", "error": "empty file"},
    ]  # fmt: skip


def test_csv_holds_the_same(tmp_path):
    write(tmp_path / "out.CSV")
    with (tmp_path / "out.CSV").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "name": "é,\n.jpg", "label": "a,b", "index": "0", "probability": "0.75", "abstained": "false", "error": "",
        "probability_a,b": "0.75", 'probability_c"d': "0.25",
    }  # fmt: skip
    assert (rows[1]["name"], rows[1]["label"], rows[1]["error"]) == ("torn.jpg", "", "empty file")


@pytest.mark.parametrize("name", ["out.json", "out.csv"])
def test_an_abstention_has_neither_label_nor_index(tmp_path, name):
    with open_output(str(tmp_path / name), CLASSES) as writer:
        writer.write(replace(PREDICTION, abstained=True))
    with (tmp_path / name).open(newline="") as file:
        row = (json.load(file) if name.endswith("json") else list(csv.DictReader(file)))[0]
    assert (row["label"], row["index"]) == ((None, None) if name.endswith("json") else ("", ""))
    assert str(row["abstained"]).lower() == "true"
    assert float(row["probability"]) == 0.75, "how sure it was is said"


def test_json_goes_to_stdout(capsys):
    write("-")
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["é,\n.jpg", "torn.jpg"]


def test_nothing_written_is_an_empty_list(tmp_path):
    with open_output(str(tmp_path / "out.json"), CLASSES):
        pass
    assert json.loads((tmp_path / "out.json").read_text()) == []


@pytest.mark.parametrize("name", ["out.json", "out.csv"])
def test_an_interruption_leaves_what_was_there(tmp_path, name):
    (tmp_path / name).write_text("before")

    def interrupted():
        with open_output(str(tmp_path / name), CLASSES) as writer:
            writer.write(PREDICTION)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / name).read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("out", "expected"),
    [("out.txt", "must end in"), ("out", "must end in"), ("no/out.json", "no folder"), ("d.csv", "a folder")],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path, out, expected):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UsageError, match=expected):
        check_output(str(tmp_path / out))


def test_no_name_and_no_class_is_a_formula_to_a_spreadsheet(tmp_path):
    classes = ("=1+1", "-1", "@SUM(A1)")
    rows = dict(zip(classes, (0.75, 0.125, 0.125), strict=True))
    with open_output(str(tmp_path / "out.csv"), classes) as writer:
        for name in ("=cmd|' /C calc'!A0.jpg", "\t=1.jpg", "plain.jpg"):
            writer.write(Prediction(name, "=1+1", 0, 0.75, rows))
        writer.write_unreadable(Unreadable("+torn.jpg", "-empty file"))
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *cells = list(csv.reader(file))
    assert [row[0] for row in cells] == ["'=cmd|' /C calc'!A0.jpg", "'\t=1.jpg", "plain.jpg", "'+torn.jpg"]
    assert [row[1] for row in cells] == ["'=1+1", "'=1+1", "'=1+1", ""]
    assert cells[3][5] == "'-empty file"
    assert [float(cell) for cell in cells[0][6:]] == [0.75, 0.125, 0.125]
    assert header[6:] == [f"probability_{name}" for name in classes]

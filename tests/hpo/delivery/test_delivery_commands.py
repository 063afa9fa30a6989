"""The commands: what they print where, what they exit with."""

import csv
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from hpo.cli import main
from hpo.delivery.bundle import read_bundle, write_bundle
from hpo.delivery.validation import Validation

from .conftest import draw


@pytest.fixture
def run(tmp_path, cache):
    """Run a command line; the cache of packed images is shared."""

    def call(*words):
        home = [] if words[0] == "predict" else ["--home", str(cache)]
        return CliRunner().invoke(main, [*map(str, words), "--threads", "1", "--device", "cpu", *home])

    return call


def test_evaluate_json_is_json_alone(run, bundle, images):
    said = run("evaluate", bundle, "--data", images, "--split", "test", "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert {"accuracy", "n", "balanced_accuracy", "macro_f1", "interval", "classes", "confusion"} <= set(found)
    assert found["test_openings"] == 1


def test_evaluate_prints_a_table_and_counts_the_looks(run, bundle, images):
    run("evaluate", bundle, "--data", images)
    said = run("evaluate", bundle, "--data", images)
    for part in ("accuracy", "95 % interval", "precision", "true \\ predicted", "opened 2 times"):
        assert part in said.stdout


def test_evaluate_shows_calibration_and_what_views_gain(run, bundle, images):
    said = run("evaluate", bundle, "--data", images, "--split", "val", "--tta", "dihedral")
    assert said.exit_code == 0, said.output
    for part in ("ECE", "Brier", "not calibrated", "with --tta dihedral, the mean of 8 views", "points ("):
        assert part in said.stdout
    told = json.loads(run("evaluate", bundle, "--data", images, "--split", "val", "--tta", "flips", "--json").stdout)
    assert (told["calibration"]["temperature"], told["tta"]["views"]) == (None, 4)


def test_evaluate_says_when_all_of_other_data_is_taken(run, bundle, tmp_path):
    said = run("evaluate", bundle, "--data", draw(tmp_path / "other", 2, seed=8), "--split", "val", "--json")
    assert json.loads(said.stdout)["n"] == 6
    assert "all of it is evaluated, so --split val chooses nothing" in said.stderr


def test_evaluate_says_what_flatters(run, bundle, images):
    assert "the train part took part" in run("evaluate", bundle, "--data", images, "--split", "train").stderr


@pytest.mark.parametrize("name", ["predictions.json", "predictions.csv"])
def test_predict_writes_a_file_and_counts(run, bundle, images, tmp_path, name):
    said = run("predict", bundle, images, "--out", tmp_path / name, "--batch-size", "8")
    assert (said.exit_code, said.stdout) == (0, "")
    assert "30 images predicted" in said.stderr
    text = (tmp_path / name).read_text()
    assert len(json.loads(text) if name.endswith("json") else list(csv.DictReader(text.splitlines()))) == 30


def test_predict_prints_json_and_names_the_unreadable_on_stderr(run, bundle, tmp_path):
    folder = draw(tmp_path / "images", 1, seed=4)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8torn")
    said = run("predict", bundle, folder)
    assert said.exit_code == 0
    assert len(json.loads(said.stdout)) == 4
    assert "torn.jpg" in said.stderr
    assert "1 could not be read" in said.stderr


def test_predict_says_what_the_threshold_is_worth_and_how_many_abstain(run, manifest, weights, images, tmp_path):
    validation = Validation(np.array([0, 1, 2, 2] * 20), 9 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0] * 20])
    write_bundle(tmp_path / "known", manifest, weights, {}, validation=validation)
    out = tmp_path / "predictions.csv"
    said = run("predict", tmp_path / "known", images, "--accuracy", "0.6", "--tta", "flips", "--out", out)
    assert said.exit_code == 0, said.output
    assert "100.0% of the validation images reach it, and 0.7500 of those are right" in said.stderr
    assert "with 95 % confidence at least 0.66" in said.stderr
    assert "measured without --tta" in said.stderr
    assert "30 images predicted, 30 of them abstained" in said.stderr
    assert {row["label"] for row in csv.DictReader(out.read_text().splitlines())} == {""}


def test_retrain_shows_validation_beside_test(run, manifest, weights, images, tmp_path, bundle):
    validation = {"accuracy": 0.75, "interval": [0.5, 0.9], "n": 12}
    write_bundle(tmp_path / "best", manifest, weights, {"validation": validation, "test": None, "test_openings": []})
    said = run("retrain", tmp_path / "best", "--data", images, "--out", tmp_path / "final")
    assert said.exit_code == 0, said.output
    assert "epoch 2/2" in said.stderr
    assert "0.7500 (95 % interval 0.5000 to 0.9000, n 12)" in said.stdout
    assert "test accuracy of the new model" in said.stdout
    assert read_bundle(tmp_path / "final").manifest.stage == "retrained"


def test_retrain_says_when_nothing_has_proved_the_model(run, manifest, weights, images, tmp_path):
    origin = manifest.data.model_copy(update={"test_fraction": 0.0})
    write_bundle(tmp_path / "best", manifest.model_copy(update={"data": origin}), weights, {})
    said = run("retrain", tmp_path / "best", "--data", images, "--out", tmp_path / "final")
    assert "nothing has proved this model" in said.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "{nowhere}", "--data", "{images}"),
        ("evaluate", "{bundle}", "--data", "{nowhere}"),
        ("evaluate", "{images}", "--data", "{images}"),
        ("predict", "{bundle}", "{nowhere}"),
        ("predict", "{bundle}", "{images}", "--out", "predictions.xml"),
        ("predict", "{bundle}", "{images}", "--accuracy", "0.9"),
        ("retrain", "{bundle}", "--data", "{images}", "--out", "{images}"),
        ("retrain", "{bundle}", "--data", "{images}", "--out", "{bundle}"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, bundle, images, tmp_path, words):
    places = {"nowhere": tmp_path / "nowhere", "bundle": bundle, "images": images}
    said = run(*(word.format(**places) for word in words))
    assert said.exit_code == 2
    assert said.stdout == ""
    assert len(said.stderr.strip().splitlines()) == 1
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("batch_size", ["1", "7"])
def test_json_on_a_terminal_is_whole(in_terminal, bundle, tmp_path, batch_size):
    """What stderr says shares the terminal: it may come before and after the document, and nothing may wipe a line."""
    folder = draw(tmp_path / "images", 5, seed=4)
    (folder / "green" / "torn.jpg").write_bytes(b"\xff\xd8torn")
    shown = in_terminal("predict", bundle, folder, "--batch-size", batch_size, "--device", "cpu")
    assert shown.code == 0
    document, end, after = shown.text.partition("\n]\n")
    assert len(json.loads(document + end)) == 16
    assert after == "15 images predicted, 1 could not be read\n"


def test_a_terminal_shows_progress_where_results_go_to_a_file(in_terminal, bundle, images, tmp_path):
    for arguments, out in ([], tmp_path / "piped.json"), (["--out", tmp_path / "out.json"], None):
        shown = in_terminal("predict", bundle, images, "--batch-size", "7", "--device", "cpu", *arguments, out=out)
        assert "7 images\r\033[K14 images\r\033[K" in shown.text
        assert shown.text.endswith("30 images\r\033[K30 images predicted\n")
        assert len(json.loads((out or tmp_path / "out.json").read_text())) == 30


def test_an_error_on_a_terminal_has_a_line_of_its_own(in_terminal, bundle, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "torn.jpg").write_bytes(b"torn")
    shown = in_terminal("predict", bundle, tmp_path / "images", "--out", tmp_path / "x.csv", "--device", "cpu")
    assert shown.code == 2
    assert re.search(r"(\n|\033\[K)hpo: none of the 1 images", shown.text)


def test_json_is_not_spoilt_by_a_dumb_terminal(in_terminal, bundle, images, tmp_path):
    shown = in_terminal("predict", bundle, images, "--out", tmp_path / "x.csv", "--device", "cpu", TERM="dumb")
    assert shown.text == "30 images predicted\n"


def test_evaluate_json_on_a_terminal_is_whole(in_terminal, bundle, images, cache):
    arguments = ("--data", images, "--split", "val", "--json", "--home", cache, "--device", "cpu")
    shown = in_terminal("evaluate", bundle, *arguments)
    assert shown.code == 0
    *_, document = shown.text.partition("{\n")
    assert json.loads("{" + document)["n"] == 6

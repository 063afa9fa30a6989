"""The delivery commands print results and notes to the right stream and exit with the right code."""

import csv
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from hpo.bundle.bundle import Extras, read_bundle, write_bundle
from hpo.bundle.validation import Validation
from hpo.cli import main
from hpo.data import ImageDigests

from .conftest import draw


@pytest.fixture
def run(tmp_path, cache):
    """Run a command line in a HOME of its own; the cache of packed images is shared."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(cache)

    def call(*words, input=None):  # noqa: A002 - the name is click's
        home = [] if words[0] == "predict" else ["--home", str(tmp_path / "home")]
        return CliRunner().invoke(main, [*map(str, words), "--threads", "1", "--device", "cpu", *home], input=input)

    return call


def test_evaluate_json_is_json_alone(run, bundle, images):
    result = run("evaluate", bundle, "--data", images, "--split", "test", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"accuracy", "n", "balanced_accuracy", "macro_f1", "interval", "classes", "confusion"} <= set(found)
    assert found["test_openings"] == 1


def test_evaluate_prints_a_table_and_counts_the_accesses(run, bundle, images):
    run("evaluate", bundle, "--data", images)
    result = run("evaluate", bundle, "--data", images)
    for part in (
        "accuracy",
        "95 % interval",
        "precision",
        "true \\ predicted",
        "opened 2 times by now, always with this model",
    ):
        assert part in result.stdout


def test_evaluate_shows_calibration_and_the_gain_of_views(run, bundle, images):
    result = run("evaluate", bundle, "--data", images, "--split", "val", "--tta", "dihedral")
    assert result.exit_code == 0, result.output
    for part in ("ECE", "Brier", "not calibrated", "with --tta dihedral, the mean of 8 views", "points ("):
        assert part in result.stdout
    found = json.loads(run("evaluate", bundle, "--data", images, "--split", "val", "--tta", "flips", "--json").stdout)
    assert (found["calibration"]["temperature"], found["tta"]["views"]) == (None, 4)


def test_evaluate_says_when_all_of_other_data_is_evaluated(run, bundle, tmp_path):
    result = run("evaluate", bundle, "--data", draw(tmp_path / "other", 2, seed=8), "--split", "val", "--json")
    assert json.loads(result.stdout)["n"] == 6
    assert "all of it is evaluated, so --split val chooses nothing" in result.stderr


def test_evaluate_says_what_is_left_out(run, bundle, tmp_path):
    other = draw(tmp_path / "other", 2, seed=8)
    next(other.rglob("*.png")).with_suffix(".heic").touch()
    assert "left out: 1 .heic\n" in run("evaluate", bundle, "--data", other).stderr


def test_evaluate_says_which_images_took_part(run, manifest, weights, dataset, images, tmp_path):
    write_bundle(tmp_path / "best", manifest, weights, {}, extras=Extras(known=ImageDigests.of(dataset)))
    more = shutil.copytree(images, tmp_path / "more")
    shutil.copy(draw(tmp_path / "other", 1, seed=8) / "red" / "0.png", more / "red" / "new.png")
    took_part = len(dataset.train) + len(dataset.val)
    result = run("evaluate", tmp_path / "best", "--data", more)
    assert f"{took_part} of 31 images of {more} took part in making this model" in result.stderr
    assert "of the measured images are of the test part of the model's own data" in result.stderr
    assert "on the other images" in " ".join(result.stdout.split())
    refused = run("evaluate", tmp_path / "best", "--data", more, "--split", "test")
    assert (refused.exit_code, len(refused.stderr.strip().splitlines())) == (2, 1)


def test_evaluate_says_when_a_part_took_part_in_training(run, bundle, images):
    assert "the train part took part" in run("evaluate", bundle, "--data", images, "--split", "train").stderr


@pytest.mark.parametrize("name", ["predictions.json", "predictions.csv"])
def test_predict_writes_a_file_and_counts(run, bundle, images, tmp_path, name):
    result = run("predict", bundle, images, "--out", tmp_path / name, "--batch-size", "8")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "30 images predicted" in result.stderr
    text = (tmp_path / name).read_text()
    assert len(json.loads(text) if name.endswith("json") else list(csv.DictReader(text.splitlines()))) == 30


def test_predict_prints_json_and_names_the_unreadable_on_stderr(run, bundle, tmp_path):
    folder = draw(tmp_path / "images", 1, seed=4)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8torn")
    result = run("predict", bundle, folder)
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 4
    assert "torn.jpg" in result.stderr
    assert "1 could not be read" in result.stderr


def test_predict_prints_the_accuracy_at_the_threshold_and_counts_abstentions(run, manifest, weights, images, tmp_path):
    validation = Validation(np.array([0, 1, 2, 2] * 20), 9 * np.eye(3, dtype=np.float32)[[0, 1, 2, 0] * 20])
    alone = manifest.model_copy(update={"compared": 1})
    write_bundle(tmp_path / "known", alone, weights, {}, validation=validation)
    out = tmp_path / "predictions.csv"
    result = run("predict", tmp_path / "known", images, "--accuracy", "0.6", "--tta", "flips", "--out", out)
    assert result.exit_code == 0, result.output
    assert "100.0% of the validation images reach it, and 0.7500 of those are right" in result.stderr
    assert "with 95 % confidence at least 0.66" in result.stderr
    assert "measured without --tta" in result.stderr
    assert "30 images predicted, 30 of them abstained" in result.stderr
    assert {row["label"] for row in csv.DictReader(out.read_text().splitlines())} == {""}


def test_retrain_shows_validation_beside_test(run, manifest, weights, images, tmp_path, bundle):
    validation = {"accuracy": 0.75, "interval": [0.5, 0.9], "n": 12}
    write_bundle(tmp_path / "best", manifest, weights, {"validation": validation, "test": None, "test_openings": []})
    result = run("retrain", tmp_path / "best", "--data", images, "--out", tmp_path / "final")
    assert result.exit_code == 0, result.output
    assert "epoch 2/2" in result.stderr
    assert "0.7500 (95 % interval 0.5000 to 0.9000, n 12)" in result.stdout
    assert "test accuracy of the new model" in result.stdout
    assert read_bundle(tmp_path / "final").manifest.stage == "retrained"


def test_retrain_measures_the_test_part_under_corruptions_in_the_same_access(run, bundle, images, tmp_path):
    result = run("retrain", bundle, "--data", images, "--out", tmp_path / "final", "--corrupted")
    assert result.exit_code == 0, result.output
    assert "under corruptions: 6 images each once under each kind" in result.stdout
    assert f"is kept in {tmp_path / 'final'}" in result.stderr
    metrics = read_bundle(tmp_path / "final").metrics
    assert [one["part"] for one in metrics["corrupted"]] == ["test"]
    assert [one["command"] for one in metrics["test_openings"]] == ["retrain"]
    assert "| corruptions that no search sees |" in (tmp_path / "final" / "README.md").read_text()
    assert "corrupted" not in read_bundle(bundle).metrics


def test_retrain_says_when_the_model_was_not_measured(run, manifest, weights, images, tmp_path):
    origin = manifest.data.model_copy(update={"test_fraction": 0.0})
    write_bundle(tmp_path / "best", manifest.model_copy(update={"data": origin}), weights, {})
    result = run("retrain", tmp_path / "best", "--data", images, "--out", tmp_path / "final")
    assert "nothing has proved this model" in result.stdout


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
    result = run(*(word.format(**places) for word in words))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


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


@pytest.mark.slow
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


def test_json_is_whole_on_a_dumb_terminal(in_terminal, bundle, images, tmp_path):
    shown = in_terminal("predict", bundle, images, "--out", tmp_path / "x.csv", "--device", "cpu", TERM="dumb")
    assert shown.text == "30 images predicted\n"


def test_evaluate_json_on_a_terminal_is_whole(in_terminal, bundle, images, cache):
    arguments = ("--data", images, "--split", "val", "--json", "--home", cache, "--device", "cpu")
    shown = in_terminal("evaluate", bundle, *arguments)
    assert shown.code == 0
    *_, document = shown.text.partition("{\n")
    assert json.loads("{" + document)["n"] == 6


def predicted(run, bundle, *paths, stdin=None):
    """Return the rows of JSON, as (name, whether there is an error)."""
    result = run("predict", bundle, *paths, input=stdin)
    assert result.exit_code == 0, result.output
    return [(row["name"], "error" in row) for row in json.loads(result.stdout)]


@pytest.fixture
def some(tmp_path):
    """Six images of 3 classes, one of them torn, beside files of other kinds."""
    folder = draw(tmp_path / "some", 2, seed=4)
    (folder / "green" / "1.png").write_bytes(b"torn")
    for name in ("photo.heic", "noted", "notes.txt"):
        (folder / "green" / name).write_bytes(b"x")
    return folder


def test_a_folder_gives_a_row_for_each_file_in_order(run, bundle, some):
    """Files of other kinds and torn ones have a row with an error."""
    names = ["blue/0.png", "blue/1.png", "green/0.png", "green/1.png", "green/noted", "green/notes.txt"]
    names += ["green/photo.heic", "red/0.png", "red/1.png"]
    wrong = {"green/1.png", "green/noted", "green/notes.txt", "green/photo.heic"}
    assert predicted(run, bundle, some) == [(str(some / name), name in wrong) for name in names]
    result = run("predict", bundle, some, "--batch-size", "1")
    assert [row["name"] for row in json.loads(result.stdout)] == [str(some / name) for name in names]


def test_several_places_of_all_kinds_are_read_in_their_order(run, bundle, some, tmp_path):
    one = some / "red" / "1.png"
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 9, 9, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(one, "inner/z.png")
        archive.writestr("inner/z.heic", b"x")
    (tmp_path / "c.csv").write_text(f"Label;Path\nred;some/red/0.png\n;gone.png\n;{one}\n", encoding="utf-8-sig")
    places = (one, tmp_path / "a.npz", some / "blue", tmp_path / "b.zip", tmp_path / "c.csv", "-", one)
    stdin = f"\ufeff{one}\r\n\nsome/red/0.png\n{some}\n{tmp_path / 'no such.png'}".encode()
    assert predicted(run, bundle, *places, stdin=stdin) == [
        (str(one), False),
        *((f"{tmp_path / 'a.npz'}:images[{n}]", False) for n in range(2)),
        *((str(some / "blue" / f"{n}.png"), False) for n in range(2)),
        (f"{tmp_path / 'b.zip'}:inner/z.heic", True),
        (f"{tmp_path / 'b.zip'}:inner/z.png", False),
        ("some/red/0.png", False), ("gone.png", True), (str(one), False),
        (str(one), False), ("some/red/0.png", True), (str(some), True), (str(tmp_path / "no such.png"), True),
        (str(one), False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "file,label\na.png,x\n", r"must have path: add path, or rename file to path"),
        ("a.csv", "path,label\n,x\n", r"line 2: path is empty"),
        ("a.csv", "path,Path\na.png,b.png\n", r"must have one path"),
        ("a.csv", "", r"must have path"),
        ("a.csv", "path\n", r"has a header but no rows"),
        ("a.heic", "x", r"is a file, but must be a folder, a .zip, an .npz, a .csv or an image"),
    ],
)
def test_a_source_without_images_is_refused_before_anything_is_written(
    run, bundle, images, tmp_path, name, content, expected
):
    (tmp_path / name).write_text(content)
    result = run("predict", bundle, tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search(expected, result.stderr)
    assert result.stderr.count("\n") == 1


def test_stdin_that_is_empty_or_named_twice_is_refused(run, bundle):
    assert "no images in a list" in run("predict", bundle, "-", input=b"").stderr
    result = run("predict", bundle, "-", "-", input=b"")
    assert (result.exit_code, "stdin can be read only once" in result.stderr) == (2, True)


def test_paths_from_stdin_are_asked_for_as_they_are_needed(run, bundle, some, monkeypatch):
    """A pipe of a million paths is never held as a whole."""
    from hpo.data import PathList, iter_images

    asked = []

    def paths():
        for number in range(100_000):
            asked.append(number)
            yield str(some / "red" / "0.png")

    stream = iter_images([PathList(paths())], 8, 4)
    next(stream)
    stream.close()
    assert len(asked) < 5_000

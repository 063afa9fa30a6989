"""`hpo compare` as a user gives it: presets trained by real workers, everything measured, one table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from hpo.bundle.bundle import read_bundle
from hpo.data.synthetic import write_cells
from hpo.search.trial_record import stored_command
from storage import Database, open_study, study_names
from tests.hpo.cli.conftest import Command

pytestmark = pytest.mark.postgres

TINY = """
fixed: {backbone: mobilenetv2_035, pretrained: false, image_size: 32, epochs: 2, batch_size: 16, precision: fp32}
dimensions: {learning_rate: {type: float, low: 1e-3, high: 1e-2, log: true}}
"""
WORKER = ("--workers", "1", "--threads", "1", "--device", "cpu")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"


def models_by_name(out: Path) -> dict[str, dict[str, str]]:
    return {line["model"]: line for line in csv.DictReader(io.StringIO((out / "table.csv").read_text()))}


@pytest.mark.slow(35)
def test_presets_are_trained_once_and_compared_with_bundles_and_trials(
    here: Callable[..., Result], command: Command, database: Database, cells: Path, tiny: str
) -> None:
    presets = (tiny, f"{tiny}:optimiser=sgd,learning_rate=0.05", "majority-class")
    common = ("--data", str(cells), *WORKER, "--set", "image_size=32")
    first = here("compare", *presets, *common, "--seeds", "2", "--epochs", "1", "--name", "three", "--test",
                 "--out", "first")  # fmt: skip
    assert first.exit_code == 0, first.output
    founded = stored_command(open_study(database, "three"))
    assert founded.startswith(f"hpo compare {tiny} ")
    assert "--name three" in founded
    assert database.url.password is None or database.url.password not in founded
    found = models_by_name(command.home / "first")
    assert set(found) == set(presets)
    assert {line["epochs"] for line in found.values()} == {"1", ""}, "a baseline has no epochs to speak of"
    assert all(float(line["test_low"]) <= float(line["test"]) <= float(line["test_high"]) for line in found.values())
    assert found[tiny]["validation_spread"] != ""
    assert (found["majority-class"]["parameters"], found["majority-class"]["validation_spread"]) == ("0", "0.0")
    trials = open_study(database, "three").get_trials(deepcopy=False)
    assert [trial.params["run"] for trial in trials][:2] == [f"{tiny}, seed 0", f"{presets[1]}, seed 0"]

    folder = json.loads((command.home / "first/results.json").read_text())["models"][0]["folders"][0]
    looks = len(read_bundle(folder).metrics["test_openings"])
    again = here("compare", folder, "three#1", *presets, *common, "--seeds", "2", "--epochs", "1", "--name", "three",
                 "--no-test", "--out", "second")  # fmt: skip
    assert again.exit_code == 0, again.output
    assert "--no-test is not needed any more" in again.stderr
    assert len(open_study(database, "three").get_trials(deepcopy=False)) == len(trials) == 6
    assert stored_command(open_study(database, "three")) == founded, "that of the first command"
    second = models_by_name(command.home / "second")
    assert {line["kind"] for line in second.values()} == {"preset", "bundle", "trial"}
    assert all(line["seconds_per_epoch"] and line["peak_memory"] for line in second.values()), "on record for all"
    assert {line["test"] for line in second.values()} == {""}
    for name in presets:
        assert second[name]["validation"] == found[name]["validation"], "measured anew, the same"
        assert second[name]["corrupted"] == found[name]["corrupted"]
    assert len(read_bundle(folder).metrics["test_openings"]) == looks == 1
    third = here("compare", folder, "--data", str(cells), "--test", "--out", "third")
    assert third.exit_code == 0, third.output
    assert all(line["test"] for line in models_by_name(command.home / "third").values())
    assert len(read_bundle(folder).metrics["test_openings"]) == 1, "the look of the first comparison serves this one"


@pytest.mark.slow
def test_without_a_name_the_same_command_finds_its_study_again(
    here: Callable[..., Result], database: Database, cells: Path
) -> None:
    arguments = ("compare", "majority-class", "--data", str(cells), *WORKER, "--set", "image_size=32")
    for _ in range(2):
        assert here(*arguments).exit_code == 0
    (name,) = study_names(database)
    assert name.startswith("comparison-")


@pytest.mark.slow
def test_invalid_comparisons_are_refused_before_training(
    refused: Callable[[Sequence[str]], str], here: Callable[..., Result], database: Database, cells: Path,
    tmp_path: Path, tiny: str,
) -> None:  # fmt: skip
    made = here("compare", "random-guess", "--data", str(cells), *WORKER, "--set", "image_size=32", "--name", "made")
    assert made.exit_code == 0, made.output
    other = tmp_path / "other"
    write_cells(other, 60, size=32, seed=1)
    data = ("--data", str(cells))
    for arguments, reason in [
        ((tiny, "made#0", "--data", str(other)), "made#0 was made with other images than"),
        ((tiny, "made#0", *data, "--seed", "3"), "made#0 was made with the split «stratified 80/10/10, seed 0»"),
        ((tiny, "made#7", *data), "study 'made' has no trial 7"),
        ((tiny, "absent#0", *data), "no study 'absent'"),
        ((tiny, tiny, *data), f"{tiny} is named 2 times"),
        ((tiny, *data, "--test", "--no-test"), "give one of them"),
        (("quik", *data), "did you mean quick?"),
        ((tiny, *data, "--set", "phase1.learning_rate=1"), "fits no preset here"),
        ((tiny, *data, "--backbone", "mobilenetv2_100"), "--backbone mobilenetv2_100 is for presets that"),
        ((str(tmp_path / "nowhere"), *data), "nowhere"),
        ((tiny, "--data", "nowhere"), "nowhere: no such file or folder"),
        ((tiny, *data, "--out", tiny), f"--out {tiny}: {tiny} is a file; name a folder"),
        ((tiny, *data, "--keep", "1"), "no such option"),
    ]:
        assert reason in refused(["compare", *arguments])
    assert study_names(database) == ["made"]


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_other_models_are_compared(
    here: Callable[..., Result], command: Command, cells: Path, tiny: str
) -> None:
    ended = here(
        "compare", f"{tiny}:learning_rate=100,optimiser=sgd", "majority-class", "--data", str(cells), *WORKER,
        "--set", "image_size=32", "--out", "out", "--no-test",
    )  # fmt: skip
    assert ended.exit_code == 1, ended.output
    assert "gave no model: pruned: " in ended.stderr
    results = json.loads((command.home / "out/results.json").read_text())
    assert [one["label"] for one in results["models"]] == ["majority-class"]
    assert results["missing"][0]["label"].startswith(tiny)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--baseline", "cnn"), "--baseline is 'cnn', but must be one of the compared models: random-guess, maj"),
        (("--map", "a=b"), "--map names classes of other data: give these by --other"),
        (("--map", "a"), "--map is 'a', but must be THEIRS=OURS"),
        (("--other", "nowhere"), "nowhere does not exist: give the path of"),
        (("--other", "lab"), "class 'theirs' of lab is unknown to the model"),
    ],
)  # fmt: skip
def test_mistakes_about_corruptions_and_other_data_are_found_before_a_study_exists(
    here: Callable[..., Result], command: Command, database: Database, cells: Path, options: tuple[str, ...],
    expected: str,
) -> None:  # fmt: skip
    for name in (sorted(entry.name for entry in cells.iterdir())[0], "theirs"):
        folder = command.home / "lab" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(folder / "1.png")
    result = here("compare", "random-guess", "majority-class", "--data", str(cells), *WORKER, *options)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert study_names(database) == []

"""The model card says what config.json and metrics.json say, names the commands for what they lack, and no more."""

import json
import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpo.bundle.bundle import check_out, read_bundle, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.corrupted_measurement import keep_record
from hpo.bundle.corrupted_records import BaselineErrors, RobustnessRecord, stored_records
from hpo.bundle.manifest import Member, ProbeFit, RobustnessFigures
from hpo.bundle.model_card import README, card_text, refresh_card
from hpo.bundle.stored_metrics import METRICS, new_opening, record_opening, record_result
from hpo.bundle.validation import Validation
from hpo.errors import BundleError
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.intervals import Score
from hpo.evaluation.metrics import report
from hpo.evaluation.robustness import FamilyScore, RelativeErrors, Robustness
from hpo.markdown import literal, to_markdown

PREDICTIONS = Validation(np.array([0, 2, 1, 1]), 4 * np.eye(3, dtype=np.float32)[[0, 2, 1, 0]])


def measured(kind: str = "pixelation") -> Robustness:
    conditions = tuple(Condition(kind, severity, 10, 9 - severity) for severity in range(1, 6))
    unseen = FamilyScore("unseen", 1, Score.of(0.6, 40), conditions)
    return Robustness(images=50, of=80, clean=Score.of(0.9, 50), families=(unseen,))


def record(data: str, **more) -> RobustnessRecord:
    return RobustnessRecord("2026-11-29T10:00:00+00:00", "test", f"i{data}", data, measured(), **more)


def card(bundle) -> str:
    return (bundle / README).read_text()


def test_a_new_bundle_has_a_card_that_names_what_measures_the_rest(bundle, manifest):
    text = card(bundle)
    head = yaml.safe_load(text.split("---")[1])
    assert (head["pipeline_tag"], head["tags"][-1]) == ("image-classification", "mobilenetv2_035")
    for words in (
        "# colours: trial 4\n", "3 classes", "Not measured: validation. `hpo evaluate BUNDLE --data DATA --split val`",
        "`hpo evaluate BUNDLE --data DATA` measures this model on the test part",
        "`hpo evaluate BUNDLE --data DATA --corrupted` measures the test part", "Classes: blue, green, red.",
        manifest.data.fingerprint[:16], "hpo retrain BUNDLE --data DATA --out again/", "random weights",
        "Images of another laboratory or camera were not measured",
    ):  # fmt: skip
        assert words in text
    assert "nan" not in text


def test_what_was_measured_stands_there_with_its_intervals(tmp_path, manifest, weights):
    found = report(*PREDICTIONS, manifest.classes).to_dict()
    known = manifest.model_copy(update={"calibration": calibration_of(PREDICTIONS), "compared": 20})
    altered = {"accuracy": 0.5, "n": 8, "images": 4, "interval": [0.2, 0.8]}
    write_bundle(tmp_path / "some", known, weights, {"validation": found, "altered": altered}, validation=PREDICTIONS)
    text = card(tmp_path / "some")
    assert "| validation | 4 | 75.00 (30.1–95.4) |" in text
    assert (
        "| validation, altered by corruptions that a search may see | 8, of 4 images | 50.00 (20.0–80.0) | – | – |"
        in text
    )
    assert "| green | 2 | 100.00 | 50.00 | 66.67 |" in text
    assert f"divided by {known.calibration.temperature:.3f}, fitted on 4 validation images." in text
    assert "best of 20 by the validation images" in text


def test_corruptions_stand_by_kind_and_severity_relative_to_a_named_baseline(bundle, manifest):
    baseline = BaselineErrors("first", {"unseen": RelativeErrors({"pixelation": 0.5}, (0.4, 0.62))})
    keep_record(bundle, record(manifest.data.fingerprint, baseline=baseline))
    text = card(bundle)
    assert "mCE, over the errors of first" in text
    assert "| corruptions that no search sees | 60.00 (44.6–73.7) | 0.50 (0.40–0.62) |" in text
    assert "| pixelation (unseen) | 80 | 70 | 60 | 50 | 40 | 60 | 0.50 |" in text
    assert "50 images of 80, drawn at random" in text
    (kept,) = stored_records(read_bundle(bundle).metrics, METRICS)
    assert kept.baseline == baseline


def test_without_a_baseline_errors_are_relative_to_the_model_s_own(bundle, manifest):
    keep_record(bundle, record(manifest.data.fingerprint))
    assert "errors over those on the images as they are" in card(bundle)
    assert "baseline" not in read_bundle(bundle).metrics["corrupted"][0]


def test_other_data_are_named_as_such(bundle):
    keep_record(bundle, record("another-laboratory"))
    text = card(bundle)
    assert "The test part of other data (another-labo), 2026-11-29" in text
    assert "another laboratory or camera were not measured" not in text
    assert "`hpo evaluate BUNDLE --data DATA --corrupted` measures the test part" in text


def test_accesses_to_the_test_part_stand_there(bundle):
    opening = new_opening("evaluate", "f", 6, test="t", model="m")
    (bundle / METRICS).write_text(json.dumps({"test_openings": [opening]}))
    record_result(bundle, opening, 0.5, test={"accuracy": 0.5, "n": 6})
    refresh_card(bundle)
    assert "a test part was opened once." in card(bundle)
    assert "| test | 6 | 50.00 | – | – |" in card(bundle)


def test_the_accuracy_of_an_evaluation_of_this_very_model_stands_there(bundle, manifest):
    ours = read_bundle(bundle).model_digest
    for model, accuracy in ((ours, 0.75), ("another", 0.5)):
        opening = new_opening("evaluate", manifest.data.fingerprint, 8, test="t", model=model)
        record_opening(bundle, opening)
        record_result(bundle, opening, accuracy)
    refresh_card(bundle)
    assert "| test | 8 | 75.00 (40.9–92.9) | – | – |" in card(bundle)
    assert "a test part was opened 2 times, with 2 different models." in card(bundle)


def test_a_card_has_no_part_in_the_checks_of_a_bundle(bundle):
    before = read_bundle(bundle)
    (bundle / README).unlink()
    assert read_bundle(bundle) == before
    refresh_card(bundle)
    (bundle / README).write_text(card(bundle) + "\nA line of my own.\n")
    assert read_bundle(bundle) == before


def test_a_readme_of_the_user_is_never_replaced(bundle, manifest, weights):
    (bundle / README).write_text("mine")
    refresh_card(bundle)
    assert card(bundle) == "mine"
    with pytest.raises(BundleError, match="not a bundle alone"):
        check_out(bundle, force=True)
    (bundle / README).unlink()
    write_bundle(bundle, manifest, weights, {}, force=True)
    check_out(bundle, force=True)


@pytest.mark.parametrize("metrics", ['{"corrupted": [3]}', '{"test": {"accuracy": "high"}, "altered": 3}', "{"])
def test_metrics_that_were_spoilt_by_hand_spoil_no_measurement(bundle, metrics):
    (bundle / METRICS).write_text(metrics)
    refresh_card(bundle)
    assert "# colours" in card(bundle)


def test_ensembles_name_their_members_and_how_to_join_them_again(manifest):
    member = Member(
        trial=2, weight=1.0, temperature=1.0, best_epoch=1, mean=(0.5,) * 3, std=(0.5,) * 3, config=manifest.config
    )
    made_of = RobustnessFigures(weight=0.25, clean=0.9, altered=0.5)
    joined = manifest.model_copy(update={"stage": "ensemble", "members": (member,), "robustness": made_of})
    text = card_text(joined, {}, "")
    assert "an ensemble of 1 trials" not in text
    assert "| 2 | 1 | mobilenetv2\\_035 |" in text
    assert "hpo ensemble --study colours --out again/" in text
    assert "0.75 of the accuracy on validation images as they are (0.9000)" in text


def test_a_frozen_probe_stands_in_the_recipe(manifest):
    text = card_text(manifest.model_copy(update={"probe": ProbeFit(penalty=1.0, images=640)}), {}, "")
    assert "the backbone is frozen, a linear head was fitted to its features of 640 images; seed 7." in text
    assert "trained for" not in text


def test_names_show_as_they_are(manifest):
    names = ("a|b", "<script>", "x_y*z")
    text = card_text(manifest.model_copy(update={"classes": names}), {}, "")
    assert "Classes: a|b, \\<script\\>, x\\_y\\*z." in text


@given(st.text())
def test_a_literal_is_one_line_whose_marks_are_all_escaped(text):
    found = literal(text)
    assert "\n" not in found
    assert re.sub(r"\\([\\`*_\[\]<>#~&])", r"\1", found) == " ".join(text.split())
    assert not re.search(r"(?<!\\)[<>*_`]", re.sub(r"\\\\", "", found))


def test_a_table_escapes_bars():
    assert "a\\|b" in to_markdown(("name",), [["a|b"]])

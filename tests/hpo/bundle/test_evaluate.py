"""An evaluation selects its images, counts them, and records accesses to a test part."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import hpo
from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import Extras, read_bundle, write_bundle
from hpo.bundle.evaluate import evaluate, evaluate_on, select
from hpo.bundle.manifest import Calibration, Scores
from hpo.cli.delivery_text import retrain_lines, selection_lines
from hpo.data import DataOrigin, ImageDigests, open_dataset
from hpo.data.changes import DataChanges
from hpo.delivery.retrain import RetrainOptions, retrain
from hpo.errors import DataError
from hpo.evaluation.calibration import probabilities, reliability
from hpo.evaluation.metrics import report

from .conftest import CLASSES, SIZE, SPLIT, draw


@pytest.fixture
def model(bundle):
    return hpo.load(bundle, device="cpu")


@pytest.fixture
def parted(tmp_path):
    """Other images than the bundle's, with parts of their own."""
    for seed, part in enumerate(("train", "test"), start=10):
        draw(tmp_path / "parted" / part, 2 + seed % 2, seed=seed)
    return tmp_path / "parted"


def by_hand(model, part):
    return report(part.labels, model.logits(part.batch(np.arange(len(part)))), CLASSES)


@pytest.mark.parametrize("name", ["train", "val"])
def test_own_data_is_split_as_it_was_for_training(model, images, cache, dataset, name):
    found = evaluate(model, images, cache=cache, split=name, batch_size=4)
    assert (found.selection.name, found.selection.own, found.openings) == (name, True, None)
    assert list(found.selection.part.names) == list(getattr(dataset, name).names)
    assert found.report.confusion == by_hand(model, getattr(dataset, name)).confusion
    assert read_bundle(model.bundle.path).metrics["test_openings"] == []


def test_the_test_part_of_own_data_is_the_default_and_each_access_is_recorded(model, images, cache, dataset):
    locked = open_dataset(images, image_size=SIZE, cache=cache, split=SPLIT).open_test()
    for count in (1, 2):
        found = evaluate(model, images, cache=cache)
        assert (found.selection.name, found.openings) == ("test", count)
        assert list(found.selection.part.names) == list(locked.names)
    openings = read_bundle(model.bundle.path).metrics["test_openings"]
    assert [one["command"] for one in openings] == ["evaluate", "evaluate"]
    assert openings[0]["accuracy"] == found.report.accuracy
    assert openings[0]["data"] == dataset.fingerprint


def test_own_data_is_recognised_by_its_content_in_any_folder(model, images, cache, tmp_path):
    shutil.copytree(images, tmp_path / "moved")
    found = evaluate(model, tmp_path / "moved", cache=cache, split="val")
    assert found.selection.own


def test_own_data_is_recognised_by_class_names_as_an_earlier_version_read_them(bundle, images, cache, tmp_path):
    shutil.copytree(images, tmp_path / "blanks")
    (tmp_path / "blanks" / CLASSES[0]).rename(tmp_path / "blanks" / f"{CLASSES[0]} ")
    earlier = open_dataset(tmp_path / "blanks", image_size=SIZE, cache=cache, split=SPLIT).earlier_fingerprint
    known = read_bundle(bundle)
    data = known.manifest.data.model_copy(update={"fingerprint": earlier})
    old = known.manifest.model_copy(update={"data": data, "classes": (f"{CLASSES[0]} ", *CLASSES[1:])})
    write_bundle(tmp_path / "old", old, known.model, known.metrics)
    found = evaluate(hpo.load(tmp_path / "old", device="cpu"), tmp_path / "blanks", cache=cache, split="val")
    assert (found.selection.own, found.selection.name) == (True, "val")


def test_other_data_without_parts_is_evaluated_whole(model, cache, tmp_path):
    other = draw(tmp_path / "other", 3, seed=1)
    found = evaluate(model, other, cache=cache, split="test")
    assert (found.selection.name, found.report.n, found.openings) == (None, 9, None)


def test_the_summary_of_the_data_is_in_the_json(model, parted, cache):
    (parted / "test" / "red" / "1.heic").touch()
    described = evaluate(model, parted, cache=cache).to_dict()["data"]
    assert [(entry["name"], entry["test"]) for entry in described["classes"]] == [(name, 3) for name in CLASSES]
    assert described["left_out"] == [{"kind": ".heic", "count": 1, "names": ["test/red/1.heic"]}]
    assert (described["notes"], described["unreadable"]) == ([], [])


def test_other_data_may_lack_a_class_but_not_bring_a_new_one(model, cache, tmp_path):
    other = draw(tmp_path / "other", 3, seed=2)
    shutil.rmtree(other / "blue")
    found = evaluate(model, other, cache=cache)
    assert [sum(row) for row in found.report.confusion] == [0, 3, 3]
    (other / "red").rename(other / "violet")
    with pytest.raises(DataError, match="violet"):
        evaluate(model, other, cache=cache)


def test_other_data_with_parts_is_evaluated_by_its_own_parts(model, parted, cache):
    assert evaluate(model, parted, cache=cache, split="train").report.n == 6
    found = evaluate(model, parted, cache=cache)
    assert (found.selection.name, found.selection.own, found.report.n) == ("test", False, 9)
    with pytest.raises(DataError, match="val"):
        evaluate(model, parted, cache=cache, split="val")


def test_batches_and_progress_cover_every_image_once(model, images, cache):
    calls = []
    small = evaluate(model, images, cache=cache, split="train", batch_size=4, progress=lambda *at: calls.append(at))
    large = evaluate(model, images, cache=cache, split="train", batch_size=1000)
    n = large.report.n
    assert small.report.confusion == large.report.confusion
    assert small.report.loss == pytest.approx(large.report.loss, abs=1e-5)
    assert calls[-1] == (n, n)
    assert [done for done, _ in calls[-2:]] == [4 * ((n - 1) // 4), n]


@pytest.fixture
def calibrated(tmp_path, manifest, weights):
    """Return the bundle with a temperature of 0.5."""
    scores = Scores(ece=0, chance_ece=0, brier=0, nll=0)
    calibration = Calibration(temperature=0.5, fitted_on="validation", n=6, before=scores, after=scores)
    write_bundle(tmp_path / "calibrated", manifest.model_copy(update={"calibration": calibration}), weights, {})
    return hpo.load(tmp_path / "calibrated", device="cpu")


def test_calibration_is_measured_before_and_after_on_the_evaluated_part(calibrated, images, cache, dataset):
    measured = evaluate(calibrated, images, cache=cache, split="train").measurement
    labels, logits = dataset.train.labels, calibrated.logits(dataset.train.batch(np.arange(len(dataset.train))))
    assert measured.before.nll == pytest.approx(reliability(labels, probabilities(logits)).nll, abs=1e-5)
    assert measured.after.brier == pytest.approx(reliability(labels, probabilities(logits, 0.5)).brier, abs=1e-5)
    described = measured.to_dict()["calibration"]
    assert described["temperature"] == 0.5
    assert sum(one["n"] for one in described["after"]["bins"]) == len(labels)


def test_without_a_temperature_nothing_changes(model, images, cache):
    measured = evaluate(model, images, cache=cache, split="val").measurement
    assert (measured.temperature, measured.averaged) == (None, None)
    assert measured.before == measured.after


@pytest.mark.parametrize("tta", ["flips", "dihedral"])
def test_views_are_reported_beside_the_unchanged_images(calibrated, images, cache, dataset, tta):
    plain = evaluate(calibrated, images, cache=cache, split="train").report
    found = evaluate(calibrated, images, cache=cache, split="train", tta=tta, batch_size=5).measurement
    assert found.report.confusion == plain.confusion
    averaged, n = found.averaged, found.report.n
    rows = calibrated.probabilities_of([dataset.train.batch(np.arange(n))], tta)
    assert averaged.report.accuracy == (rows.argmax(axis=1) == dataset.train.labels).mean()
    assert averaged.gained - averaged.lost == round(n * (averaged.report.accuracy - plain.accuracy))
    assert averaged.reliability.nll == pytest.approx(reliability(dataset.train.labels, rows).nll, abs=1e-5)
    described = json.loads(json.dumps(found.to_dict()))["tta"]
    assert (described["tta"], described["views"]) == (tta, 4 if tta == "flips" else 8)
    assert described["gain"] == pytest.approx(averaged.report.accuracy - plain.accuracy)


def test_the_dictionary_has_its_documented_keys(model, images, cache):
    found = evaluate(model, images, cache=cache, split="val").to_dict()
    assert json.loads(json.dumps(found)) == found
    keys = {"accuracy", "n", "balanced_accuracy", "macro_f1", "interval", "loss", "classes", "confusion", "labels"}
    keys |= {"calibration", "tta"}
    assert keys <= set(found)
    assert (found["split"], found["own_data"]) == ("val", True)


@pytest.fixture
def knowing(tmp_path, manifest, weights, dataset):
    """Return the bundle with the digests of the images that it was made with."""
    origin = DataOrigin.of(dataset, SPLIT)
    known = ImageDigests.of(dataset)
    write_bundle(
        tmp_path / "knowing", manifest.model_copy(update={"data": origin}), weights, {}, extras=Extras(known=known)
    )
    return hpo.load(tmp_path / "knowing", device="cpu")


def one_more(folder):
    """Return one image that no data set here has, of the first class."""
    generator = np.random.default_rng(77)
    Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "blue" / "new.png")
    return folder


def copied(images, target):
    """Return the images, each in a file of other bytes and the same pixels, under another name."""
    for file in sorted(images.glob("*/*.png")):
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(file).save(target / file.parent.name / f"copy-{file.stem}.bmp")
    return target


def test_images_that_took_part_are_left_out_of_data_with_one_more_image(knowing, images, cache, dataset, tmp_path):
    more = one_more(shutil.copytree(images, tmp_path / "more"))
    found = evaluate(knowing, more, cache=cache)
    took_part, tests = len(dataset.train) + len(dataset.val), dataset.test_count
    overlap = found.selection.overlap
    assert (overlap.images, overlap.took_part, overlap.left_out, overlap.tests) == (31, took_part, took_part, tests)
    assert found.report.n == tests + 1
    assert found.to_dict()["overlap"] == {
        "images": 31, "took_part": took_part, "left_out": took_part, "tests": tests
    }  # fmt: skip
    assert found.openings == 1, "the images of the test part were looked at, in other company"
    assert evaluate(knowing, images, cache=cache).openings == 2, "they are the same test part"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_part_of_data_that_only_resemble_the_bundles_is_refused(knowing, images, cache, tmp_path, split):
    more = one_more(shutil.copytree(images, tmp_path / "more"))
    with pytest.raises(DataError, match=r"of 31 images of .* took part in making this model.*leave --split out"):
        evaluate(knowing, more, cache=cache, split=split)
    assert read_bundle(knowing.bundle.path).metrics == {}


def test_copies_in_another_file_format_and_under_other_names_took_part(knowing, images, cache, dataset, tmp_path):
    found = evaluate(knowing, copied(images, tmp_path / "copies"), cache=cache)
    assert not found.selection.own
    assert found.report.n == dataset.test_count
    assert found.selection.overlap.took_part == len(dataset.train) + len(dataset.val)


def test_training_images_as_the_test_part_of_another_folder_are_no_test_access(
    knowing, images, cache, dataset, tmp_path
):
    other = draw(tmp_path / "other" / "train", 2, seed=21).parent
    for name in dataset.train.names:
        target = other / "test" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / name, target)
    with pytest.raises(DataError, match=r"all .* images of .* took part in making this model"):
        evaluate(knowing, other, cache=cache, split="test")
    assert read_bundle(knowing.bundle.path).metrics == {}
    new = one_more(other / "test")
    found = evaluate(knowing, other, cache=cache, split="test")
    assert (found.report.n, found.selection.overlap.left_out) == (1, len(dataset.train))
    assert found.selection.part.names[0].endswith("new.png"), new


def test_a_given_test_part_is_evaluated_after_images_were_added_to_train(tmp_path, manifest, weights, cache):
    folder = tmp_path / "parted"
    for seed, part in enumerate(("train", "test"), start=30):
        draw(folder / part, 6, seed=seed)
    dataset = open_dataset(folder, image_size=SIZE, cache=cache, split=SPLIT)
    made = manifest.model_copy(update={"data": DataOrigin.of(dataset, SPLIT)})
    write_bundle(tmp_path / "made", made, weights, {}, extras=Extras(known=ImageDigests.of(dataset)))
    model = hpo.load(tmp_path / "made", device="cpu")
    before = evaluate(model, folder, cache=cache)
    one_more(folder / "train")
    found = evaluate(model, folder, cache=cache, split="test")
    assert (found.selection.own, found.selection.overlap.left_out, found.report.n) == (False, 0, 18)
    assert found.report == before.report
    assert (found.accesses, before.accesses) == (AccessCounts(2, 1), AccessCounts(1, 1)), "it is the same test part"


def test_an_access_to_two_test_parts_is_recorded_under_each(knowing, parted, images, cache, tmp_path):
    own = open_dataset(images, image_size=SIZE, cache=cache, split=SPLIT).open_test().names[0]
    shutil.copy(images / own, parted / "test" / "red" / "own.png")
    ledger = AccessLedger(tmp_path / "home")

    def evaluate_default(data):
        return evaluate_on(knowing, select(knowing.bundle, data, cache=cache, split=None), ledger=ledger)

    found = evaluate_default(parted)
    assert (found.selection.name, found.selection.overlap.tests, len(found.selection.tests)) == ("test", 1, 2)
    openings = read_bundle(knowing.bundle.path).metrics["test_openings"]
    assert [one["test"] for one in openings] == list(found.selection.tests)
    assert {one["accuracy"] for one in openings} == {found.report.accuracy}
    assert found.openings == 1, "each test part was opened once"
    assert evaluate_default(parted).openings == 2, "the other data's test part has been looked at before"
    assert evaluate_default(images).openings == 3, "and so has the model's own"


def test_test_images_that_are_trained_on_too_are_left_out_of_own_data(tmp_path, manifest, weights, cache):
    folder = tmp_path / "leaking"
    for seed, part in enumerate(("train", "test"), start=40):
        draw(folder / part, 6, seed=seed)
    shutil.copy(folder / "train" / "red" / "0.png", folder / "test" / "red" / "copy.png")
    dataset = open_dataset(folder, image_size=SIZE, cache=cache, split=SPLIT)
    made = manifest.model_copy(update={"data": DataOrigin.of(dataset, SPLIT)})
    for name, known in (("knowing", ImageDigests.of(dataset)), ("old", None)):
        write_bundle(tmp_path / name, made, weights, {}, extras=Extras(known=known))
        found = evaluate(hpo.load(tmp_path / name, device="cpu"), folder, cache=cache)
        assert (found.selection.own, found.selection.overlap.left_out, found.report.n) == (True, 1, 18)


def test_a_bundle_of_an_earlier_version_says_that_overlap_is_not_known(model, images, cache, tmp_path):
    more = one_more(shutil.copytree(images, tmp_path / "more"))
    found = evaluate(model, more, cache=cache)
    assert (found.selection.overlap.took_part, found.report.n) == (None, 31)
    (line,) = [line for line in selection_lines(more, found.selection, None) if "not known" in line]
    assert "no digests of its images" in line


def test_another_split_of_own_data_is_refused(knowing, manifest, weights, images, cache, tmp_path, dataset):
    origin = DataOrigin.of(dataset, SPLIT).model_copy(update={"split_digest": "0" * 32})
    write_bundle(tmp_path / "torn", manifest.model_copy(update={"data": origin}), weights, {})
    with pytest.raises(DataError, match="but here other images validate or test"):
        evaluate(hpo.load(tmp_path / "torn", device="cpu"), images, cache=cache)


@pytest.fixture
def decided(tmp_path, manifest, weights, images, cache):
    """Return a bundle whose data leave out an image of each part and have another with a new label, and these data."""
    plain = open_dataset(images, image_size=SIZE, cache=cache, split=SPLIT)
    parts = (plain.train, plain.val, plain.open_test())
    changes = DataChanges(
        {part.names[0]: "outlier" for part in parts}, {plain.open_test().names[-1]: "green"}, source="findings.csv"
    )
    dataset = open_dataset(images, image_size=SIZE, cache=cache, split=SPLIT, changes=changes)
    origin = DataOrigin.of(dataset, SPLIT)
    write_bundle(
        tmp_path / "decided", manifest.model_copy(update={"data": origin}), weights, {"test_openings": []},
        extras=Extras(known=ImageDigests.of(dataset)),
    )  # fmt: skip
    return hpo.load(tmp_path / "decided", device="cpu"), dataset


def test_own_data_are_measured_as_findings_left_them(decided, images, cache):
    model, dataset = decided
    for name in ("val", "test"):
        found = evaluate(model, images, cache=cache, split=name)
        part = dataset.open_test() if name == "test" else dataset.val
        assert found.selection.own
        assert list(found.selection.part.names) == list(part.names)
        assert not set(part.names) & set(dataset.changes.drops)
        assert found.report.confusion == by_hand(model, part).confusion
        assert found.to_dict()["data"]["changes"]["left_out"] == {"outlier": 3}
    relabelled = [*dataset.train.names, *dataset.val.names, *dataset.open_test().names]
    assert set(dataset.changes.relabels) <= set(relabelled)
    assert any("left out by findings.csv: 3 images" in line for line in selection_lines(images, found.selection, None))


def test_other_data_do_not_follow_the_findings_and_it_is_said(decided, images, cache, tmp_path):
    model, _ = decided
    shutil.copytree(images, tmp_path / "grown")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "grown" / "red" / "new.png")
    found = evaluate(model, tmp_path / "grown", cache=cache)
    assert not found.selection.own
    note = next(line for line in selection_lines(tmp_path, found.selection, None) if "in the model's own data" in line)
    assert "in the model's own data: left out by findings.csv: 3 images" in note
    assert "; these are other data, so none of that is applied to them" in note
    assert note.endswith("; 4 images here have the name of one that it concerns")
    assert note in found.to_dict()["data"]["notes"]
    assert found.to_dict()["data"]["changes"] is None


def test_a_retraining_says_whose_findings_it_follows(decided, images, cache, tmp_path):
    model, dataset = decided
    options = RetrainOptions(cache=cache)
    again = retrain(model.bundle, images, tmp_path / "again", options)
    assert again.images == len(dataset.train) + len(dataset.val)
    assert "its data: left out by findings.csv: 3 images: 3 outlier; 1 relabelled" in retrain_lines(
        "x", model.bundle, again
    )
    assert read_bundle(tmp_path / "again").manifest.data.changes == dataset.changes
    shutil.copytree(images, tmp_path / "grown")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "grown" / "red" / "new.png")
    other = retrain(model.bundle, tmp_path / "grown", tmp_path / "other", replace(options, other_data=True))
    lines = retrain_lines("x", model.bundle, other)
    assert any(
        line.startswith("in the model's own data: left out by") and "none of that is applied" in line for line in lines
    )

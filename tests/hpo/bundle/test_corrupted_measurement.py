"""`hpo evaluate --corrupted`: measured under both families, printed, and kept with the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

import hpo
from hpo.bundle.bundle import read_bundle, write_bundle
from hpo.bundle.corrupted_measurement import keep_record, measure_corrupted, new_record
from hpo.bundle.corrupted_records import best_record, stored_records
from hpo.bundle.json_files import json_text
from hpo.bundle.stored_metrics import METRICS, merge_metrics
from hpo.cli import main
from hpo.corruptions import SEEN
from hpo.errors import BundleError
from hpo.unseen_corruptions import UNSEEN

from .conftest import draw


@pytest.fixture
def evaluate(bundle, images, tmp_path):
    """Run `hpo evaluate` on the bundle's own images."""

    def run(*options: object, of: object = bundle, data: object = images) -> Result:
        fixed = ["--home", str(tmp_path / "home"), "--threads", "1", "--device", "cpu"]
        return CliRunner().invoke(main, ["evaluate", str(of), "--data", str(data), *map(str, options), *fixed])

    return run


def records(bundle):
    return stored_records(read_bundle(bundle).metrics, "metrics.json")


@pytest.fixture(scope="module")
def measured(manifest, weights, dataset, cache, tmp_path_factory):
    """Return the measurement of the tiny network on the validation part."""
    folder = tmp_path_factory.mktemp("measured") / "bundle"
    write_bundle(folder, manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return measure_corrupted(hpo.load(folder, device="cpu"), dataset.val, cache)


def test_every_image_is_measured_as_it_is_and_under_each_kind(measured, dataset):
    assert (measured.images, measured.of) == (len(dataset.val), len(dataset.val))
    assert [(one.family, one.version) for one in measured.families] == [
        (family.name, family.version) for family in (SEEN, UNSEEN)
    ]
    for one, family in zip(measured.families, (SEEN, UNSEEN), strict=True):
        assert list(one.by_kind) == list(family.kinds)
        assert {sum(c.images for c in found) for found in one.by_kind.values()} == {len(dataset.val)}


def test_a_record_is_kept_once_for_each_set_of_images(bundle, measured, dataset):
    for part, name in ((dataset.val, "val"), (dataset.train, "train"), (dataset.val, "val")):
        keep_record(bundle, new_record(measured, part, name, dataset.fingerprint))
    found = records(bundle)
    assert [one.part for one in found] == ["train", "val"]
    assert found[1].result == measured
    assert read_bundle(bundle).metrics["test_openings"] == []


def test_the_record_of_a_test_part_is_preferred_and_other_data_are_none_of_it(measured, dataset):
    kept = [
        new_record(measured, dataset.val, name, data)
        for name, data in (("test", "own"), ("val", "own"), ("all", "else"))
    ]
    assert best_record(kept, "own") is kept[0]
    assert best_record(kept[1:], "own") is kept[1]
    assert best_record(kept[2:], "own") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"result": None}, "corrupted.0.result"),
        ({"images": 3}, "corrupted.0.images"),
        ("correct", "counts or shares are out of range"),
    ],
)
def test_a_record_that_was_changed_by_hand_is_refused(measured, dataset, change, message):
    record = json.loads(json.dumps(new_record(measured, dataset.val, "val", "own").to_dict()))
    if change == "correct":
        record["result"]["families"][0]["conditions"][0]["correct"] = 10**6
    else:
        record |= change
    with pytest.raises(BundleError, match=f"metrics.json: .*{message}.*copy or export the bundle again"):
        stored_records({"corrupted": [record]}, "metrics.json")


def test_the_records_of_two_copies_are_merged_and_the_later_one_of_the_same_images_stays(bundle, measured, dataset):
    old, new = (new_record(measured, dataset.val, name, "own") for name in ("val", "test"))
    other = new_record(measured, dataset.train, "train", "own")
    records_of = {
        bundle: (replace(new, date="2026-02-01"), replace(other, date="2026-01-01")),
        "copy": (replace(old, date="2026-01-01"),),
    }
    for first, second in ((bundle, "copy"), ("copy", bundle)):
        here, there = (
            json_text({"test_openings": [], "corrupted": [one.to_dict() for one in records_of[place]]})
            for place in (first, second)
        )
        (bundle / METRICS).write_text(here)
        merge_metrics(bundle, there.encode())
        assert {one.part for one in records(bundle)} == {"train", "test"}
    merge_metrics(bundle, json_text({"test_openings": []}).encode())
    assert len(records(bundle)) == 2


def test_a_bundle_of_an_earlier_version_has_no_record(bundle):
    assert records(bundle) == []


def test_the_measurement_is_printed_and_kept(evaluate, bundle):
    result = evaluate("--split", "val", "--corrupted")
    assert result.exit_code == 0, result.output
    for words in ("under corruptions: 6 images each once under each kind", "corruptions that no search sees",
                  "relative to its own on the images as they are", "stain-deposits", "grid-mask",
                  "% right (of n)"):  # fmt: skip
        assert words in result.output
    assert f"is kept in {bundle}" in result.stderr
    (record,) = records(bundle)
    assert record.part == "val"
    again = json.loads(evaluate("--split", "val", "--corrupted", "--baseline", bundle, "--json").stdout)["corrupted"]
    assert (again["images"], again["relative_to"]) == (6, str(bundle))
    means = [again["relative_errors"][family.name]["mean"] for family in (SEEN, UNSEEN)]
    assert all(mean is None or mean == pytest.approx(1) for mean in means)
    assert records(bundle)[0].result == record.result


def test_without_the_option_nothing_is_measured_or_kept(evaluate, bundle):
    found = json.loads(evaluate("--split", "val", "--json").stdout)
    assert found["corrupted"] is None
    assert "corrupted" not in read_bundle(bundle).metrics


def test_training_images_are_measured_but_not_kept(evaluate, bundle):
    result = evaluate("--split", "train", "--corrupted", "--json")
    assert "is not kept" in result.stderr
    assert "the model has trained on these images" in result.stderr
    assert json.loads(result.stdout)["corrupted"]["images"] > 6
    assert records(bundle) == []


def test_a_baseline_needs_a_measurement_on_the_same_images(evaluate, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "other")
    result = evaluate("--split", "val", "--corrupted", "--baseline", tmp_path / "other")
    assert result.exit_code != 0
    assert "keeps no measurement under corruptions on these very images; run `hpo evaluate" in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert records(bundle) == []
    result = evaluate("--baseline", tmp_path / "other")
    assert result.exit_code == 2
    assert "give --corrupted too" in result.stderr
    assert read_bundle(bundle).metrics["test_openings"] == []


def test_data_of_another_laboratory(evaluate, bundle, tmp_path):
    other = draw(tmp_path / "lab", 3, seed=5)
    (other / "red").rename(other / "ROUGE")
    shutil.rmtree(other / "blue")
    refused = evaluate(data=other)
    assert refused.exit_code == 2
    assert "class 'ROUGE' of" in refused.stderr
    assert "--map ROUGE=CLASS" in refused.stderr
    result = evaluate("--map", "ROUGE=red", "--json", data=other)
    assert result.exit_code == 0, result.output
    assert "class 'ROUGE' is taken as 'red', as --map says: 3 images" in result.stderr
    assert "no image is of class blue: the figures are of the other 2" in result.stderr
    assert [sum(row) for row in json.loads(result.stdout)["confusion"]] == [0, 3, 3]


def test_nothing_of_the_own_data_can_be_renamed(evaluate):
    result = evaluate("--map", "red=green")
    assert result.exit_code == 2
    assert "is the data that the model was made with, so --map has nothing to rename" in result.stderr


def test_a_bundle_that_cannot_be_written_to_is_measured_all_the_same(evaluate, bundle, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hpo.bundle.corrupted_measurement.write_file", refuse)
    result = evaluate("--split", "val", "--corrupted")
    assert result.exit_code == 0
    assert "is not kept" in result.stderr
    assert "metrics.json cannot be written (Permission denied)" in result.stderr

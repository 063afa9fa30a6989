"""A bundle comes back as it was written, or says in one line why not."""

import io
import json
import threading

import numpy as np
import pytest

import hpo
from hpo.bundle import bundle as module
from hpo.bundle.bundle import CONFIG, IMAGES, MODEL, VALIDATION, Extras, check_out, read_bundle, write_bundle
from hpo.bundle.manifest import FORMAT, Manifest
from hpo.bundle.model_card import README
from hpo.bundle.stored_metrics import METRICS, new_opening, record_opening, record_result
from hpo.bundle.validation import Validation, read_validation
from hpo.data import ImageDigests
from hpo.errors import BundleError

from .conftest import CLASSES, SIZE, write_format_1

PREDICTIONS = Validation(np.array([0, 2, 1, 1]), np.eye(3, dtype=np.float32)[[0, 2, 1, 0]])


def edit(path, **changes):
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))


def test_a_bundle_comes_back_as_it_was_written(bundle, manifest, weights):
    found = read_bundle(bundle)
    assert (found.manifest, found.model) == (manifest, weights)
    assert sorted(entry.name for entry in bundle.iterdir()) == [README, module.CLASSES, CONFIG, METRICS, MODEL]
    assert found.validation is None


def test_classes_have_their_numbers_in_a_file_of_their_own(bundle):
    assert json.loads((bundle / module.CLASSES).read_text()) == {"0": "blue", "1": "green", "2": "red"}


def test_predictions_come_back_as_they_were(tmp_path, manifest, weights):
    write_bundle(tmp_path / "some", manifest, weights, {}, validation=PREDICTIONS)
    labels, logits = read_bundle(tmp_path / "some").validation
    assert np.array_equal(labels, PREDICTIONS.labels)
    assert np.array_equal(logits, PREDICTIONS.logits)
    assert (labels.dtype, logits.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("name", [module.CLASSES, VALIDATION])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damage_to_any_file_with_a_digest_is_noticed(tmp_path, manifest, weights, name, damage):
    path = tmp_path / "some"
    write_bundle(path, manifest, weights, {}, validation=PREDICTIONS)
    if damage == "gone":
        (path / name).unlink()
    else:
        (path / name).write_bytes((path / name).read_bytes()[:-2] + b"??")
    with pytest.raises(BundleError, match=name) as caught:
        read_bundle(path)
    assert "\n" not in str(caught.value)


def test_damaged_predictions_are_named(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, labels=np.zeros(3, np.int64), logits=np.zeros((2, 3), np.float32))
    for content in (b"PK", b"", buffer.getvalue()):
        with pytest.raises(BundleError, match="export the bundle again"):
            read_validation(content, source=tmp_path / VALIDATION)


def test_a_bundle_of_format_1_is_read_and_answers_uncalibrated(tmp_path, manifest, weights):
    write_format_1(tmp_path / "old", manifest, weights)
    found = read_bundle(tmp_path / "old")
    assert (found.manifest, found.model, found.validation) == (manifest, weights, None)
    model = hpo.load(tmp_path / "old", device="cpu")
    assert model.temperature == 1
    with pytest.raises(BundleError, match="no validation predictions"):
        model.abstention(0.9)
    write_bundle(tmp_path / "old", manifest, weights, {}, force=True)


def test_a_manifest_survives_its_dictionary(manifest):
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())), source="here") == manifest


def test_logits_survive_the_round_trip(bundle, tmp_path, manifest, weights):
    write_bundle(tmp_path / "again", manifest, read_bundle(bundle).model, {})
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    first, second = (hpo.load(path, device="cpu").logits(pixels) for path in (bundle, tmp_path / "again"))
    assert first.shape == (5, len(CLASSES))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", [MODEL, CONFIG, METRICS])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"not a bundle: it has no {name}"):
        read_bundle(bundle)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BundleError, match="nowhere: no such folder"):
        hpo.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:99] + b"?" + b[100:], lambda b: b""]
)
def test_damaged_weights_are_noticed(bundle, damage):
    (bundle / MODEL).write_bytes(damage((bundle / MODEL).read_bytes()))
    with pytest.raises(BundleError, match=r"model\.safetensors: its checksum"):
        read_bundle(bundle)


@pytest.mark.parametrize("name", [CONFIG, METRICS])
@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b"\xff\xfe", b"null"])
def test_a_torn_json_file_is_named(bundle, name, content):
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=name) as caught:
        read_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_a_newer_format_asks_for_an_upgrade(bundle):
    edit(bundle / CONFIG, bundle_format=FORMAT + 1)
    with pytest.raises(BundleError, match="newer than this hpo reads"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": ["one"]}, "classes"),
        ({"classes": ["a", "a", "b"]}, "must differ"),
        ({"trial": -1}, "trial"),
        ({"preprocessing": {}}, r"preprocessing\.image_size"),
        ({"surprise": 1}, "surprise"),
        ({"config": {"epochs": 0}}, r"config\.epochs"),
        ({"bundle_format": None}, "bundle_format is None"),
        ({"sha256": None}, "checksum"),
        ({"stage": "ensemble"}, "an ensemble has members"),
    ],
)
def test_a_broken_rule_of_the_manifest_is_named(bundle, changes, expected):
    edit(bundle / CONFIG, **changes)
    with pytest.raises(BundleError, match=expected) as caught:
        read_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_an_unknown_backbone_is_named(bundle, manifest):
    edit(bundle / CONFIG, config=manifest.config.to_dict() | {"backbone": "mobilenetv99"})
    with pytest.raises(BundleError, match="mobilenetv99"):
        hpo.load(bundle)


def test_weights_of_another_architecture_are_refused(bundle, manifest):
    edit(bundle / CONFIG, config=manifest.config.to_dict() | {"backbone": "mobilenetv2_050"})
    with pytest.raises(BundleError, match="does not fit mobilenetv2_050") as caught:
        hpo.load(bundle)
    assert "\n" not in str(caught.value)


def test_a_bundle_is_replaced_only_by_force(bundle, manifest, weights):
    with pytest.raises(BundleError, match="--force"):
        write_bundle(bundle, manifest, weights, {})
    write_bundle(bundle, manifest, weights, {"new": True}, force=True)
    assert read_bundle(bundle).metrics == {"new": True}


def test_the_weights_of_members_add_up_to_one(manifest):
    half = {
        "trial": 1, "weight": 0.5, "temperature": 1, "best_epoch": 1, "mean": [0] * 3, "std": [1] * 3,
        "config": manifest.config.to_dict(),
    }  # fmt: skip
    values = manifest.to_dict() | {"stage": "ensemble", "members": [half, half]}
    found = Manifest.from_dict(values, source="here")
    assert Manifest.from_dict(found.to_dict(), source="here") == found
    with pytest.raises(BundleError, match="must add up to 1"):
        Manifest.from_dict(values | {"members": [half]}, source="here")


def test_a_damaged_bundle_may_be_replaced(bundle):
    (bundle / MODEL).write_bytes(b"")
    check_out(bundle, force=True)


@pytest.mark.parametrize("names", [["photo.jpg"], [CONFIG], [MODEL, CONFIG, METRICS]])
def test_a_folder_that_is_not_a_bundle_is_never_replaced(tmp_path, manifest, weights, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BundleError, match="not a bundle"):
        write_bundle(tmp_path, manifest, weights, {}, force=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(names)


def test_a_bundle_with_a_foreign_file_is_never_replaced(bundle, manifest, weights):
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="not a bundle alone"):
        write_bundle(bundle, manifest, weights, {}, force=True)
    assert (bundle / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_filled_and_a_file_is_refused(tmp_path, manifest, weights):
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", manifest, weights, {})
    assert read_bundle(tmp_path / "empty").manifest == manifest
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file"):
        write_bundle(tmp_path / "file", manifest, weights, {}, force=True)


def test_openings_are_counted_per_data_set(bundle):
    accesses = [new_opening(command, data, 10) for command, data in (("a", "ours"), ("b", "theirs"), ("c", "ours"))]
    assert [record_opening(bundle, opening) for opening in accesses] == [1, 1, 2]
    record_result(bundle, accesses[1], 0.5, test={"n": 10})
    recorded = read_bundle(bundle).metrics["test_openings"]
    assert [one["accuracy"] for one in recorded] == [None, 0.5, None], "an access without a result counts"
    assert read_bundle(bundle).metrics["test"] == {"n": 10}
    assert set(recorded[0]) == {"date", "command", "data", "test", "model", "n", "accuracy"}


def test_a_replaced_bundle_leaves_its_openings_and_nothing_else(bundle, manifest, weights):
    opening = new_opening("evaluate", "ours", 10, test="t", model="m")
    record_opening(bundle, opening)
    record_result(bundle, opening, 0.5, test={"n": 10})
    write_bundle(bundle, manifest, weights, {"test": None, "test_openings": []}, force=True)
    assert read_bundle(bundle).metrics == {"test": None, "test_openings": [{**opening, "accuracy": 0.5}]}
    write_bundle(bundle, manifest, weights, {"test_openings": [opening]}, force=True)
    assert read_bundle(bundle).metrics["test_openings"] == [{**opening, "accuracy": 0.5}], "known to both, once"


def test_digests_of_images_are_kept_and_damage_is_reported(bundle, manifest, weights, dataset):
    assert read_bundle(bundle).known is None
    known = ImageDigests.of(dataset)
    write_bundle(bundle, manifest, weights, {}, extras=Extras(known=known), force=True)
    assert read_bundle(bundle).known == known
    (bundle / IMAGES).write_bytes(b"torn")
    with pytest.raises(BundleError, match=r"images\.npy: its checksum"):
        read_bundle(bundle)


def test_no_opening_is_lost_when_many_record_at_once(bundle):
    def record():
        for _ in range(5):
            record_opening(bundle, new_opening("evaluate", "ours", 1))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_bundle(bundle).metrics["test_openings"]) == 20


def test_a_bundle_from_before_backgrounds_were_masked_keeps_them(bundle):
    manifest = read_bundle(bundle).manifest
    values = manifest.to_dict()
    del values["preprocessing"]["background"], values["config"]["background"], values["config"]["oversample_to"]
    assert Manifest.from_dict(values, source="config.json") == manifest
    values["preprocessing"]["background"] = "mask"
    with pytest.raises(BundleError, match=r"preprocessing\.background must be that of the configuration"):
        Manifest.from_dict(values, source="config.json")

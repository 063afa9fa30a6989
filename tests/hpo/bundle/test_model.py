"""A loaded model gives the same for the same image, however it comes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import hpo
from hpo.bundle.bundle import Extras, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.validation import Validation
from hpo.errors import BundleError, DataError, UsageError
from hpo.evaluation.calibration import abstention, probabilities
from hpo.evaluation.metrics import wilson
from hpo.models.built_model import build_model

from .conftest import CLASSES, CONFIG, SIZE


@pytest.fixture
def model(bundle):
    return hpo.load(bundle, device="cpu")


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)


def test_logits_are_those_of_the_network(model, pixels, weights):
    import safetensors.torch

    network = build_model(CONFIG, len(CLASSES)).model.eval()
    network.load_state_dict(safetensors.torch.load(weights))
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = network(inputs).numpy()
    assert np.allclose(model.logits(pixels), expected, atol=1e-4)


def test_batches_do_not_matter(model, pixels):
    assert np.allclose(model.logits(pixels, batch_size=3), model.logits(pixels), atol=1e-5)


def test_a_prediction_names_the_most_probable_class(model, pixels):
    for prediction, logits in zip(model.predict(pixels), model.logits(pixels), strict=True):
        assert prediction.index == logits.argmax()
        assert prediction.label == CLASSES[prediction.index]
        assert prediction.probability == max(prediction.probabilities.values())
        assert tuple(prediction.probabilities) == CLASSES
        assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_paths_and_arrays_of_any_size_give_the_same(model, tmp_path):
    generator = np.random.default_rng(2)
    arrays = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((50, 40, 3), (SIZE, SIZE), (30, 90, 4))]
    paths = [tmp_path / f"{i}.png" for i in range(len(arrays))]
    for array, path in zip(arrays, paths, strict=True):
        Image.fromarray(array).save(path)
    from_paths, from_arrays = model.predict(paths), model.predict(arrays)
    assert [one.probabilities for one in from_paths] == [one.probabilities for one in from_arrays]
    assert [one.name for one in from_paths] == [str(path) for path in paths]
    assert [one.name for one in from_arrays] == ["0", "1", "2"]


def test_no_images_give_no_predictions(model):
    assert model.predict([]) == []
    assert model.logits([]).shape == (0, len(CLASSES))


def test_an_unreadable_path_is_named(model, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    for name in ("torn.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            model.predict([tmp_path / name])


def test_a_device_that_is_not_there_is_named(bundle):
    with pytest.raises(UsageError, match="tpu"):
        hpo.load(bundle, device="tpu")


def test_a_model_has_the_properties_of_its_bundle(model):
    assert (model.classes, model.config, model.image_size, model.device) == (CLASSES, CONFIG, SIZE, "cpu")


def test_one_image_in_place_of_several_is_refused(model, pixels):
    with pytest.raises(DataError, match=r"shape \(48, 64, 3\) is given, but must be \(n, height, width, 3\)"):
        model.predict(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"cell.jpg is one path, but a list is meant: \['cell.jpg'\]"):
        model.predict("cell.jpg")


@pytest.fixture
def known(tmp_path, manifest, weights):
    """Return a bundle with validation predictions: 0.9 is always right, 0.6 half of the time."""
    rows = np.array([[0.9, 0.05, 0.05]] * 60 + [[0.6, 0.2, 0.2]] * 60)
    labels = np.array([0] * 60 + [0, 0, 1, 2] * 15)
    validation = Validation(labels, np.log(rows).astype(np.float32))
    calibration = calibration_of(validation).model_copy(update={"temperature": 0.95})
    path = tmp_path / "known"
    alone = manifest.model_copy(update={"calibration": calibration, "compared": 1})
    write_bundle(path, alone, weights, {}, validation=validation)
    return hpo.load(path, device="cpu")


def test_probabilities_are_those_of_the_logits_at_the_temperature(known, pixels):
    scaled = np.exp(known.logits(pixels).astype(np.float64) / known.temperature)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    found = np.array([list(one.probabilities.values()) for one in known.predict(pixels)])
    assert known.temperature != 1
    assert np.allclose(found, expected, atol=1e-6)


def test_the_threshold_is_where_validation_proves_the_accuracy(known, pixels):
    sure = known.abstention(0.95)
    assert (sure.coverage, sure.accuracy) == (0.5, 1)
    all_of_them = known.abstention(0.65)
    assert (all_of_them.coverage, all_of_them.accuracy) == (1, 0.75)
    assert 0.65 <= all_of_them.at_least < 0.75
    assert all_of_them.threshold < sure.threshold
    assert known.abstention(0.75).coverage == 0.5, "0.75 where it was chosen is not 0.75 elsewhere"
    for one in known.predict(pixels, accuracy=0.95):
        assert one.abstained == (one.probability < sure.threshold)
        assert one.label in CLASSES, "the label is given even if the model abstains"
    assert not any(one.abstained for one in known.predict(pixels))


def test_the_best_of_many_trials_must_prove_more(tmp_path, manifest, weights, known):
    """Each of them might be the lucky one. A bundle that does not know their number is taken for the best of 100."""
    validation = known.bundle.validation

    def at_least(name, **changes):
        write_bundle(tmp_path / name, manifest.model_copy(update=changes), weights, {}, validation=validation)
        found = hpo.load(tmp_path / name, device="cpu").abstention(0.5)
        return found.at_least, found.compared

    bounds = [at_least(str(count), compared=count) for count in (1, 2, 20, 100, 500)]
    assert [count for _, count in bounds] == [1, 2, 20, 100, 500]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == (pytest.approx(wilson(90, 120, 0.9)[0]), 1)
    assert at_least("unknown") == bounds[3]
    assert at_least("late", trial=499) == bounds[4], "it is trial 499 of its study, so there were 500 at least"


def test_an_ensemble_proves_by_members_chosen_without_the_image(tmp_path, manifest, weights, known):
    """Predictions of its members on images that they were chosen by seem better than they are."""
    soup = manifest.model_copy(update={"stage": "soup", "ingredients": (1, 2), "compared": 20})
    validation = known.bundle.validation
    write_bundle(tmp_path / "old", soup, weights, {}, validation=validation)
    with pytest.raises(BundleError, match=r"chosen without the image.*`hpo ensemble --study colours --soup --data"):
        hpo.load(tmp_path / "old", device="cpu").abstention(0.5)
    worse = np.roll(validation.logits, 1, axis=0)
    write_bundle(tmp_path / "new", soup, weights, {}, validation=validation, extras=Extras(crossed=worse))
    model = hpo.load(tmp_path / "new", device="cpu")
    assert np.array_equal(model.bundle.crossed, worse)
    expected = abstention(validation.labels, probabilities(worse), 0.4, compared=20)
    assert model.abstention(0.4) == replace(expected, best_of=20)


@pytest.mark.parametrize("accuracy", [0.0, 1.0, 1.5, -1.0])
def test_an_accuracy_out_of_range_is_refused(known, accuracy):
    with pytest.raises(UsageError, match="must be above 0 and below 1"):
        known.abstention(accuracy)


def test_an_accuracy_that_no_threshold_reaches_is_refused(tmp_path, manifest, weights):
    wrong = Validation(np.array([1, 2]), np.eye(3, dtype=np.float32)[[0, 0]])
    write_bundle(tmp_path / "wrong", manifest, weights, {}, validation=wrong)
    with pytest.raises(UsageError, match="reaches it with 95 % confidence by the 2 validation images"):
        hpo.load(tmp_path / "wrong", device="cpu").predict([np.zeros((8, 8, 3), np.uint8)], accuracy=0.5)

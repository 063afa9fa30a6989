"""A loaded model gives the same for the same image, however it comes."""

import numpy as np
import pytest
import torch
from PIL import Image

import hpo
from hpo.errors import DataError, UsageError
from hpo.training.model import build_model

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


def test_a_model_says_what_it_is(model):
    assert (model.classes, model.config, model.image_size, model.device) == (CLASSES, CONFIG, SIZE, "cpu")


def test_one_image_where_several_are_meant_is_told(model, pixels):
    with pytest.raises(DataError, match=r"shape \(48, 64, 3\) is given, but must be \(n, height, width, 3\)"):
        model.predict(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(DataError, match=r"cell.jpg is one path, but a list is meant: \['cell.jpg'\]"):
        model.predict("cell.jpg")

"""A bundle remembers the white level of its 16-bit images: evaluation and prediction see what training saw."""

import numpy as np
import pytest
from PIL import Image

from hpo.bundle.bundle import read_bundle, write_bundle
from hpo.bundle.evaluate import select
from hpo.bundle.inputs import batches_of
from hpo.bundle.model import Model
from hpo.data import fit_array, iter_images, open_dataset
from hpo.data.origin import DataOrigin
from hpo.errors import DataError
from tests.hpo.bundle.conftest import CLASSES, SIZE, SPLIT


@pytest.fixture
def deep(tmp_path):
    """Thirty grey images of 12 bits in files of 16."""
    for number in range(30):
        folder = tmp_path / "deep" / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 4096, (20, 20), dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{number}.png")
    return tmp_path / "deep"


@pytest.fixture
def model_of(tmp_path, manifest, weights, deep, cache):
    """Return model_of(**change) -> the model of a bundle made with the deep images, with its data facts changed."""
    dataset = open_dataset(deep, image_size=SIZE, cache=cache, split=SPLIT)
    origin = DataOrigin.of(dataset, SPLIT)

    def make(**change):
        path = tmp_path / f"bundle-{len(change)}"
        data = origin.model_copy(update=change)
        write_bundle(path, manifest.model_copy(update={"data": data}), weights, {"validation": None, "test": None})
        return Model(read_bundle(path), "cpu")

    return make


def test_prediction_and_evaluation_use_the_white_level_of_training(model_of, deep, cache):
    model = model_of()
    assert model.white_level == 4095
    selection = select(model.bundle, deep, cache=cache, split="val")
    files = [deep / name for name in selection.part.names]
    arrays = [np.asarray(Image.open(file)).astype(np.uint16) for file in files]
    packed = selection.part.batch(np.arange(len(files)))
    assert np.array_equal(packed, [fit_array(array, SIZE, 4095) for array in arrays])
    for images in (files, arrays, [Image.open(file) for file in files]):
        _, pixels = next(batches_of(images, SIZE, len(files), model.white_level))
        assert np.array_equal(pixels, packed)
    _, pixels, _ = next(iter_images(files, SIZE, len(files), model.white_level))
    assert np.array_equal(pixels, packed)
    by_array, by_file = model.predict(arrays), model.predict(files)
    assert [p.probabilities for p in by_array] == [p.probabilities for p in by_file]


def test_deeper_images_than_those_of_training_are_refused_in_one_line(model_of):
    with pytest.raises(DataError, match="image 0: 16-bit values up to 60000, but 4095 is white in the images that the"):
        model_of().predict([np.full((20, 20), 60_000, np.uint16)])


def test_a_bundle_that_kept_no_white_level_reads_the_full_range(model_of, deep, cache):
    """As the version of hpo did that made it."""
    model = model_of(white_level=None)
    assert model.white_level == 65535
    selection = select(model.bundle, deep, cache=cache, split="val")
    assert selection.part.batch(np.arange(1)).max() <= 20

"""Samples are few, of many classes, and the same for the same seed."""

import numpy as np
import pytest
from PIL import Image

from hpo.data.synthetic import cells_arrays, write_cells
from hpo.errors import DataError
from hpo.figures.choice_sheets import sample_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cells") / "cells"
    write_cells(out, 40, size=32, seed=1)
    return out


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Return an .npz whose pixel values are the class numbers."""
    path = tmp_path_factory.mktemp("arrays") / "set.npz"
    labels = np.repeat(np.arange(4), 10)
    np.savez(path, images=np.full((40, 16, 16, 3), labels[:, None, None, None], np.uint8), labels=labels)
    return path


@pytest.mark.parametrize("path", ["folder", "arrays", None])
def test_the_sample_depends_on_the_seed(path, request):
    source = path and request.getfixturevalue(path)
    first, again, other = (sample_images(source, 5, 24, seed) for seed in (0, 0, 1))
    assert first.shape == (5, 24, 24, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_class_is_shown_before_one_is_shown_again(arrays):
    for seed in range(5):
        classes = sample_images(arrays, 6, 16, seed)[:, 0, 0, 0]
        assert sorted(classes[:4]) == [0, 1, 2, 3]


def test_a_small_data_set_gives_all_its_images(folder):
    assert len(sample_images(folder, 100, 16, 0)) == 40


def test_a_single_image_is_returned_unchanged(tmp_path):
    pixels = cells_arrays(8, 32)[0][0]
    Image.fromarray(pixels).save(tmp_path / "cell.png")
    assert np.array_equal(sample_images(tmp_path / "cell.png", 4, 32, 0), pixels[None])


def test_an_unreadable_image_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"[ab]/broken.png in .*: not an image"):
        sample_images(tmp_path, 2, 32, 0)

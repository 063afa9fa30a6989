"""What a search says about oversampling and the background mask before it begins."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.data.dataset import Dataset, Part
from hpo.data.synthetic import draw_cell
from hpo.errors import DataError
from hpo.search.data_dimensions import data_dimension_lines
from search_spaces import Choice, Int, SearchSpace


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Return 12 drawn cells of one class and 3 of another, and a blank image."""
    images = np.stack([draw_cell(0, seed, 48) for seed in range(15)] + [np.zeros((48, 48, 3), np.uint8)])
    part = Part(images, np.arange(16), np.repeat([0, 1], [12, 4]), [str(row) for row in range(16)])
    return Dataset(part, part, ("many", "few"), 48, "", "")


def test_nothing_is_said_where_neither_is_used(dataset: Dataset) -> None:
    assert data_dimension_lines(SearchSpace("s"), dataset) == []


def test_the_length_of_an_epoch_is_said_for_the_largest_value(dataset: Dataset) -> None:
    (line,) = data_dimension_lines(SearchSpace("s", dimensions={"oversample_to": (Int(0, 10),)}), dataset)
    assert line == (
        "oversample_to 10: an epoch has 22 images in place of 16 (1.38 times as long); "
        "an image of few, the smallest class, is drawn 2.5 times"
    )
    (line,) = data_dimension_lines(SearchSpace("s", fixed={"oversample_to": 3}), dataset)
    assert line == "oversample_to 3: no class has fewer training images, so nothing is drawn again"


def test_images_without_an_object_are_counted(dataset: Dataset) -> None:
    space = SearchSpace("s", dimensions={"background": (Choice(("keep", "mask")),)})
    (line,) = data_dimension_lines(space, dataset)
    assert line.startswith("background mask: in 1")
    assert " of 16 training images an object can be told from its background" in line


def test_an_epoch_too_long_is_refused_before_a_study_exists(dataset: Dataset) -> None:
    many = Part(dataset.train.images, np.arange(16), np.arange(16), dataset.train.names)
    classes = tuple(map(str, range(16)))
    with pytest.raises(DataError, match="an epoch would have 16,000,000 images, but must have at most 10,000,000"):
        data_dimension_lines(SearchSpace("s", fixed={"oversample_to": 10**6}), Dataset(many, many, classes, 48, "", ""))

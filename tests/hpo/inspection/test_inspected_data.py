"""InspectedData: all readable images with their labels, parts, signatures and digests."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hpo.data.digests import of_payload
from hpo.errors import DataError
from hpo.inspection.inspected_data import open_inspected


@pytest.fixture
def write(tmp_path):
    """write("a/1.png", ...) -> a data set of these files, each with noise of its own."""

    def make(*names):
        for number, name in enumerate(names):
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        return tmp_path / "data"

    return make


def test_rows_of_a_data_set_without_parts(write, tmp_path):
    folder = write("a/1.png", "a/2.png", "b/1.png")
    (folder / "b/2.png").write_bytes(b"no image")
    data = open_inspected(folder, image_size=8, cache=tmp_path / "cache")
    assert len(data) == 3
    assert data.classes == ("a", "b")
    assert list(data.names) == ["a/1.png", "a/2.png", "b/1.png"]
    assert data.labels.tolist() == [0, 0, 1]
    assert data.given is None
    assert data.images.shape == (3, 8, 8, 3)
    assert data.signatures["width"].tolist() == [16, 16, 16]
    assert [stored for stored, _ in data.digests] == [of_payload((folder / name).read_bytes()) for name in data.names]
    assert [image.name for image in data.unreadable] == ["b/2.png"]
    assert data.summary.counts == {"images": [2, 1]}
    assert data.image_size == 8


def test_given_parts_are_kept_and_a_test_part_is_in(write, tmp_path):
    folder = write("train/a/1.png", "train/b/1.png", "test/a/1.png")
    data = open_inspected(folder, image_size=8, cache=tmp_path / "cache")
    assert dict(zip(data.names, data.given, strict=True)) == {
        "train/a/1.png": "train",
        "train/b/1.png": "train",
        "test/a/1.png": "test",
    }
    assert data.summary.counts == {"train": [1, 1], "test": [1, 0]}


def test_a_class_of_one_image_and_a_single_class_are_no_error(write, tmp_path):
    assert len(open_inspected(write("a/1.png"), image_size=8, cache=tmp_path / "cache")) == 1


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_inspected(tmp_path / "none", image_size=8, cache=tmp_path / "cache")

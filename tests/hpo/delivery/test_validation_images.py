"""Halves of validation images: whole units, every class evenly, always the same; altered forms go with their image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpo.data import SplitOptions, open_dataset
from hpo.delivery.validation_images import ValidationImages, first_half, units_of
from hpo.errors import DataError
from hpo.evaluation.altered_part import altered_part


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 60))
def test_units_are_whole_and_classes_are_even(seed: int, count: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    labels, units = rng.integers(0, 3, count), rng.integers(0, groups, count)
    half = first_half(labels, units)
    assert all(half[units == unit].all() or not half[units == unit].any() for unit in np.unique(units))
    assert np.array_equal(half, first_half(labels, units))
    single = first_half(labels, np.arange(count))
    for label in np.unique(labels):
        inside = single[labels == label]
        assert abs(int(inside.sum()) - int((~inside).sum())) <= 2


def test_altered_forms_lie_in_the_half_of_their_image(dataset, cache) -> None:
    altered = altered_part(dataset.val, cache, train=len(dataset.train))
    images = ValidationImages(dataset.val, altered, np.arange(len(dataset.val)), "accuracy", 0.5)
    first, second = images.halves
    assert (first ^ second).all()
    by_first, by_second = np.zeros((len(images.rows), 3)), np.ones((len(images.rows), 3))
    crossed = images.crossed(by_first, by_second)[:, 0]
    assert np.array_equal(crossed == 0, second[images.rows]), "the second half is predicted by what the first chose"
    assert images.measured.altered.sum() == len(altered)
    assert images.robustness(np.eye(3)[images.val.labels[images.rows]]).value == 1.0
    assert replace(images, altered=None, weight=0.0).robustness(by_first[: len(dataset.val)]) is None


def test_copies_and_groups_are_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for part, count in (("train", 2), ("val", 3)):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"p{number // 2}_{number}.png")
    twin = tmp_path / "data" / "val" / "a" / "p1_2.png"
    twin.write_bytes((twin.parent / "p0_0.png").read_bytes())
    found = open_dataset(tmp_path / "data", image_size=16, cache=tmp_path / "cache", split=SplitOptions())
    place = {Path(name).relative_to("val").as_posix(): row for row, name in enumerate(found.val.names)}
    copies = units_of(found, tmp_path / "data", None)
    assert copies[place["a/p1_2.png"]] == copies[place["a/p0_0.png"]]
    assert len(np.unique(copies)) == 5
    grouped = units_of(found, tmp_path / "data", r"(\w/p\d)_")
    assert len(np.unique(grouped)) == 3, "the copy unites the groups p0 and p1 of a; b has both"
    with pytest.raises(DataError, match="in the one group"):
        units_of(found, tmp_path / "data", r"(val)/")

"""The altered part: the same for every trial, of few images, made once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.dataset import Part
from hpo.data.synthetic import cells_arrays
from hpo.evaluation.altered_part import DRAWS, LEAST, SHARE, altered_count, altered_part

COUNT, SIZE = 24, 32


@pytest.fixture(scope="module")
def part() -> Part:
    """Return 24 images of a packed set of 30, shuffled."""
    images, labels = cells_arrays(30, SIZE, seed=4)
    rows = np.random.default_rng(0).permutation(30)[:COUNT]
    return Part(images, rows, labels[rows], [str(row) for row in rows])


def test_every_image_is_altered_in_two_ways(part: Part, tmp_path: Path) -> None:
    altered = altered_part(part, tmp_path, train=100)
    assert altered.images.shape == (DRAWS * COUNT, SIZE, SIZE, 3)
    assert not altered.images.flags.writeable
    original = part.batch(np.arange(COUNT))
    draws = [altered.batch(np.arange(draw * COUNT, (draw + 1) * COUNT)) for draw in range(DRAWS)]
    for draw in range(DRAWS):
        assert np.array_equal(altered.labels[draw * COUNT : (draw + 1) * COUNT], part.labels)
        assert (draws[draw] != original).any(axis=(1, 2, 3)).mean() > 0.9
    assert (draws[0] != draws[1]).any(axis=(1, 2, 3)).mean() > 0.9
    assert list(altered.names) == [*part.names] * DRAWS
    assert np.array_equal(altered.labels, part.labels[altered.rows])


def test_an_image_is_altered_the_same_way_among_other_images_and_in_another_place(part: Part, tmp_path: Path) -> None:
    rows = np.array([7, 3, 11])
    few, all_of_them = altered_part(part.subset(rows), tmp_path / "a", train=9), altered_part(part, tmp_path, train=9)
    there = np.concatenate([rows + draw * COUNT for draw in range(DRAWS)])
    assert np.array_equal(few.images, all_of_them.batch(there))


def test_what_is_drawn_follows_from_the_stored_image_at_every_size(part: Part, tmp_path: Path) -> None:
    digests = [(f"{row:032x}", "") for row in range(COUNT)]
    known = Part(part.images, part.indices, part.labels, part.names, digests)
    halved = Part(part.images[:, ::2, ::2], part.indices, part.labels, part.names, digests)
    whole, small = (altered_part(one, tmp_path, train=9) for one in (known, halved))
    assert small.images.shape[1] == SIZE // 2
    near = np.abs(whole.images[:, ::2, ::2].mean(axis=(1, 2, 3)) - small.images.mean(axis=(1, 2, 3))) < 20
    assert near.mean() > 0.8, "the same corruptions, as far as two sizes can agree"
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_the_file_is_made_once_and_equal_in_another_cache(part: Part, tmp_path: Path) -> None:
    altered_part(part, tmp_path / "a", train=9)
    (first,) = (tmp_path / "a").rglob("*.npy")
    made = first.stat().st_ino  # its time of change is that of its last use
    altered_part(part, tmp_path / "a", train=9)
    altered_part(part, tmp_path / "b", train=9)
    (second,) = (tmp_path / "b").rglob("*.npy")
    assert (first.name, first.stat().st_ino) == (second.name, made), "the name holds the digest of the content"


@given(
    counts=st.lists(st.integers(1, 400), min_size=2, max_size=9),
    train=st.integers(2, 40_000),
)
def test_the_part_is_small_and_has_every_class_in_its_proportion(counts: list[int], train: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    count = altered_count(labels, train=train)
    assert count <= DRAWS * len(labels)
    assert count <= max(LEAST, SHARE * train) + DRAWS * len(counts), "up to one image of a class more"
    if DRAWS * len(labels) <= LEAST:
        assert count == DRAWS * len(labels)


def test_the_number_of_altered_images_is_known_before_they_are_made(tmp_path: Path) -> None:
    images, labels = cells_arrays(300, 16, seed=1)
    many = Part(images, np.arange(300), labels, [str(row) for row in range(300)])
    altered = altered_part(many, tmp_path, train=900)
    assert len(altered) == altered_count(labels, train=900)
    assert LEAST - 8 <= len(altered) <= LEAST + 8
    expected = np.bincount(labels) * (LEAST / len(labels))
    assert np.abs(np.bincount(altered.labels) - expected).max() <= DRAWS
    assert set(altered.labels.tolist()) == set(labels.tolist())

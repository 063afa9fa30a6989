"""What the probe says of images whose symmetry is known, and of predictions that are made up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpo.data.dataset import Images, Part
from hpo.inspection import symmetry_probe
from hpo.inspection.symmetry_probe import HALF, MIRROR, QUARTER, VIEWS, decide, measure_symmetry, sample_rows, seen_from
from hpo.models.frozen_backbone import Features

SIZE = 16


def patches(images: Images) -> Features:
    """Features that depend on the orientation: the means of 4 x 4 patches, per channel."""
    count = len(images)
    means = images.reshape(count, 4, SIZE // 4, 4, SIZE // 4, 3).mean(axis=(2, 4))
    return (means.reshape(count, -1) / 64).astype(np.float16)


def part(kind: str, count: int = 200) -> tuple[Part, tuple[str, ...]]:
    """Noisy images of two classes that differ in colour, in which side is bright, or in whether top or bottom is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (count, SIZE, SIZE, 3)).astype(np.uint8)
    labels = np.arange(count) % 2
    half = SIZE // 2
    for image, label in zip(images, labels, strict=True):
        if kind == "colour":
            image[..., 2 * label] += 100
        elif kind == "side":
            image[:, half * label : half * (1 + label)] += 100
        else:
            image[half * label : half * (1 + label)] += 100
    return Part(images, np.arange(count), labels, [str(row) for row in range(count)]), ("first", "second")


@pytest.mark.parametrize(("kind", "expected"), [("colour", "dihedral"), ("side", "none"), ("height", "mirror")])
def test_the_symmetry_of_made_images_is_found(kind: str, expected: str) -> None:
    found = measure_symmetry(*part(kind), patches, backbone="patches")
    assert found is not None
    assert found.symmetry == expected
    assert found.accuracy > 0.95
    assert found.images == 200
    assert "of 200 training images a linear probe on patches recognises 1" in str(found)


def test_the_class_that_a_view_makes_false_is_named_with_what_it_becomes() -> None:
    found = measure_symmetry(*part("side"), patches, backbone="patches")
    assert found is not None
    mirrored = found.views[0]
    assert (mirrored.view, mirrored.survives) == ("mirrored", False)
    assert {mirrored.lost_class, mirrored.taken_for} == {"first", "second"}
    assert f"mirrored ({mirrored.lost_class} is taken for {mirrored.taken_for})" in str(found)


def test_too_little_time_or_too_few_images_measure_nothing() -> None:
    images, _ = part("colour")
    assert measure_symmetry(images, tuple(map(str, range(20))), patches, backbone="patches", seconds=0) is None
    first_batch = measure_symmetry(images, ("first", "second"), patches, backbone="patches", seconds=0)
    assert first_batch is not None
    assert first_batch.images == 32


def test_many_classes_are_measured_on_as_many_images_as_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetry_probe, "IMAGES", 16)
    images, _ = part("colour")
    found = measure_symmetry(images, tuple(map(str, range(20))), patches, backbone="patches")
    assert found is not None
    assert found.images == 40


def test_one_class_among_many_that_does_not_survive_is_enough() -> None:
    """Two of forty classes change places under the half turn: on average hardly an image is lost."""
    labels = np.repeat(np.arange(40), 20)
    turned = labels.copy()
    turned[labels == 6], turned[labels == 9] = 9, 6
    predicted = {**dict.fromkeys(VIEWS, labels), HALF: turned}
    found = decide(labels, predicted, tuple(map(str, range(40))), backbone="b")
    assert found.symmetry == "mirror"
    assert (found.views[2].lost_class, found.views[2].taken_for) == ("9", "6")


@given(st.integers(2, 6), st.integers(2, 60), st.floats(0, 1))
@example(classes=6, each=51, seed=0.6229713329770449)
def test_a_probe_that_knows_nothing_proves_nothing(classes: int, each: int, seed: float) -> None:
    labels = np.tile(np.arange(classes), each)
    guessed = np.random.default_rng(int(seed * 1e6)).integers(0, classes, len(labels))
    same = dict.fromkeys(VIEWS, guessed)
    known = float((guessed == labels).mean()) - 1 / classes
    found = decide(labels, same, tuple(map(str, range(classes))), backbone="b")
    if known < 1.6 / np.sqrt(len(labels)):
        assert found.symmetry == "none"


@given(st.sampled_from([MIRROR, QUARTER, HALF]), st.integers(0, 2**32 - 1))
def test_a_view_that_halves_what_is_known_is_never_taken(view: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(4), 50)
    wrong = np.where(rng.random(200) < 0.6, (labels + rng.integers(1, 4, 200)) % 4, labels)
    predicted = {**dict.fromkeys(VIEWS, labels), view: wrong}
    found = decide(labels, predicted, ("a", "b", "c", "d"), backbone="b")
    assert found.symmetry == ("none" if view == MIRROR else "mirror")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 80))
def test_any_beginning_of_the_sample_has_the_classes_evenly(labels: list[int], most: int) -> None:
    values = np.array(labels)
    rows = sample_rows(values, most)
    assert len(rows) == len(set(rows.tolist())) == min(most, len(values))
    for end in range(1, len(rows) + 1):
        taken = np.bincount(values[rows[:end]], minlength=6)
        left = np.bincount(values, minlength=6) - taken
        open_classes = taken[(left > 0)]
        assert not len(open_classes) or taken.max() - open_classes.min() <= 1


def test_images_are_seen_mirrored_and_turned() -> None:
    images, _ = part("side", 2)
    pixels = images.images
    assert np.array_equal(seen_from(pixels, 0), pixels)
    assert np.array_equal(seen_from(pixels, MIRROR), pixels[:, :, ::-1])
    assert np.array_equal(seen_from(pixels, QUARTER), np.rot90(pixels, 1, axes=(1, 2)))
    assert np.array_equal(seen_from(pixels, HALF), pixels[:, ::-1, ::-1])

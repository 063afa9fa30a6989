"""Odd images are found beside others, and no image is odd in a set of its like."""

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.data import Unreadable
from hpo.data.signatures import ALPHA, CMYK, GREY, SIXTEEN_BIT
from hpo.inspection.odd_images import find_odd_images

from .inspected import inspected, pictures

LABELS = np.arange(120) % 3


@pytest.fixture(scope="module")
def images():
    return pictures(120)


def found_in(images, labels=LABELS, **options):
    return find_odd_images(inspected(images, labels, **options))


def blurred(image):
    return cv2.GaussianBlur(image, (0, 0), 6)


PLANTS = {
    "dark": (lambda image: (image * 0.15).astype(np.uint8), "darker than the others"),
    "bright": (lambda image: np.clip(image.astype(int) + 150, 0, 255).astype(np.uint8), "brighter than the others"),
    "flat": (lambda image: (128 + (image.astype(int) - 128) // 10).astype(np.uint8), "lower in contrast than"),
    "blurred": (blurred, "more blurred than the others"),
    "grey": (lambda image: image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8), "grey, where"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_image_is_found_and_kept(images, plant):
    change, words = PLANTS[plant]
    changed = images.copy()
    changed[7] = change(images[7])
    found = found_in(changed)
    assert [finding.file for finding in found.findings] == ["class 1/7.png"]
    assert found.rows.tolist() == [7]
    one = found.findings[0]
    assert (one.finding, one.action) == ("odd", "keep")
    assert words in one.reason
    assert 0.5 <= one.score <= 1


def test_an_untouched_set_has_no_odd_image(images):
    assert found_in(images).findings == ()


@pytest.mark.parametrize("plant", PLANTS)
def test_what_all_images_are_is_not_odd(images, plant):
    assert found_in(np.stack([PLANTS[plant][0](image) for image in images])).findings == ()


def test_what_a_whole_class_is_is_not_odd(images):
    labels = np.where(np.arange(120) < 24, 1, 0)
    changed = images.copy()
    changed[:24] = (images[:24] * 0.15).astype(np.uint8)
    assert found_in(changed, labels).findings == ()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_dropped(images, level):
    changed = images.copy()
    changed[3] = level
    finding = found_in(changed).findings[0]
    assert (finding.file, finding.action, finding.score) == ("class 0/3.png", "drop", 1.0)
    assert finding.reason.startswith("blank: one colour")


def test_blank_images_are_dropped_in_any_number(images):
    changed = images.copy()
    changed[::2] = 255
    found = found_in(changed)
    assert found.blank == 60
    assert {finding.action for finding in found.findings} == {"drop"}


def test_colours_of_one_brightness_are_not_blank(images):
    changed = images.copy()
    changed[3] = (200, 64, 64)
    changed[3, :, 24:] = (64, 134, 64)  # as bright as the red half
    assert not [f for f in found_in(changed).findings if f.action == "drop"]


@pytest.mark.parametrize(("changes", "words"), [
    ({"width": {5: 12}, "height": {5: 12}}, "smaller than the others: shorter side 12"),
    ({"width": {5: 480}, "height": {5: 480}}, "larger than the others"),
    ({"width": {5: 200}}, "more elongated than the others"),
    ({"pages": {5: 8}}, "several pages or frames"),
    ({"orientation": {5: 6}}, "EXIF"),
    ({"mode": {5: CMYK}}, "CMYK"),
    ({"mode": {5: ALPHA}}, "transparent"),
    ({"mode": {5: SIXTEEN_BIT}}, "16 bits"),
    ({"mode": {5: GREY}}, "grey, where the others are in colour"),
])  # fmt: skip
def test_an_image_stored_otherwise_is_found(images, changes, words):
    findings = found_in(images, changes=changes).findings
    assert [finding.file for finding in findings] == ["class 2/5.png"]
    assert words in findings[0].reason


def test_a_kind_of_many_images_is_a_note(images):
    found = found_in(images, changes={"orientation": dict.fromkeys(range(0, 120, 3), 6)})
    assert found.findings == ()
    assert "40 of 120 images are turned by EXIF: too many to be odd ones" in found.notes[0]
    assert "all" not in found.notes[0]
    assert "a model may learn this" in found.notes[0], "they are all of class 0"


def test_reasons_of_one_image_are_joined(images):
    changed = images.copy()
    changed[7] = (images[7] * 0.15).astype(np.uint8)
    (finding,) = found_in(changed, changes={"pages": {7: 2}}).findings
    assert "darker" in finding.reason
    assert "; also holds several" in finding.reason or "; also darker" in finding.reason


def test_unreadable_images_are_dropped(images):
    found = found_in(images, unreadable=(Unreadable("a/b.png", "empty file (0 bytes)"),))
    (finding,) = found.findings
    assert (finding.file, finding.finding, finding.action) == ("a/b.png", "unreadable", "drop")
    assert finding.reason == "cannot be read: empty file (0 bytes)"
    assert not len(found.rows)


@given(count=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_number_of_images_is_judged(count, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    data = inspected(images, generator.integers(0, 2, count))
    found = find_odd_images(data)
    assert len(found.rows) == len(found.findings) <= count
    assert all(0.5 <= finding.score <= 1 for finding in found.findings)

"""The manifest of a pack: what goes in comes out, and what is no manifest is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hpo.data.dataset import LeftOut, Unreadable
from hpo.data.pack import PackManifest, PackManifestDraft
from hpo.data.pipeline import Decoded
from hpo.data.records import Record

PIXELS = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def manifest() -> PackManifest:
    left_out = (LeftOut(".heic", 2, ("a/3.heic", "a/4.heic")), LeftOut("without a suffix", 1, ("b/5",)))
    draft = PackManifestDraft(4, ("a", "b"), left_out, ("classes are folders",))
    draft.add(Record("a/1.png", 0, None), Decoded(PIXELS, "", "s3", "p1"))
    draft.add(Record("a/2.png", 0, "val"), Decoded(None, "empty file (0 bytes)", "s0"))
    draft.add(Record("b/caf\udce9.png", 1, "train"), Decoded(PIXELS, "", "s1", "p1"))
    draft.add(Record("b/4.png", 1, "train"), Decoded(PIXELS, "", "s2", "p2"))
    return draft.finish()


def test_from_json_of_to_json(manifest):
    assert PackManifest.from_json(manifest.to_json()) == manifest
    assert len(manifest) == 3
    assert manifest.label_array.tolist() == [0, 1, 1]
    assert manifest.unreadable == (Unreadable("a/2.png", "empty file (0 bytes)"),)


def test_what_the_listing_and_the_decoder_noticed_is_kept(manifest):
    assert [(entry.kind, entry.count) for entry in manifest.left_out] == [(".heic", 2), ("without a suffix", 1)]
    assert manifest.notes == ("classes are folders",)
    draft = PackManifestDraft(4, ("a", "b"), notes=("first",))
    draft.note("second")
    draft.note("second")
    assert draft.finish().notes == ("first", "second")


def test_groups_are_named_by_what_is_stored(manifest):
    assert manifest.groups == ["s1", "s1", "s2"]


@pytest.mark.parametrize(
    "change",
    [{"version": 0}, {"labels": [0]}, {"pixels": []}, {"extra": 1}, {"unreadable": [{"file": "x"}]}],
)
def test_what_is_no_manifest_is_refused(manifest, change):
    text = json.dumps(json.loads(manifest.to_json()) | change)
    with pytest.raises((ValueError, TypeError, KeyError)):
        PackManifest.from_json(text)


def test_fingerprint_is_of_classes_parts_and_content_only(manifest):
    images = [(Record("x", 0, None), "s1"), (Record("y", 1, "val"), "s2")]

    def fingerprint(images, classes=("a", "b"), size=4):
        draft = PackManifestDraft(size, classes)
        for record, stored in images:
            draft.add(record, Decoded(PIXELS, "", stored, "p"))
        return draft.finish().fingerprint

    first = fingerprint(images)
    assert fingerprint(images[::-1], size=8) == first
    assert fingerprint([(replace(record, name="other"), stored) for record, stored in images]) == first
    assert fingerprint(images, classes=("a", "c")) != first
    assert fingerprint([(replace(record, given="train"), stored) for record, stored in images]) != first
    assert fingerprint([(record, "s9") for record, _ in images]) != first
    assert fingerprint([*images, images[0]]) != first

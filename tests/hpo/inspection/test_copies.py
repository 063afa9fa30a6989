"""find_copies: the kind and orientation of each copy, which image is kept, and the precision without labels."""

from __future__ import annotations

import pytest
from PIL import Image

from hpo.inspection.copies import LabelAgreement, copy_findings, find_copies
from hpo.inspection.inspected_data import open_inspected
from tests.hpo.pictures import blobs


def picture(seed, size=64):
    return blobs(seed, 5, size=size)


@pytest.fixture
def data(tmp_path):
    """data({"a/1.png": image, ...}) -> the InspectedData of these files."""

    def make(files):
        for name, image in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        return open_inspected(tmp_path / "data", image_size=32, cache=tmp_path / "cache")

    return make


def others(count):
    return {f"{'ab'[n % 2]}/other{n:02}.png": picture(100 + n) for n in range(count)}


def test_kinds_and_orientations_are_relative_to_the_image_that_is_kept(data):
    one = picture(0)
    found = find_copies(
        inspected := data(
            {
                **others(20),
                "a/1.png": one,
                "a/2.png": one,
                "a/3.bmp": one,
                "a/4.jpg": one,
                "a/5.png": one.rotate(90),
                "a/6.png": one.resize((60, 60)).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            }
        )
    )
    (group,) = found.groups
    names = [inspected.names[row] for row in group.rows]
    kinds, orientations = (dict(zip(names, of, strict=True)) for of in (group.kinds, group.orientations))
    assert names[0] == "a/1.png"
    assert kinds == {
        "a/1.png": "exact-bytes",
        "a/2.png": "exact-bytes",
        "a/3.bmp": "exact-pixels",
        "a/4.jpg": "near",
        "a/5.png": "turned",
        "a/6.png": "turned",
    }
    assert orientations == {"a/1.png": 0, "a/2.png": 0, "a/3.bmp": 0, "a/4.jpg": 0, "a/5.png": 1, "a/6.png": 4}
    assert len(found.group_of) == 26
    assert found.extra == 5


def test_the_largest_image_is_kept_and_one_of_train_before_all(data):
    one = picture(0, 96)
    small = one.resize((48, 48))
    found = find_copies(
        inspected := data(
            {
                **{f"train/{name}": image for name, image in others(20).items()},
                "train/a/small.png": small,
                "val/a/large.png": one,
                "train/b/middle.png": one.resize((70, 70)),
            }
        )
    )
    (group,) = found.groups
    assert [inspected.names[row] for row in group.rows] == [
        "train/b/middle.png",
        "train/a/small.png",
        "val/a/large.png",
    ]


def test_nothing_is_found_where_nothing_is(data):
    found = find_copies(data(others(40)))
    assert found.groups == ()
    assert found.extra == 0
    assert found.agreement.precision is None
    assert "nothing to estimate" in found.agreement.line()


def test_copies_share_their_labels_more_often_than_chance(data):
    files = others(60)
    copies = {f"{name[:1]}/copy{n}.jpg": image for n, (name, image) in enumerate(list(files.items())[:20])}
    found = find_copies(data({**files, **copies}))
    assert len(found.groups) == 20
    assert found.agreement == LabelAgreement(20, 1.0, pytest.approx(0.5, abs=0.01))
    assert found.agreement.precision == pytest.approx(1)
    assert "of the 20 groups are real copies" in found.agreement.line()


def test_the_estimate_of_precision():
    assert LabelAgreement(10, 0.55, 0.1).precision == pytest.approx(0.5)
    assert LabelAgreement(10, 0.05, 0.1).precision == 0
    assert LabelAgreement(10, 1.0, 1.0).precision is None


def test_of_few_groups_no_share_of_real_copies_is_told():
    assert LabelAgreement(1, 1.0, 0.1).line().startswith("1 group was found by pixels that are nearly equal, too few")
    assert LabelAgreement(9, 1.0, 0.1).line().startswith("9 groups were found")
    assert "about 100.0% of the 10 groups are real copies" in LabelAgreement(10, 1.0, 0.1).line()


def test_of_copies_one_is_kept_and_the_reasons_say_how_the_others_differ(data):
    one = picture(0)
    inspected = data({**others(20), "a/1.png": one, "a/2.png": one, "a/3.jpg": one.rotate(90, expand=True)})
    kept, same, turned = copy_findings(inspected, find_copies(inspected))
    assert (kept.file, kept.finding, kept.group, kept.score, kept.action) == ("a/1.png", "copy", "copy-1", 1, "keep")
    assert kept.reason == "kept: the data hold 2 copies of it"
    assert (same.file, same.action, same.reason) == ("a/2.png", "drop", "the same file as a/1.png")
    assert (turned.file, turned.action, turned.group) == ("a/3.jpg", "drop", "copy-1")
    assert turned.reason == f"a copy of a/1.png, turned by 90°, similarity {turned.score:.2f}"


def test_a_picture_under_two_classes_is_a_conflict_and_none_of_it_is_kept(data):
    one = picture(0)
    inspected = data({**others(20), "a/1.png": one, "a/2.png": one, "b/3.png": one})
    found = copy_findings(inspected, find_copies(inspected))
    assert [(row.file, row.finding, row.action) for row in found] == [
        ("a/1.png", "conflict", "drop"),
        ("a/2.png", "conflict", "drop"),
        ("b/3.png", "conflict", "drop"),
    ]
    assert found[0].reason == "one picture; it is there under 2 classes: a (2), b (1)"
    assert found[2].reason == "the same file as a/1.png; it is there under 2 classes: a (2), b (1)"

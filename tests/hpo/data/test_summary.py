"""The summary of a data set, for people and for programs."""

import json

import pytest

from hpo.data import DataSummary, LeftOut, Unreadable, open_dataset, summarise
from hpo.data.summary import left_out_line


def test_classes_are_listed_by_name_with_counts_per_part(write_classes, cache):
    folder = write_classes({"train/cat": 20, "train/dog": 9, "test/cat": 2})
    summary = summarise(open_dataset(folder, image_size=16, cache=cache))
    assert summary.lines() == [
        "  class  train  val  test",
        "  cat       18    2     2",
        "  dog        8    1     0",
        "no test image of class 'dog': the given part has none",
    ]
    assert summary.to_json()["classes"] == [
        {"name": "cat", "train": 18, "val": 2, "test": 2},
        {"name": "dog", "train": 8, "val": 1, "test": 0},
    ]


def test_everything_that_was_noticed_is_a_line_and_a_json_entry():
    summary = DataSummary(
        classes=("a",),
        counts={"train": [1200]},
        left_out=(LeftOut(".heic", 2, ("a/1.heic",)), LeftOut("without a suffix", 1), LeftOut("column", 1, ("fold",))),
        notes=("sub-folders are merged",),
        unreadable=(Unreadable("a/2.png", "empty file (0 bytes)"),),
        duplicates=3,
        leaking=1,
    )
    assert summary.lines() == [
        "  class  train",
        "  a      1,200",
        "left out: 2 .heic, 1 without a suffix; column fold",
        "sub-folders are merged",
        "3 images are exact duplicates, 1 of them on two sides of the given split",
        "1 image is unreadable and skipped:",
        "  a/2.png: empty file (0 bytes)",
    ]
    described = json.loads(json.dumps(summary.to_json()))
    assert described["left_out"][0] == {"kind": ".heic", "count": 2, "names": ["a/1.heic"]}
    assert (described["notes"], described["duplicates"], described["leaking"]) == (["sub-folders are merged"], 3, 1)
    assert described["unreadable"] == [{"name": "a/2.png", "reason": "empty file (0 bytes)"}]


@pytest.mark.parametrize(
    ("leaking", "line"),
    [
        (0, "1 image is an exact duplicate"),
        (1, "1 image is an exact duplicate, on two sides of the given split"),
        (None, "1 image is an exact duplicate"),
    ],
)
def test_one_duplicate_is_told_in_the_singular(leaking, line):
    assert DataSummary(("a",), {"train": [9]}, duplicates=1, leaking=leaking).remarks() == [line]


def test_many_classes_are_shortened_for_people_and_whole_in_json():
    names = tuple(f"class{number:03}" for number in range(100))
    summary = DataSummary(classes=names, counts={"train": list(range(1, 101)), "val": [1] * 100})
    lines = summary.lines()
    assert len(lines) == 8
    assert lines[-1] == "  … and 94 more; the smallest is class000 with 2 images, the largest class099 with 101"
    assert len(summary.to_json()["classes"]) == 100
    alike = DataSummary(classes=names, counts={"train": [3] * 100}).lines()
    assert alike[-1] == "  … and 94 more, every class has 3 images"


def test_numbered_classes_are_listed_in_natural_order_and_keep_their_numbers_in_json():
    summary = DataSummary(classes=("1", "10", "2", "a\nb"), counts={"train": [1, 10, 2, 3]})
    assert [line.split()[0] for line in summary.lines()] == ["class", "1", "2", "10", "'a\\nb'"]
    assert [entry["name"] for entry in summary.to_json()["classes"]] == ["1", "10", "2", "a\nb"]


def test_arrays_and_columns_are_listed_by_name():
    left_out = (LeftOut("array", 2, ("valid_images", "extra")), LeftOut(".txt", 1200, ("readme.txt",)))
    assert left_out_line(left_out) == "left out: 1,200 .txt; arrays valid_images, extra"

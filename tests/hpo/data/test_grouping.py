"""--group-by: a column of a table or an expression on the paths; every fault is one clear line."""

import numpy as np
import pytest
from PIL import Image

import hpo.data.grouping as grouping_module
from hpo.data import SplitOptions, open_dataset
from hpo.data.grouping import group_images, unite
from hpo.data.opening import open_source
from hpo.data.origin import DataOrigin
from hpo.data.sampled_images import inspect_data
from hpo.data.summary import summarise
from hpo.errors import DataError, UsageError


@pytest.fixture
def table(tmp_path):
    lines = ["path,label,Patient,slide"]
    for row in range(24):
        name = f"patient_{row // 4}_{row}.png"
        pixels = np.random.default_rng(row).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        lines.append(f"{name},{'ab'[row % 2]},p{row // 4},s")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines))
    return path


def opened(table, group_by, **options):
    split = SplitOptions(group_by=group_by, **options)
    return open_dataset(table, image_size=8, cache=table.parent / "cache", split=split)


def test_a_column_is_used_and_no_longer_left_out(table):
    dataset = opened(table, "patient")
    assert "grouped by Patient: 6 groups" in dataset.split
    assert dataset.left_out[0].names == ("slide",)
    assert "left out: column slide" in summarise(dataset).remarks()
    patients = [{name.split("_")[1] for name in part.names} for part in (dataset.train, dataset.val)]
    assert not patients[0] & patients[1]


def test_the_column_that_is_used_is_not_said_to_be_unread(table):
    unread = "column Patient looks like a group, but is not read"
    assert any(unread in note and "--group-by names it" in note for note in opened(table, None).notes)
    assert not any(unread in note for note in opened(table, "patient").notes)
    assert any("column slide looks like a group" in note for note in opened(table, "patient").notes)
    assert not any(unread in note for note in inspect_data(table, split=SplitOptions(group_by="patient")).summary.notes)


@pytest.mark.parametrize("pattern", [r"patient_(\d+)_", r"(?P<who>patient_\d+)_", r"(?:x_(\d+)|patient_(\d+)_)"])
def test_an_expression_groups_as_the_column_does(table, pattern):
    assert opened(table, pattern).val.names == opened(table, "Patient").val.names
    assert "grouped by «" in opened(table, pattern).split


def test_without_it_the_split_and_its_record_are_as_before(table):
    split = SplitOptions()
    dataset = open_dataset(table, image_size=8, cache=table.parent / "cache", split=split)
    spec = DataOrigin.of(dataset, split).to_spec(dataset.classes)
    assert not {"group_by", "folds"} & spec.keys()
    assert dataset.folds == ()


def test_another_grouping_is_another_split(table):
    split = SplitOptions(group_by="patient")
    dataset = opened(table, "patient")
    origin = DataOrigin.of(dataset, split)
    again = DataOrigin.from_spec(origin.to_spec(dataset.classes), dataset.fingerprint)
    assert again == origin
    assert again.options == split
    other = opened(table, None)
    with pytest.raises(DataError, match=r"was made with the split «.*grouped by Patient"):
        origin.refuse_other_split(other, table, options=SplitOptions(), maker="study 's'", way_out="-")


def test_the_same_images_without_the_column_cannot_be_split_as_they_were(table):
    dataset = opened(table, "patient")
    origin = DataOrigin.of(dataset, SplitOptions(group_by="patient"))
    rows = [",".join(line.split(",")[:2]) for line in table.read_text().splitlines()]
    plain = table.with_name("plain.csv")
    plain.write_text("\n".join(rows))
    with pytest.raises(
        DataError, match=r"the split was made with --group-by 'patient', but here .*plain.csv has no column"
    ):
        origin.reopen(plain, image_size=8, cache=table.parent / "cache")


def test_the_folds_of_a_dataset_hold_each_image_once(table):
    dataset = opened(table, "patient", folds=3, test_fraction=0.0)
    seen = [name for number in range(3) for name in dataset.fold(number)[1].names]
    assert sorted(seen) == sorted([*dataset.train.names, *dataset.val.names])
    for number in range(3):
        train, val = dataset.fold(number)
        assert len(train) + len(val) == 24
        assert not {name.split("_")[1] for name in train.names} & {name.split("_")[1] for name in val.names}
        assert (np.diff(train.indices) > 0).all()


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("patients", r"has no group in parentheses, and .*data.csv has the columns Patient, slide to group by"),
        ("slide", "all 24 images are in the one group 's'"),
        (r"patient_([0-3])_", r"8 of 24 images have a path that does not match .*patient_4_16.png"),
        (r"patient_(\d+", "is not a regular expression"),
        ("", "has 0 letters"),
        ("(a)" * 200, "has 600 letters"),
    ],
)
def test_faults_are_one_line(table, group_by, message):
    with pytest.raises((DataError, UsageError), match=message) as error:
        opened(table, group_by)
    assert "\n" not in str(error.value)


def test_an_empty_cell_is_refused(table):
    table.write_text(table.read_text().replace(",p0,", ",,"))
    with pytest.raises(DataError, match=r"4 of 24 images have an empty Patient: patient_0_0.png"):
        opened(table, "patient")


def test_a_group_for_each_image_is_noted(table):
    assert any("each image is a group of its own" in note for note in opened(table, r"_(\d+)\.png").notes)


def test_nested_repetitions_are_stopped(table, monkeypatch):
    monkeypatch.setattr(grouping_module, "MATCH_SECONDS", 0.5)
    with pytest.raises(UsageError, match="as nested repetitions do"):
        group_images(open_source(table), ["a" * 60 + "!"], "^((a+)+)+$")


def test_groups_that_share_a_copy_are_united():
    units, linked = unite(["x", "y", "x", "z", "w"], ["1", "1", "2", "3", "3"])
    assert units == ["x", "x", "x", "w", "w"]
    assert linked == 1

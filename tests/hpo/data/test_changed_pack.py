"""Decisions on single images: applied wherever the data are opened, counted, and refused where they empty a class."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.data import DataOrigin, SplitOptions, open_dataset, summarise
from hpo.data.changed_pack import joined_groups
from hpo.data.changes import DataChanges
from hpo.errors import DataError

SPLIT = SplitOptions(0, 0.2, 0.2)


@pytest.fixture
def folder(write_classes):
    return write_classes({"cat": 10, "dog": 10})


@pytest.fixture
def opened(folder, cache):
    def open_with(changes=None, path=folder, **split):
        options = SplitOptions(**split) if split else SPLIT
        return open_dataset(path, image_size=16, cache=cache, split=options, changes=changes)

    return open_with


def names_of(dataset):
    return {*dataset.train.names, *dataset.val.names, *dataset.open_test().names}


def test_without_changes_nothing_changes(opened):
    plain, empty = opened(), opened(DataChanges(source="findings.csv", digest="1"))
    assert plain.fingerprint == empty.fingerprint
    assert summarise(plain).to_json()["changes"] is None
    record = DataOrigin.of(plain, SPLIT).model_dump(mode="json")
    kept = DataOrigin.of(empty, SPLIT)
    assert kept.changes == DataChanges(source="findings.csv", digest="1")
    assert kept.model_dump(mode="json", exclude={"findings"}) == record
    assert "findings" not in record
    assert "unchanged_fingerprint" not in record


def test_dropped_images_are_left_out_and_counted(opened):
    plain, drops = opened(), {"cat/003.png": "outlier", "dog/001.png": "copy", "dog/002.png": "copy"}
    dataset = opened(DataChanges(drops, source="findings.csv"))
    assert names_of(plain) - names_of(dataset) == set(drops)
    assert dataset.fingerprint != plain.fingerprint == dataset.unchanged_fingerprint
    line = "left out by findings.csv: 3 images: 2 copy, 1 outlier"
    assert line in summarise(dataset).lines()
    assert summarise(dataset).to_json()["changes"]["left_out"] == {"copy": 2, "outlier": 1}
    for name, row in zip(dataset.train.names, dataset.train.batch(np.arange(len(dataset.train))), strict=True):
        position = list(plain.train.names).index(name) if name in plain.train.names else None
        if position is not None:
            assert np.array_equal(row, plain.train.batch(np.array([position]))[0])


def test_relabelled_images_have_the_other_label(opened):
    dataset = opened(DataChanges(relabels={"cat/003.png": "dog", "dog/000.png": "dog"}))
    assert dataset.class_counts()["train"] != opened().class_counts()["train"] or len(dataset.val)
    assert np.sum(list(dataset.class_counts().values()), axis=0).tolist() == [9, 11]
    assert dataset.fingerprint == opened(DataChanges(relabels={"cat/003.png": "dog"})).fingerprint
    assert opened(DataChanges(relabels={"dog/000.png": "dog"})).fingerprint == opened().fingerprint


def test_images_of_a_group_are_in_one_part(opened):
    group = ["cat/000.png", "cat/004.png", "cat/007.png"]
    for seed in range(5):
        options = {"seed": seed, "val_fraction": 0.3, "test_fraction": 0.3}
        dataset = opened(DataChanges(groups=dict.fromkeys(group, group[0])), **options)
        parts = [{*dataset.train.names}, {*dataset.val.names}, {*dataset.open_test().names}]
        assert sum(bool(part & {*group}) for part in parts) == 1
        assert dataset.fingerprint == opened(**options).fingerprint
        assert dataset.duplicates == 0


def test_given_parts_are_moved(tmp_path, write_classes, opened):
    for number, part in enumerate(("train", "val", "test")):
        write_classes({"cat": 4, "dog": 4}, under=f"given/{part}", first_seed=100 * number)
    path = tmp_path / "given"
    dataset = opened(DataChanges(parts={"test/cat/000.png": "train"}), path=path)
    assert "test/cat/000.png" in dataset.train.names
    assert dataset.test_count == 7
    assert dataset.fingerprint != opened(path=path).fingerprint
    names = {f"val/{name}/00{n}.png": "odd" for name in ("cat", "dog") for n in range(4)}
    with pytest.raises(DataError, match="leaves none of the images of the given part val"):
        opened(DataChanges(names, source="findings.csv"), path=path)


@pytest.mark.parametrize(("count", "left"), [(10, "none"), (9, "one")])
def test_a_class_that_loses_its_images_is_refused(opened, count, left):
    drops = {f"cat/{n:03}.png": "outlier" for n in range(count)}
    with pytest.raises(DataError, match=rf"findings.csv leaves {left} of the 10 images of class 'cat'.*to keep"):
        opened(DataChanges(drops, source="findings.csv"))


def test_unknown_files_and_classes_are_refused(opened):
    with pytest.raises(DataError, match=r"f.csv names 1 image that .* lacks: cat/9.png"):
        opened(DataChanges({"cat/9.png": "odd"}, source="f.csv"))
    with pytest.raises(DataError, match="relabels images to 'cow', which is no class"):
        opened(DataChanges(relabels={"cat/001.png": "cow"}))


def test_unreadable_images_that_are_dropped_do_not_count(folder, opened):
    for number in range(6):
        (folder / "cat" / f"broken{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="6 of 26 images cannot be read"):
        opened()
    drops = {f"cat/broken{number}.png": "unreadable" for number in range(6)}
    dataset = opened(DataChanges(drops))
    assert dataset.unreadable == ()
    assert len(names_of(dataset)) == 20


def test_a_record_opens_the_same_data_again(folder, cache, opened, tmp_path):
    pair = ["cat/001.png", "cat/002.png"]
    changes = DataChanges(
        {"cat/003.png": "outlier"}, {"dog/001.png": "cat"}, dict.fromkeys(pair, pair[0]),
        source="findings.csv", digest="ab",
    )  # fmt: skip
    dataset = opened(changes)
    facts = DataOrigin.of(dataset, SPLIT).to_spec(dataset.classes)
    origin = DataOrigin.from_spec(facts, dataset.fingerprint)
    assert origin.changes == changes
    shutil.copytree(folder, tmp_path / "moved")
    again = origin.reopen(tmp_path / "moved", image_size=24, cache=cache)
    assert origin.is_of(again)
    assert origin.is_base_of(opened())
    assert list(again.train.names) == list(dataset.train.names)
    origin.refuse_other_images(again, folder, maker="the study", way_out="")
    with pytest.raises(DataError, match=r"the study was made with the data left out by findings.csv: 1 image"):
        origin.refuse_other_images(opened(), folder, maker="the study", way_out="give them")
    plain = DataOrigin.of(opened(), SPLIT)
    with pytest.raises(DataError, match="the data as they are"):
        plain.refuse_other_images(again, folder, maker="the study", way_out="give them")


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "x", "y"])), max_size=12))
def test_joined_groups_hold_what_shares_a_group_or_a_key(rows):
    groups, keys = [group for group, _ in rows], [key for _, key in rows]
    joined = joined_groups(groups, keys)
    for one in range(len(rows)):
        for other in range(len(rows)):
            if groups[one] == groups[other] or (keys[one] and keys[one] == keys[other]):
                assert joined[one] == joined[other]
    assert sorted(joined_groups(groups[::-1], keys[::-1])) == sorted(joined)

"""Copies of one picture never lie on two sides of a split made by hpo; studies of earlier versions keep their split."""

from __future__ import annotations

import io

import numpy as np
import pytest

from hpo.data import DataOrigin, SplitOptions, open_dataset, split_digest
from hpo.data.copy_groups import CopyGroups, record, recorded_keys
from tests.hpo.pictures import blobs


def picture(seed, size=64):
    return blobs(seed, 7, size=size)


def jpeg(image, quality=70):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 pictures of two classes, each there three times: as it is, encoded anew, and turned and encoded anew."""
    root = tmp_path_factory.mktemp("copies")
    for number in range(40):
        image = picture(number)
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        versions = [jpeg(image, 95), jpeg(image), jpeg(image.rotate(90))]
        for version, data in enumerate(versions):
            (root / "ab"[number % 2] / f"{number:02}-{version}.jpg").write_bytes(data)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def straddling(dataset):
    """The pictures that lie in two parts."""
    parts = [dataset.train, dataset.val, dataset.open_test()]
    shown = [{name.split("/")[1].split("-")[0] for name in part.names} for part in parts]
    return (shown[0] & shown[1]) | (shown[0] & shown[2]) | (shown[1] & shown[2])


@pytest.mark.parametrize("image_size", [8, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_copies_lie_in_one_part_at_any_image_size(folder, cache, image_size, seed):
    dataset = open_dataset(folder, image_size=image_size, cache=cache, split=SplitOptions(seed, 0.2, 0.2))
    assert len(dataset.copies) == 40
    assert len(dataset.val) > 0 < dataset.test_count
    assert not straddling(dataset)


def test_folds_keep_copies_together_too(folder, cache):
    dataset = open_dataset(folder, image_size=8, cache=cache, split=SplitOptions(folds=4))
    shown = [{name.split("/")[1].split("-")[0] for name in fold.names} for fold in dataset.folds]
    assert sum(map(len, shown)) == len(set().union(*shown))


def test_a_record_repeats_the_split_without_looking_for_copies_again(folder, cache, monkeypatch):
    split = SplitOptions(0, 0.2, 0.2)
    dataset = open_dataset(folder, image_size=8, cache=cache, split=split)
    origin = DataOrigin.of(dataset, split)
    read = DataOrigin.from_spec(origin.to_spec(dataset.classes), origin.fingerprint)
    assert read == origin
    assert read.copies == dataset.copies
    monkeypatch.setattr("hpo.data.opening.find_copy_groups", None)
    again = read.reopen(folder, image_size=16, cache=cache)
    assert split_digest(again) == origin.split_digest
    assert again.copies == dataset.copies


def test_a_study_of_an_earlier_version_keeps_its_split(folder, cache):
    split = SplitOptions(0, 0.2, 0.2)
    exact = open_dataset(folder, image_size=8, cache=cache, split=SplitOptions(0, 0.2, 0.2, copies=()))
    assert straddling(exact)
    spec = DataOrigin.of(exact, split).to_spec(exact.classes)
    del spec["copies"]  # earlier versions did not write it
    old = DataOrigin.from_spec(spec, exact.fingerprint)
    again = old.reopen(folder, image_size=16, cache=cache)
    assert split_digest(again) == split_digest(exact)
    old.refuse_other_split(again, folder, options=old.options, maker="the study", way_out="")
    assert "copies" not in old.to_spec(exact.classes)


def test_what_is_recorded_of_groups():
    digests = [("a" * 32, "p"), ("b" * 32, "p"), ("c" * 32, "q"), ("d" * 32, "r"), ("e" * 32, "r")]
    groups = CopyGroups(np.array([0, 0, 0, 1, 1]), np.zeros(5, int), np.zeros(5, int), np.ones(5))
    recorded = record(groups, digests)
    assert recorded == (("a" * 16, "b" * 16, "c" * 16),)  # equal pixels are known without a record
    keys = recorded_keys(recorded, ["c" * 32, "x" * 32, "a" * 32])
    assert keys[0] == keys[2] is not None
    assert keys[1] is None

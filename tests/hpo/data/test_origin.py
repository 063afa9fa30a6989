"""The record of a data set, and the description of how another one differs."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.data import DataOrigin, SplitOptions, open_dataset
from hpo.data.digests import fingerprint
from hpo.errors import DataError

SPLIT = SplitOptions(4, 0.2, 0.2)


@pytest.fixture
def folder(write_classes):
    return write_classes({"cat": 10, "dog": 10})


@pytest.fixture
def origin(folder, cache):
    return DataOrigin.of(
        open_dataset(folder, image_size=16, cache=cache, split=SPLIT), dataclasses.replace(SPLIT, max_unreadable=0.1)
    )


def refuse(origin, folder, cache, options=SPLIT):
    dataset = open_dataset(folder, image_size=16, cache=cache, split=options)
    origin.refuse_other_images(dataset, folder, maker="study 's'", way_out="give the same data", classes=("cat", "dog"))
    origin.refuse_other_split(dataset, folder, options=options, maker="study 's'", way_out="split it so")


def test_the_data_of_a_spec_round_trip(origin):
    facts = origin.to_spec(("cat", "dog"))
    assert facts["classes"] == ["cat", "dog"]
    assert DataOrigin.from_spec(facts, origin.fingerprint) == origin
    assert (origin.options, origin.max_unreadable) == (SPLIT, 0.1)
    assert origin.class_counts == {"cat": 10, "dog": 10}
    assert sum(origin.counts.values()) == 20


def test_the_same_data_are_accepted_wherever_they_lie(origin, folder, cache, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    refuse(origin, tmp_path / "moved", cache)
    assert origin.reopen(tmp_path / "moved", image_size=24, cache=cache).fingerprint == origin.fingerprint


def add(folder, png):
    (folder / "cat" / "new.png").write_bytes(png(900))


def remove(folder, png):
    (folder / "dog" / "000.png").unlink()
    (folder / "dog" / "001.png").unlink()


def rename(folder, png):
    (folder / "cat").rename(folder / "lynx")


def replace(folder, png):
    (folder / "cat" / "000.png").write_bytes(png(901))


def move(folder, png):
    (folder / "cat" / "000.png").rename(folder / "dog" / "moved.png")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add, "1 image more (21, then 20)"),
        (remove, "2 images fewer (18, then 20)"),
        (rename, "class 'lynx' is new, class 'cat' is gone"),
        (replace, "as many images of the same classes, but not the same ones"),
        (move, "cat 1 fewer, dog 1 more"),
    ],
)
def test_changes_are_described(origin, folder, cache, png, change, expected):
    change(folder, png)
    with pytest.raises(DataError) as caught:
        refuse(origin, folder, cache)
    assert str(caught.value).startswith(f"study 's' was made with other images than {folder}: {expected}")
    assert str(caught.value).endswith("give the same data")


def test_changed_given_parts_are_described(write_classes, cache):
    folder = write_classes({"train/cat": 9, "train/dog": 9, "test/cat": 2, "test/dog": 2})
    dataset = open_dataset(folder, image_size=16, cache=cache, split=SPLIT)
    origin = DataOrigin.of(dataset, SPLIT)
    (folder / "test" / "cat" / "000.png").rename(folder / "train" / "cat" / "moved.png")
    with pytest.raises(DataError, match=r"as many images in other parts \(.*3 test; then .*4 test\)"):
        refuse(origin, folder, cache)


def test_another_split_of_the_same_images_is_refused(origin, folder, cache):
    with pytest.raises(DataError, match=r"«stratified 60/20/20, seed 4», but here it is «.*seed 5».*; split it so"):
        refuse(origin, folder, cache, SplitOptions(5, 0.2, 0.2))


def test_another_split_by_the_same_words_is_refused(origin, folder, cache):
    elsewhere = origin.model_copy(update={"split_digest": "0" * 32})
    with pytest.raises(DataError, match="here other images validate or test"):
        refuse(elsewhere, folder, cache)


def test_without_a_digest_the_options_and_words_decide(origin, folder, cache):
    old = DataOrigin.model_validate(origin.model_dump(exclude={"split_digest", "class_counts", "counts"}))
    assert not old.split_is_known
    refuse(old, folder, cache)
    refuse(old.model_copy(update={"split": "in words of an earlier version"}), folder, cache)
    with pytest.raises(DataError, match="seed 5"):
        refuse(old, folder, cache, SplitOptions(5, 0.2, 0.2))


def test_classes_are_compared_without_counts_too(origin, folder, cache):
    old = DataOrigin.model_validate(origin.model_dump(exclude={"split_digest", "class_counts", "counts"}))
    rename(folder, None)
    with pytest.raises(DataError, match="class 'lynx' is new, class 'cat' is gone"):
        refuse(old, folder, cache)


def made_earlier(dataset, written):
    """Return the record of `dataset` by an earlier version of hpo, which took class names as written."""
    content = [
        (written[label], "", stored)
        for part in (dataset.train, dataset.val, dataset.open_test())
        for label, (stored, _) in zip(part.labels, part.digests, strict=True)
    ]
    old = dataclasses.replace(dataset, classes=written, fingerprint=fingerprint(content))
    return DataOrigin.of(old, dataclasses.replace(SPLIT, max_unreadable=0.1))


def as_folders(folder):
    return folder


def as_zip(folder):
    return Path(shutil.make_archive(str(folder), "zip", folder))


def as_table(folder):
    rows = [f"{file.relative_to(folder)},{file.parent.name}\n" for file in sorted(folder.glob("*/*.png"))]
    (folder / "table.csv").write_text("path,label\n" + "".join(rows))
    return folder / "table.csv"


def as_arrays(folder):
    """Names of classes keep blanks after them in an `.npz`, unlike labels."""
    files = sorted(folder.glob("*/*.png"))
    names = sorted({file.parent.name for file in files})
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = np.array([names.index(file.parent.name) for file in files])
    np.savez(folder / "a.npz", images=images, labels=labels, classes=np.array(names))
    return folder / "a.npz"


def as_text_arrays(folder):
    files = sorted(folder.glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    np.savez(folder / "a.npz", images=images, labels=np.array([file.parent.name for file in files]))
    return folder / "a.npz"


NFD = ("cafe\u0301", "dog")


@pytest.mark.parametrize("put", [as_folders, as_zip, as_table, as_arrays, as_text_arrays])
def test_a_study_made_with_the_names_as_they_are_written_goes_on(write_classes, cache, put):
    data = put(write_classes(dict.fromkeys(NFD, 10)))
    dataset = open_dataset(data, image_size=16, cache=cache, split=SPLIT)
    assert dataset.classes == ("caf\u00e9", "dog")
    earlier = made_earlier(dataset, NFD)
    assert earlier.fingerprint != dataset.fingerprint
    refuse(earlier, data, cache)


def test_blanks_around_a_name_are_no_other_class_either(write_classes, cache):
    data = write_classes({"cat ": 10, "dog": 10})
    dataset = open_dataset(data, image_size=16, cache=cache, split=SPLIT)
    assert dataset.classes == ("cat", "dog")
    refuse(made_earlier(dataset, ("cat ", "dog")), data, cache)


def test_names_that_come_in_another_order_in_their_one_form_are_refused_and_the_form_is_named(write_classes, cache):
    """The labels of the study were positions in that order."""
    data = write_classes({"cafe\u0301": 10, "cafz": 10})
    dataset = open_dataset(data, image_size=16, cache=cache, split=SPLIT)
    assert dataset.classes == ("cafz", "caf\u00e9")
    with pytest.raises(DataError, match=r"names were taken as written \('cafe\\u0301'\), and are now in .* NFC"):
        refuse(made_earlier(dataset, ("cafz", "cafe\u0301")), data, cache)


def test_two_spellings_that_were_two_classes_are_refused(write_classes, cache):
    data = write_classes({"caf\u00e9": 10, "cafe\u0301": 10, "dog": 10})
    assert open_dataset(data, image_size=16, cache=cache, split=SPLIT).earlier_fingerprint == ""


def test_other_folds_of_the_same_images_are_refused(folder, cache):
    options = dataclasses.replace(SPLIT, folds=3)
    dataset = open_dataset(folder, image_size=16, cache=cache, split=options)
    origin = DataOrigin.of(dataset, options)
    assert origin.folds_digest
    assert DataOrigin.from_spec(origin.to_spec(dataset.classes), origin.fingerprint) == origin
    refuse(origin, folder, cache, options)
    swapped = dataclasses.replace(dataset, folds=(dataset.folds[0], dataset.folds[2], dataset.folds[1]))
    with pytest.raises(DataError, match="but here other images validate or test"):
        origin.refuse_other_split(swapped, folder, options=options, maker="study 's'", way_out="split it so")
    earlier = origin.model_copy(update={"folds_digest": None})
    earlier.refuse_other_split(swapped, folder, options=options, maker="study 's'", way_out="split it so")


def test_the_record_of_one_split_has_no_folds(origin):
    assert not {"folds_digest", "every_class"} & set(origin.to_spec(("cat", "dog")))


def test_a_study_of_an_earlier_version_keeps_a_test_part_without_a_rare_class(write_classes, cache):
    folder = write_classes({"cat": 30, "dog": 3})
    options = SplitOptions(folds=2)
    origin = DataOrigin.of(open_dataset(folder, image_size=16, cache=cache, split=options), options)
    facts = origin.to_spec(("cat", "dog"))
    assert facts["every_class"] is True
    assert "test image" not in str(origin.reopen(folder, image_size=16, cache=cache).notes)
    earlier = DataOrigin.from_spec({**facts, "every_class": None}, origin.fingerprint)
    assert "no test image of class 'dog'" in str(earlier.reopen(folder, image_size=16, cache=cache).notes)

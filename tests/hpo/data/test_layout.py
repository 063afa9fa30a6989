"""Folders of parts and of classes: the same rules in a folder and in a zip."""

import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.data.archives import ZipSource
from hpo.data.folders import FolderSource
from hpo.data.layout import arrange
from hpo.errors import DataError


def tree(*folders, images=2):
    """Paths of `images` images in each folder."""
    return [f"{folder}/{n}.png" for folder in folders for n in range(images)]


def parts_of(listing):
    return {record.name: record.given for record in listing.records}


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ("Training", "Testing", ("parts: Testing/ is test, Training/ is train",)),
        ("TRAIN", "Test", ()),
        ("seg_train", "seg_test", ("parts: seg_test/ is test, seg_train/ is train",)),
        ("Train-Set", "Test-Set", ("parts: Test-Set/ is test, Train-Set/ is train",)),
        ("trainset", "testset", ("parts: testset/ is test, trainset/ is train",)),
        ("TrainImages", "TestImages", ("parts: TestImages/ is test, TrainImages/ is train",)),
        ("01_train", "02_test", ("parts: 01_train/ is train, 02_test/ is test",)),
        ("flowers-train", "flowers-test", ("parts: flowers-test/ is test, flowers-train/ is train",)),
        ("Entraînement", "essai", ("parts: Entraînement/ is train, essai/ is test",)),
        ("训练集", "测试集", ("parts: 测试集/ is test, 训练集/ is train",)),
        ("обучение", "тест", ("parts: обучение/ is train, тест/ is test",)),
    ],
)
def test_parts_under_other_names_are_parts_and_noted(train, test, expected):
    listing = arrange(tree(f"{train}/a", f"{train}/b", f"{test}/a", f"{test}/b"), [], "D")
    assert listing.classes == ("a", "b")
    assert {name.split("/")[0]: part for name, part in parts_of(listing).items()} == {train: "train", test: "test"}
    assert listing.notes == expected


@pytest.mark.parametrize("name", ["valid", "validation", "dev", "valid_set", "Val", "Validierung", "validating"])
def test_names_of_the_validation_part(name):
    listing = arrange(tree("train/a", "train/b", f"{name}/a", f"{name}/b"), [], "D")
    assert set(parts_of(listing).values()) == {"train", "val"}


@pytest.mark.parametrize("name", ["eval", "evaluation", "holdout", "hold-out", "trainval", "train_test"])
def test_a_name_that_may_be_val_or_test_is_refused(name):
    rule = rf"{name}/ in D looks like a part, but may be val or test: rename to train/, val/, test/"
    with pytest.raises(DataError, match=rule):
        arrange(tree("train/a", "train/b", f"{name}/a", f"{name}/b"), [], "D")


@pytest.mark.parametrize(
    "files",
    [
        tree("one/a", "one/b", "two/a", "two/b"),
        tree("one/A", "one/B", "two/a", "two/b"),
        tree("one/a", "one/b", "one/c", "two/a", "two/b"),
        tree("one/a", "one/b", "two/a", "two/b", "pictures"),
        tree("cats/images", "cats/masks", "dogs/images", "dogs/masks"),
        tree("around/one/a", "around/one/b", "around/two/a", "around/two/b"),
    ],
)
def test_folders_that_hold_the_same_folders_look_like_parts(files):
    with pytest.raises(DataError, match=r"hold the same folders \(.*\): looks like parts called .*: rename to train/"):
        arrange(files, [], "D")


def test_one_folder_that_every_class_has_is_skipped_and_noted():
    listing = arrange(tree("cats/images", "dogs/images"), [], "D")
    assert listing.classes == ("cats", "dogs")
    assert listing.notes == ("sub-folders are read as part of their class: cats (images), dogs (images)",)


def test_class_folders_that_hold_parts():
    listing = arrange(tree("cats/train", "cats/test", "dogs/train", "dogs/test"), [], "D")
    assert listing.classes == ("cats", "dogs")
    assert parts_of(listing)["cats/test/0.png"] == "test"
    assert parts_of(listing)["dogs/train/1.png"] == "train"
    assert listing.notes == ("each class folder holds its parts: test/ is test, train/ is train",)


@pytest.mark.parametrize(
    "files",
    [
        tree("cats/train", "cats/test", "dogs"),
        tree("cats/train", "cats/test", "cats", "dogs/train", "dogs/test"),
        tree("cats/train", "cats/test", "cats/extra", "dogs/train", "dogs/test"),
        tree("cats/Training", "cats/Testing", "dogs", "birds"),
    ],
)
def test_parts_in_some_class_folders_only_are_refused(files):
    with pytest.raises(DataError, match=r"cats/ in D holds .*, which look like parts, but not every class folder"):
        arrange(files, [], "D")


def test_parts_deep_inside_a_class_are_refused():
    with pytest.raises(DataError, match=r"class folder cats/ in D holds cats/2020/test/, cats/2020/train/"):
        arrange(tree("cats/2020/train", "cats/2020/test", "dogs"), [], "D")
    with pytest.raises(DataError, match=r"class folder cats/ in D holds train/cats/test/, train/cats/val/"):
        arrange(tree("train/cats/val", "train/cats/test", "train/dogs"), [], "D")


def test_several_data_sets_are_refused():
    files = tree(*[f"{fold}/{part}/{name}" for fold in ("f1", "f2") for part in ("train", "test") for name in "ab"])
    with pytest.raises(DataError, match="this looks like several data sets; give one of them"):
        arrange(files, [], "D")


def test_a_doubled_folder_of_a_part_is_merged():
    files = tree(*[f"{part}/{part}/{name}" for part in ("seg_train", "seg_test") for name in "ab"])
    listing = arrange(files, [], "D")
    assert listing.classes == ("a", "b")
    assert parts_of(listing)["seg_test/seg_test/a/0.png"] == "test"
    assert "seg_test/seg_test/ is read as seg_test/" in listing.notes
    with pytest.raises(DataError, match="D holds seg_test/ beside seg_pred/"):
        arrange([*files, "seg_pred/seg_pred/1.png"], [], "D")


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (tree("train", "car"), ("car", "train")),
        (tree("train_station", "beach"), ("beach", "train_station")),
        (tree("train_station/2020", "beach"), ("beach", "train_station")),
        (tree("vehicles/train", "vehicles/car", "animals"), ("animals", "vehicles")),
    ],
)
def test_class_names_may_contain_a_word_for_a_part(files, classes):
    assert arrange(files, [], "D").classes == classes


def test_images_directly_in_parts_are_refused():
    with pytest.raises(DataError, match=r"seg_train/0\.png in D lies in no class folder.*seg_train/ is a class"):
        arrange(tree("seg_train", "seg_test"), [], "D")
    with pytest.raises(DataError, match=r"train/0\.png in D lies in no class folder"):
        arrange(tree("train", "train/a", "train/b", "test/a"), [], "D")


def test_sub_folders_of_a_class_are_noted():
    listing = arrange(tree("a/x", "a/y", "a", "b/u", "b/v", "b/w", "b/z", "c"), [], "D")
    assert listing.notes == ("sub-folders are read as part of their class: a (x, y), b (u, v, w and 1 more)",)


def test_two_folders_of_one_part_are_noted():
    listing = arrange(tree("train/a", "train/b", "val/a", "valid/b"), [], "D")
    assert listing.notes == ("parts: train/ is train, val/ is val, valid/ is val",)


def test_an_empty_part_is_noted():
    assert arrange(tree("train/a", "train/b"), ["train", "val"], "D").notes == ("val/ holds no image",)


def test_files_that_are_not_read_are_counted_by_kind():
    files = ["a/1.heic", "a/1.png", "a/2.HEIC", "b/1.png", "b/IMG", "readme.txt"]
    listing = arrange(files, [], "D")
    left_out = [(entry.kind, entry.count, entry.names) for entry in listing.left_out]
    assert left_out == [
        (".heic", 2, ("a/1.heic", "a/2.HEIC")),
        (".txt", 1, ("readme.txt",)),
        ("without a suffix", 1, ("b/IMG",)),
    ]
    with pytest.raises(DataError, match=r"D has no images: put .*; left out: 1 \.heic"):
        arrange(["a/1.heic"], [], "D")


@pytest.mark.parametrize("around", ["", "set/", "set/inner/"])
@pytest.mark.parametrize("preview", ["preview.png", "{around}preview.png"])
def test_a_preview_beside_the_class_folders_is_named(around, preview):
    name = preview.format(around=around)
    with pytest.raises(DataError, match=r"preview\.png in D lies in no class folder"):
        arrange([*tree(f"{around}a", f"{around}b"), name], [], "D")


def test_an_empty_class_folder_beside_the_only_full_one_is_no_folder_around():
    listing = arrange(tree("cats/x", "cats/y"), ["cats", "cats/x", "cats/y", "dogs"], "D")
    assert listing.classes == ("cats", "dogs")


def test_names_in_two_unicode_forms_are_one_class_and_noted():
    listing = arrange(tree("train/caf\u00e9", "train/b", "test/cafe\u0301"), [], "D")
    assert listing.classes == ("b", "caf\u00e9")
    assert "are read as one class 'caf\u00e9'" in listing.notes[0]


@pytest.mark.parametrize("files", [tree("caf\udce9", "b"), tree("train/caf\udce9", "train/b", "test/b")])
def test_a_class_folder_that_is_not_utf8_is_named_by_its_bytes(files):
    with pytest.raises(DataError, match=r"class folder b'caf\\xe9' in D is not UTF-8: rename it"):
        arrange(files, [], "D")


def test_a_file_that_is_not_utf8_is_read_under_a_name_that_can_be_stored():
    listing = arrange(["a/caf\udce9.png", "b/1.png"], [], "D")
    assert listing.records[0].name == "a/caf\\xe9.png"


FOLDER_NAMES = st.sampled_from(
    [
        "train",
        "Training",
        "test",
        "seg_test",
        "val",
        "eval",
        "cats",
        "dogs",
        "Cats",
        "a-b",
        "a",
        "x y",
        "caf\u00e9",
        "cafe\u0301",
        "1",
        "01",
        "images",
        "set",
        "nan",
        "train_station",
    ]
)
FILE_NAMES = st.sampled_from(["1.png", "2.JPG", "IMG", "notes.txt", "3.heic", "\u00e9.png", "Thumbs.db", ".x.png"])
TREES = st.lists(
    st.tuples(st.lists(FOLDER_NAMES, max_size=4), st.none() | FILE_NAMES).filter(lambda path: path[0] or path[1]),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=TREES)
def test_a_folder_and_a_zip_of_it_are_understood_alike(paths, tmp_path):
    folder = tmp_path / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    for levels, file in paths:
        (folder / Path(*levels)).mkdir(parents=True, exist_ok=True)
        if file:
            (folder / Path(*levels) / file).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    assert understood(FolderSource(folder), folder) == understood(
        ZipSource(tmp_path / "tree.zip"), tmp_path / "tree.zip"
    )


def understood(source, path):
    try:
        return source.listing()
    except DataError as error:
        return str(error).replace(str(path), "D")

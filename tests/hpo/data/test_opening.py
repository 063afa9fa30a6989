"""open_dataset, open_whole and inspect_data: from a path to parts."""

import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.data import SplitOptions, fit_array, open_dataset, open_whole
from hpo.data.sampled_images import inspect_data
from hpo.data.summary import summarise_part
from hpo.errors import DataError
from tests.hpo.pictures import blobs

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def zipped(tmp_path):
    def pack(folder):
        with zipfile.ZipFile(tmp_path / "same.zip", "w") as archive:
            for file in sorted(folder.rglob("*.png"), reverse=True):
                archive.write(file, f"around/{file.relative_to(folder)}")
        return tmp_path / "same.zip"

    return pack


@pytest.fixture
def as_table(tmp_path):
    def write(folder):
        rows = [f"{f},{f.parent.name}" for f in sorted(folder.rglob("*.png"), key=lambda f: f.name)]
        (tmp_path / "same.csv").write_text("path,label\n" + "\n".join(rows))
        return tmp_path / "same.csv"

    return write


def ends(part):
    return {"/".join(Path(name).parts[-2:]) for name in part.names}


def test_no_split_given(write_classes, cache):
    dataset = open_dataset(write_classes({"a": 20, "b": 30}), image_size=16, cache=cache)
    assert dataset.classes == ("a", "b")
    assert (len(dataset.train), len(dataset.val), len(dataset.open_test())) == (40, 5, 5)
    assert dataset.split == "stratified 80/10/10, seed 0"
    assert dataset.train.batch(np.arange(3)).shape == (3, 16, 16, 3)
    assert not set(dataset.train.names) & (set(dataset.val.names) | set(dataset.open_test().names))
    assert dataset.train.joined(dataset.val).images is dataset.train.images


def test_the_fingerprint_depends_on_content_not_on_path_or_order(write_classes, cache, zipped, as_table, tmp_path):
    folder = write_classes({"a": 30, "b": 30})
    moved = shutil.copytree(folder, tmp_path / "moved")
    opened = [
        open_dataset(path, image_size=size, cache=cache)
        for path, size in ((folder, 16), (moved, 16), (zipped(folder), 16), (as_table(folder), 16), (folder, 24))
    ]
    assert len({dataset.fingerprint for dataset in opened}) == 1
    for dataset in opened[1:]:
        assert ends(dataset.val) == ends(opened[0].val)
        assert ends(dataset.open_test()) == ends(opened[0].open_test())


def test_a_given_split_is_obeyed_and_its_leaks_are_counted(write_classes, cache):
    folder = write_classes({"train/a": 9, "train/b": 9, "val/a": 2, "val/b": 2})
    shutil.copy(folder / "train" / "a" / "000.png", folder / "val" / "a" / "copy.png")
    shutil.copy(folder / "train" / "b" / "000.png", folder / "train" / "b" / "copy.png")
    dataset = open_dataset(folder, image_size=16, cache=cache, split=SplitOptions(test_fraction=0))
    assert (dataset.duplicates, dataset.leaking) == (2, 1)
    assert ends(dataset.val) == {"a/000.png", "a/001.png", "b/000.png", "b/001.png", "a/copy.png"}
    assert dataset.split == "as given"
    with pytest.raises(DataError, match="no test part"):
        dataset.open_test()


def test_duplicates_stay_together(write_classes, cache):
    folder = write_classes({"a": 20, "b": 20})
    for file in list((folder / "a").iterdir()):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    dataset = open_dataset(folder, image_size=16, cache=cache)
    assert (dataset.duplicates, dataset.leaking) == (20, 0)
    for part in (dataset.train, dataset.val, dataset.open_test()):
        names = {Path(name).name for name in part.names if name.startswith("a/")}
        assert {f"copy-{name}" for name in names if not name.startswith("copy-")} == {
            name for name in names if name.startswith("copy-")
        }


@pytest.fixture
def pairs(tmp_path, noise):
    """Return 20 pictures of 260 px in two classes, each as a JPEG and as the lossless PNG copy of that JPEG."""
    for number in range(20):
        folder = tmp_path / "pairs" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(noise(number, (12, 12, 3))).resize((260, 260), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03}.jpg", quality=90)
        with Image.open(folder / f"{number:03}.jpg") as jpeg:
            jpeg.save(folder / f"{number:03}.png", compress_level=1)
    return tmp_path / "pairs"


def test_groups_and_parts_are_the_same_at_every_image_size(pairs, cache):
    """A JPEG decoded at a fraction of its size would differ from its copy: at 64 px, three in eight pairs did."""
    datasets = [open_dataset(pairs, image_size=size, cache=cache) for size in (32, 64, 96, 224)]
    assert [dataset.duplicates for dataset in datasets] == [20] * 4
    for dataset in datasets:
        parts = [dataset.train, dataset.val, dataset.open_test()]
        assert [sorted(part.names) for part in parts] == [
            sorted(part.names) for part in (datasets[0].train, datasets[0].val, datasets[0].open_test())
        ]
        for part in parts:
            stems = Counter(Path(name).stem for name in part.names)
            assert set(stems.values()) == {2}


def test_a_picture_is_packed_alike_from_a_folder_a_zip_an_npz_and_an_array(pairs, tmp_path, cache):
    for file in pairs.rglob("*.png"):
        file.unlink()
    packed = sorted(pairs.rglob("*.jpg"))
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in packed:
            archive.write(file, file.relative_to(pairs))
    arrays = np.stack([np.asarray(Image.open(file)) for file in packed])
    np.savez(tmp_path / "data.npz", images=arrays, labels=[file.parent.name for file in packed])
    for size in (32, 96):
        expected = np.stack([fit_array(array, size) for array in arrays])
        for path in (pairs, tmp_path / "data.zip", tmp_path / "data.npz"):
            part = open_whole(path, image_size=size, cache=cache).part
            assert np.array_equal(part.images[part.indices], expected), path


def test_unreadable_images_are_skipped_and_listed(write_classes, cache, png):
    folder = write_classes({"a": 30, "b": 30})
    (folder / "a" / "000.png").write_bytes(png(0)[:40])
    (folder / "b" / "000.png").write_bytes(b"")
    dataset = open_dataset(folder, image_size=16, cache=cache)
    assert [entry.name for entry in dataset.unreadable] == ["a/000.png", "b/000.png"]
    assert len(dataset.train) + len(dataset.val) + len(dataset.open_test()) == 58


def test_duplicates_with_different_labels_are_noted(write_classes, cache):
    folder = write_classes({"a": 20, "b": 20})
    for number in range(3):
        shutil.copy(folder / "a" / f"00{number}.png", folder / "b" / f"copy{number}.png")
    message = "3 images are there under two classes: a/000.png and b/copy0.png, a/001.png and b/copy1.png"
    for data in (open_dataset(folder, image_size=16, cache=cache), open_whole(folder, image_size=16, cache=cache)):
        assert any(line.startswith(message) for line in data.notes)


def test_a_class_without_a_readable_image_is_refused_with_the_left_out_files(write_classes, cache):
    folder = write_classes({"a": 3, "b": 0})
    (folder / "b" / "1.heic").touch()
    with pytest.raises(DataError, match=r"class 'b' has no readable image, .*; left out: 1 \.heic"):
        open_dataset(folder, image_size=16, cache=cache)


def test_both_entry_points_give_the_notes(write_classes, cache):
    folder = write_classes({"Training/a": 9, "Training/b": 9, "Testing/a": 2, "Testing/b": 2})
    (folder / "Testing" / "a" / "1.heic").touch()
    for data in (open_dataset(folder, image_size=16, cache=cache), open_whole(folder, image_size=16, cache=cache)):
        assert data.notes == ("parts: Testing/ is test, Training/ is train",)
        assert [(entry.kind, entry.count) for entry in data.left_out] == [(".heic", 1)]


def test_a_model_whose_classes_are_in_another_unicode_form_knows_them(write_classes, cache):
    folder = write_classes({"caf\u00e9": 2, "b": 2})
    whole = open_whole(folder, image_size=16, cache=cache, classes=["cafe\u0301", "b"])
    assert sorted(whole.part.labels.tolist()) == [0, 0, 1, 1]


def test_too_many_unreadable_images_are_refused(write_classes, cache):
    folder = write_classes({"a": 10, "b": 10})
    for number in range(4):
        (folder / "a" / f"00{number}.png").write_bytes(b"")
    rule = r"4 of 20 images cannot be read, more than the 5 % allowed: a/000\.png \(empty file .* and 1 more; mend"
    with pytest.raises(DataError, match=rule):
        open_dataset(folder, image_size=16, cache=cache)
    assert len(open_dataset(folder, image_size=16, cache=cache, split=SplitOptions(max_unreadable=0.2)).unreadable) == 4


def test_data_with_only_unreadable_images_are_refused_at_any_limit(write_classes, cache):
    folder = write_classes({"a": 2, "b": 2})
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="4 of 4 images cannot be read"):
        open_dataset(folder, image_size=16, cache=cache, split=SplitOptions(max_unreadable=1))


@pytest.mark.parametrize(
    ("counts", "rule"),
    [
        ({"a": 3}, "the only class is 'a', but two are needed"),
        ({"a": 3, "b": 1}, "class 'b' has one readable image, but needs 2"),
        ({"a": 3, "b": 0}, "class 'b' has no readable image, but needs 2: add some, or remove its folder"),
        ({"train/a": 3, "val/b": 3}, "class 'b' has no image to train on: the given split puts all 3"),
    ],
)
def test_classes_that_cannot_be_learnt(write_classes, cache, counts, rule):
    with pytest.raises(DataError, match=rule):
        open_dataset(write_classes(counts), image_size=16, cache=cache)


def test_a_class_is_refused_before_its_images_are_read(write_classes, cache):
    with pytest.raises(DataError, match="the only class"):
        open_dataset(write_classes({"a": 3}), image_size=16, cache=cache, progress=lambda *_: pytest.fail("read"))


def test_whole_has_all_images_with_the_labels_of_a_model(write_classes, cache):
    whole = open_whole(write_classes({"b": 2, "c": 3}), image_size=16, cache=cache, classes=["a", "c", "b"])
    assert whole.classes == ("a", "c", "b")
    assert whole.part.labels.tolist() == [2, 2, 1, 1, 1]
    assert whole.given_parts == frozenset()


def test_whole_data_have_their_own_classes_if_none_are_given(write_classes, cache):
    folder = write_classes({"only": 1})
    whole = open_whole(folder, image_size=16, cache=cache)
    assert (whole.classes, whole.part.labels.tolist()) == (("only",), [0])


def test_whole_gives_one_given_part(write_classes, cache):
    folder = write_classes({"train/a": 2, "train/b": 2, "test/a": 1})
    whole = open_whole(folder, image_size=16, cache=cache, part="test")
    assert whole.part.names == ["test/a/000.png"]
    assert whole.given_parts == {"train", "test"}
    with pytest.raises(DataError, match="has no val part of its own, it has train, test"):
        open_whole(folder, image_size=16, cache=cache, part="val")


def test_whole_and_dataset_agree_on_the_content(write_classes, cache):
    folder = write_classes({"a": 5, "b": 5})
    assert (
        open_whole(folder, image_size=16, cache=cache).fingerprint
        == open_dataset(folder, image_size=16, cache=cache).fingerprint
    )


def test_whole_refuses_a_class_that_the_model_does_not_know(write_classes, cache):
    with pytest.raises(DataError, match=r"class 'z' of .* is unknown to the model, which knows a, b: rename or"):
        open_whole(write_classes({"a": 2, "z": 2}), image_size=16, cache=cache, classes=["a", "b"])


def test_an_inspection_decodes_all_of_a_small_data_set(write_classes):
    folder = write_classes({"train/a": 9, "train/b": 9, "test/a": 2})
    shutil.copy(folder / "train" / "a" / "000.png", folder / "train" / "a" / "copy.png")
    seen = inspect_data(folder)
    assert (seen.images, seen.decoded, seen.summary.duplicates) == (21, 21, 1)
    assert seen.summary.counts == {"train": [10, 9], "test": [2, 0]}


def test_an_inspection_of_all_images_knows_turned_copies(tmp_path):
    """They stay in one part of the split that a search makes, so a class of copies alone has none to spare."""
    for number in range(12):
        (tmp_path / "data" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        blobs(number).save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png")
    blobs(0).rotate(90).save(tmp_path / "data" / "a" / "turned.png")
    summary = inspect_data(tmp_path / "data").summary
    assert summary.duplicates == 0
    assert summary.notes == (
        "1 image is a copy without being equal: turned, encoded anew or cropped; `hpo data` shows them",
    )


def test_an_inspection_decodes_some_images_of_each_class_of_a_large_one(write_classes, monkeypatch):
    monkeypatch.setattr("hpo.data.sampled_images._FEW_IMAGES", 10)
    folder = write_classes({"a": 20, "b": 20})
    (folder / "a" / "019.png").write_bytes(b"")
    seen = inspect_data(folder)
    assert (seen.images, seen.decoded) == (40, 6)
    assert [image.name for image in seen.summary.unreadable] == ["a/019.png"]
    assert seen.summary.counts == {"images": [20, 20]}


def test_an_inspection_of_a_sample_says_so_and_counts_no_duplicates(write_classes, monkeypatch):
    monkeypatch.setattr("hpo.data.sampled_images._FEW_IMAGES", 10)
    folder = write_classes({"a": 20, "b": 20, "B": 20})
    shutil.copy(folder / "a" / "000.png", folder / "a" / "001.png")
    shutil.copy(folder / "a" / "000.png", folder / "b" / "000.png")
    summary = inspect_data(folder).summary
    assert (summary.duplicates, summary.leaking) == (None, None)
    assert (summary.to_json()["duplicates"], summary.to_json()["leaking"]) == (None, None)
    assert not any("duplicates" in line for line in summary.remarks())
    assert any(note.startswith("of the 9 images tried: ") for note in summary.notes)
    assert summary.notes[-1].startswith(
        "9 of 60 images were decoded, so copies, leaks and blank images were not looked"
    )
    assert any(note.startswith("classes 'B', 'b' differ in case") for note in summary.notes), "known of the whole"


def test_a_whole_data_set_counts_its_duplicates(write_classes, cache):
    folder = write_classes({"train/a": 9, "train/b": 9, "test/a": 2, "test/b": 2})
    shutil.copy(folder / "train" / "a" / "000.png", folder / "train" / "a" / "copy.png")
    shutil.copy(folder / "train" / "a" / "000.png", folder / "test" / "a" / "copy.png")
    for part in (None, "test"):
        whole = open_whole(folder, image_size=16, cache=cache, part=part)
        described = summarise_part(whole, whole.part, "test").to_json()
        assert (described["duplicates"], described["leaking"]) == (2, 1)


@pytest.mark.parametrize("tried", [10, 500])
def test_an_inspection_refuses_a_class_that_cannot_be_read(write_classes, monkeypatch, tried):
    monkeypatch.setattr("hpo.data.sampled_images._FEW_IMAGES", tried)
    folder = write_classes({"a": 20, "b": 12})
    for file in (folder / "b").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"none of \d+ images of class 'b' can be read, the first is b/000\.png: not an"
    ):
        inspect_data(folder)


@pytest.mark.parametrize(
    ("counts", "rule"),
    [
        ({"a": 3}, "the only class is 'a'"),
        ({"a": 2, "b": 2}, "no image can be held out to validate on"),
        ({"train/a": 3, "val/b": 3}, "class 'b' has no image to train on"),
        ({"one/a": 3, "one/b": 3, "two/a": 3, "two/b": 3}, "looks like parts"),
    ],
)
def test_an_inspection_refuses_the_same_data_as_a_search(write_classes, counts, rule):
    with pytest.raises(DataError, match=rule):
        inspect_data(write_classes(counts))


def test_an_inspection_refuses_too_many_unreadable_images(write_classes):
    folder = write_classes({"a": 20, "b": 12})
    for number in range(4):
        (folder / "b" / f"00{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of 32 images cannot be read, more than the 5 % allowed"):
        inspect_data(folder)
    assert len(inspect_data(folder, split=SplitOptions(max_unreadable=0.5)).summary.unreadable) == 4


@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} with the real images is not there")
@pytest.mark.parametrize(
    ("file", "counts", "classes"),
    [
        ("pbc96_trainval.zip", (10767, 1710, 1196), 8),
        ("signdigits100.zip", (1644, 209, 209), 10),
        ("pbc96_small800.npz", (640, 80, 80), 8),
    ],
)
def test_real_images(file, counts, classes, cache):
    dataset = open_dataset(SHARED / file, image_size=96, cache=cache)
    assert (len(dataset.train), len(dataset.val), len(dataset.open_test())) == counts
    assert len(dataset.classes) == classes
    assert dataset.unreadable == ()


def test_an_inspection_deals_groups_and_folds_as_a_search(write_classes, monkeypatch):
    folder = write_classes({"a": 12, "b": 12})
    with pytest.raises(DataError, match=r"24 of 24 images have a path that does not match"):
        inspect_data(folder, split=SplitOptions(group_by=r"patient (\d+)"))
    whole = inspect_data(folder, split=SplitOptions(group_by=r"/0*(\d+)\.png")).summary
    assert not any("leak" in note for note in whole.notes)
    with pytest.raises(DataError, match="10 folds need as many groups"):
        inspect_data(folder, split=SplitOptions(group_by=r"(\d)\.png", folds=10))
    monkeypatch.setattr("hpo.data.sampled_images._FEW_IMAGES", 10)
    notes = inspect_data(folder, split=SplitOptions(group_by=r"([ab]/\d+)\.png", folds=3)).summary.notes
    assert any("each image is a group of its own" in note for note in notes)

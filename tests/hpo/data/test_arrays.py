"""`.npz` files, including those of MedMNIST: read by rows, never unpickled, each fault in one line."""

import zipfile

import numpy as np
import pytest

from hpo.data.arrays import ArraySource
from hpo.data.dataset import LeftOut
from hpo.data.opening import open_source
from hpo.errors import DataError

IMAGES = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
LABELS = np.array([3, 10, 3, 10, 3, 10])


@pytest.fixture
def write_npz(tmp_path):
    def write(save=np.savez, **arrays):
        save(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def rows(path):
    with ArraySource(path).reads() as reads:
        return [read() for read in reads]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(np.uint8)])
def test_images_and_labels(write_npz, save, labels):
    path = write_npz(save, images=IMAGES, labels=labels)
    listing = open_source(path).listing()
    assert listing.classes == ("3", "10")
    assert listing.labels.tolist() == [0, 1] * 3
    assert listing.records[5].name == "images[5]"
    assert listing.records[5].given is None
    assert np.array_equal(rows(path), IMAGES)


def test_the_layout_of_medmnist(write_npz):
    arrays = {}
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        arrays |= {f"{part}_images": IMAGES[:count, :, :, 0], f"{part}_labels": LABELS[:count, None]}
    path = write_npz(**arrays)
    listing = ArraySource(path).listing()
    assert [r.given for r in listing.records] == ["train"] * 3 + ["val"] * 2 + ["test"]
    assert [r.name for r in listing.records][3:] == ["val_images[0]", "val_images[1]", "test_images[0]"]
    assert listing.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert [row.shape for row in rows(path)] == [(4, 4)] * 6


@pytest.mark.parametrize("key", ["classes", "label_names"])
def test_class_names(write_npz, key):
    path = write_npz(images=IMAGES, labels=LABELS % 3 % 2, **{key: np.array(["cat", "dog", "owl"])})
    listing = ArraySource(path).listing()
    assert listing.classes == ("cat", "dog", "owl")
    assert listing.labels.tolist() == (LABELS % 3 % 2).tolist()


def test_labels_may_be_texts(write_npz):
    listing = ArraySource(write_npz(images=IMAGES, labels=np.array(["b", "a"] * 3))).listing()
    assert listing.classes == ("a", "b")
    assert listing.labels.tolist() == [1, 0] * 3


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation", "dev"])
def test_the_validation_part_under_other_names(write_npz, val):
    arrays = {"train_images": IMAGES, "train_labels": LABELS, f"{val}_images": IMAGES[:2], f"{val}_labels": LABELS[:2]}
    listing = ArraySource(write_npz(**arrays)).listing()
    assert [record.given for record in listing.records] == ["train"] * 6 + ["val"] * 2
    assert listing.left_out == ()


@pytest.mark.parametrize(
    ("others", "rule"),
    [
        (["test_images"], "has images beside test_images, and it is not clear which part images is: rename it"),
        (["train_images", "val_images"], "has images beside train_images, val_images"),
        (["extra_images"], "has extra_images, but images must be in images or in train_images"),
        (["images_test"], "has images_test, but images must be in images"),
        (["TestImages"], "has TestImages, but images must be in images"),
        (["eval_images"], "has eval_images, but images must be in"),
        (["test_labels"], "has test_labels but no test_images: add test_images, or remove test_labels"),
    ],
)
def test_arrays_of_images_that_would_not_be_used_are_refused(write_npz, others, rule):
    arrays = {"images": IMAGES, "labels": LABELS} | dict.fromkeys(others, IMAGES)
    with pytest.raises(DataError, match=rule):
        ArraySource(write_npz(**arrays)).listing()


def test_two_arrays_of_one_part_are_refused(write_npz):
    keys = ("train", "val", "valid")
    arrays = {f"{key}_images": IMAGES for key in keys} | {f"{key}_labels": LABELS for key in keys}
    with pytest.raises(DataError, match="has val_images and valid_images for one part: join them, or remove one"):
        ArraySource(write_npz(**arrays)).listing()


def test_arrays_that_are_not_read_are_named(write_npz):
    path = write_npz(
        images=IMAGES, labels=LABELS, masks=IMAGES, patient_id=LABELS, image_name=LABELS, meta=LABELS.astype(object)
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "text")
    listing = ArraySource(path).listing()
    assert listing.left_out == (
        LeftOut(".txt", 1, ("readme.txt",)),
        LeftOut("array", 4, ("masks", "patient_id", "image_name", "meta")),
    )
    assert [line.split(",")[0] for line in listing.notes] == ["array patient_id looks like a group"]


@pytest.mark.parametrize(("key", "values"), [("fold", LABELS), ("which", np.array(["train", "Test"] * 3))])
def test_an_array_that_looks_like_a_split_is_named(write_npz, key, values):
    listing = ArraySource(write_npz(images=IMAGES, labels=LABELS, **{key: values})).listing()
    assert listing.notes[0].startswith(f"array {key} looks like a split, but is not read")


@pytest.mark.parametrize(
    ("train", "val", "notes"),
    [
        ("train", "dev", ["parts: dev_images is val, train_images is train"]),
        ("Training", "val", ["parts: Training_images is train, val_images is val"]),
        ("train", "valid", []),
    ],
)
def test_parts_under_other_names_are_noted(write_npz, train, val, notes):
    arrays = {f"{part}_{key}": rows for part in (train, val) for key, rows in (("images", IMAGES), ("labels", LABELS))}
    assert list(ArraySource(write_npz(**arrays)).listing().notes) == notes


@pytest.mark.parametrize("key", ["class_names", "classnames", "label-names", "Categories", "target_names"])
def test_names_of_classes_under_another_key_are_noted_with_the_way_out(write_npz, key):
    names = np.array(["a", "b"])
    listing = ArraySource(write_npz(images=IMAGES, labels=LABELS, **{key: names})).listing()
    assert listing.notes == (f"array {key} looks like names of classes, but is not read: rename it to classes",)
    used = ArraySource(write_npz(images=IMAGES, labels=LABELS // 10, classes=names, **{key: names})).listing()
    assert used.notes == ()


@pytest.mark.parametrize(
    ("arrays", "way_out"),
    [
        ({"x_train": IMAGES, "y_train": LABELS}, "rename x_train to train_images, y_train to train_labels"),
        ({"X": IMAGES, "y": LABELS}, "rename X to images, y to labels"),
        ({"images": IMAGES, "targets": LABELS}, "add labels, one per image, or rename targets to labels"),
        ({"val_images": IMAGES, "y_valid": LABELS}, "add val_labels, one per image, or rename y_valid to val_labels"),
    ],
)
def test_frequent_other_names_of_keys_are_suggested(write_npz, arrays, way_out):
    with pytest.raises(DataError, match=way_out):
        ArraySource(write_npz(**arrays)).listing()


def test_class_names_that_are_not_used_are_named(write_npz):
    path = write_npz(images=IMAGES, labels=np.array(["b", "a"] * 3), classes=np.array(["x", "y"]))
    assert ArraySource(path).listing().left_out == (LeftOut("array", 1, ("classes",)),)


def test_labels_in_two_unicode_forms_are_one_class_and_noted(write_npz):
    labels = np.array(["caf\u00e9", "cafe\u0301", "b", "z", "z", "z"])
    listing = ArraySource(write_npz(images=IMAGES, labels=labels)).listing()
    assert listing.classes == ("b", "caf\u00e9", "z")
    assert listing.labels.tolist() == [1, 1, 0, 2, 2, 2]
    assert "are read as one class" in listing.notes[0]


def test_rows_come_in_blocks(write_npz, monkeypatch):
    monkeypatch.setattr("hpo.data.npy._READ_BYTES", 100)
    path = write_npz(np.savez_compressed, images=IMAGES, labels=LABELS)
    assert ArraySource(path).chunk == 2
    assert np.array_equal(rows(path), IMAGES)


@pytest.mark.parametrize("images", [IMAGES.astype(np.uint16), IMAGES.astype(">u2"), IMAGES > 9])
def test_other_kinds_of_pixels(write_npz, images):
    path = write_npz(images=images, labels=LABELS)
    assert len(ArraySource(path).listing().records) == 6
    assert np.array_equal(rows(path), images)


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"x": IMAGES, "y": LABELS}, "has the keys x, y, but must have images and labels, or train_images"),
        ({}, "has the keys none, but must have images and labels"),
        ({"images": IMAGES}, "has images but no labels: add labels, one per image"),
        ({"train_images": IMAGES, "labels": LABELS}, "has train_images but no train_labels"),
        ({"images": IMAGES / 255, "labels": LABELS}, r"images .* are float64, but must be uint8 .*\* 255"),
        ({"images": IMAGES.astype(int), "labels": LABELS}, "are int64, but must be uint8"),
        ({"images": IMAGES.astype(object), "labels": LABELS}, "holds Python objects, which are never unpickled"),
        ({"images": IMAGES, "labels": LABELS.astype(object)}, "labels .* holds Python objects"),
        ({"images": IMAGES, "labels": LABELS[:4]}, "labels .* has 4 entries for 6 images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels .* are float64, but must be whole numbers"),
        ({"images": IMAGES, "labels": np.eye(6, dtype=int)}, r"labels .* have shape \(6, 6\), but must be \(N,\)"),
        ({"images": IMAGES, "labels": np.int64(3)}, "labels .* is a single value"),
        ({"images": np.zeros((6, 3, 8, 8), np.uint8), "labels": LABELS}, r"shape .*transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((6, 8, 8, 8), np.uint8), "labels": LABELS}, r"shape \(6, 8, 8, 8\), but must be"),
        ({"images": np.zeros((6, 0, 8), np.uint8), "labels": LABELS}, r"shape \(6, 0, 8\), but must be"),
        ({"images": np.zeros((1, 9000, 9000), np.uint8), "labels": LABELS[:1]}, "81.0 megapixels"),
        ({"images": np.asfortranarray(IMAGES), "labels": LABELS}, "Fortran order, but must be in C order"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "b"])}, "label 3 .* must be 0 to 1"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "a"])}, "classes .* has a name twice"),
        (
            {"train_images": IMAGES, "train_labels": LABELS, "val_images": IMAGES, "val_labels": LABELS.astype(str)},
            "numbers in one part and texts in another",
        ),
    ],
)
def test_faults_are_reported_in_one_line(write_npz, arrays, rule):
    path = write_npz(**arrays)
    with pytest.raises(DataError, match=rule) as caught:
        ArraySource(path).listing()
    assert "\n" not in str(caught.value)
    assert "data.npz" in str(caught.value) or "megapixels" in str(caught.value)


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="is not a readable zip"):
        ArraySource(tmp_path / "data.npz").listing()


def test_a_header_that_promises_more_than_there_is(write_npz, tmp_path):
    path = write_npz(images=IMAGES, labels=LABELS)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", members["images.npy"].replace(b"(6, 4", b"(9, 4"))
        archive.writestr("labels.npy", members["labels.npy"])
    with pytest.raises(DataError, match=r"cut short: its header promises shape \(9, 4, 4, 3\)"):
        ArraySource(path).listing()


def test_damaged_values_are_refused(write_npz):
    path = write_npz(images=IMAGES, labels=LABELS)
    data = bytearray(path.read_bytes())
    data[data.index(IMAGES[3].tobytes())] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"images in .* cannot be read .*CRC"):
        rows(path)


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        (np.array([0, 1], np.int64), np.array([0, 1], np.uint64), ("0", "1")),
        (np.array([2**53, 2**53 + 1], np.int64), np.array([2**53, 2**53 + 1], np.uint64), (str(2**53), str(2**53 + 1))),
        (np.array([-1, 2], np.int8), np.array([2**64 - 1, 2], np.uint64), ("-1", "2", str(2**64 - 1))),
        (np.array([True, False]), np.array([1, 0], np.int16), ("0", "1")),
        (np.array([True, False]), np.array([True, False]), ("False", "True")),
    ],
)
def test_labels_of_two_types_stay_whole_numbers(tmp_path, noise, train, test, classes):
    images = noise(1, (2, 8, 8, 3))
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=train, test_images=images, test_labels=test)
    listing = ArraySource(tmp_path / "a.npz").listing()
    assert listing.classes == classes
    values = [*train.tolist(), *test.tolist()]
    assert [listing.classes[record.label] for record in listing.records] == [
        str(value if train.dtype == test.dtype else int(value)) for value in values
    ]
    assert not [note for note in listing.notes if "one number" in note]


def test_a_label_without_a_name_is_reported_as_written_in_the_file(tmp_path, noise):
    labels = np.array([0, 2**64 - 1], np.uint64)
    np.savez(tmp_path / "a.npz", images=noise(1, (2, 8, 8, 3)), labels=labels, classes=np.array(["a", "b"]))
    with pytest.raises(DataError, match=f"label {2**64 - 1} in .* has no name: with 2 names it must be 0 to 1"):
        ArraySource(tmp_path / "a.npz").listing()

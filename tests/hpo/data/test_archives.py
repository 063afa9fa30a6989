"""Zips of class folders."""

import zipfile

import pytest

from hpo.data import decode
from hpo.data.archives import ZipSource
from hpo.data.pipeline import decode_all
from hpo.errors import DataError


@pytest.fixture
def write_zip(tmp_path, png):
    def write(names, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "data.zip", "w", compression) as archive:
            for seed, name in enumerate(names):
                archive.writestr(name, b"" if name.endswith("/") else png(seed))
        return tmp_path / "data.zip"

    return write


def test_classes_and_parts(write_zip):
    listing = ZipSource(write_zip(["train/b/1.png", "train/a/1.png", "val/a/2.JPG"])).listing()
    assert listing.classes == ("a", "b")
    assert [(r.name, r.label, r.given) for r in listing.records] == [
        ("train/a/1.png", 0, "train"),
        ("train/b/1.png", 1, "train"),
        ("val/a/2.JPG", 0, "val"),
    ]


def test_rubbish_is_ignored(write_zip):
    names = ["a/1.png", "b/1.png", "__MACOSX/a/._1.png", "a/.x.png", "a/Thumbs.db", "readme.txt"]
    assert [r.name for r in ZipSource(write_zip(names)).listing().records] == ["a/1.png", "b/1.png"]


@pytest.mark.parametrize("around", ["set/", "set/inner/"])
@pytest.mark.parametrize("part", ["", "train/"])
def test_folders_around_everything_are_looked_through(write_zip, around, part):
    names = [f"{around}{part}a/1.png", f"{around}{part}b/1.png", f"{around}{part}c/", "__MACOSX/x.png"]
    listing = ZipSource(write_zip(names)).listing()
    assert listing.classes == ("a", "b", "c")
    assert listing.records[0].name == names[0]
    assert listing.records[0].given == (part.rstrip("/") or None)


def test_backslashes_separate_too(write_zip):
    assert ZipSource(write_zip(["a\\1.png", "b\\1.png"])).listing().classes == ("a", "b")


def test_reads_give_the_bytes_in_any_thread(write_zip, png):
    source = ZipSource(write_zip([f"{'ab'[n % 2]}/{n:03}.png" for n in range(100)]))
    with source.reads() as reads:
        decoded = [one for some in decode_all(reads, 16, 3) for one in some]
    expected = [png(int(record.name[2:5])) for record in source.listing().records]
    assert all((one.pixels == decode(data, 16)).all() for one, data in zip(decoded, expected, strict=True))


def test_a_file_that_is_no_zip(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"data\.zip is not a readable zip"):
        ZipSource(tmp_path / "data.zip").listing()


def test_a_zip_without_images(write_zip):
    with pytest.raises(DataError, match="has no images"):
        ZipSource(write_zip(["readme.txt"])).listing()


def test_a_damaged_member_is_one_unreadable_image(write_zip):
    path = write_zip(["a/1.png", "b/1.png"], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IHDR") + 4] ^= 0xFF
    path.write_bytes(data)
    with ZipSource(path).reads() as reads:
        decoded = [one for some in decode_all(reads, 16, 8) for one in some]
    assert [one.pixels is None for one in decoded] == [True, False]
    assert "damaged in the zip (Bad CRC-32" in decoded[0].reason

"""Zips of class folders."""

import io
import random
import zipfile

import numpy as np
import pytest

from hpo.data import decode
from hpo.data.archives import ZipSource, _read_at_once
from hpo.data.pipeline import decode_all
from hpo.data.sampled_images import inspect_data
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
def test_enclosing_folders_are_skipped(write_zip, around, part):
    names = [f"{around}{part}a/1.png", f"{around}{part}b/1.png", f"{around}{part}c/", "__MACOSX/x.png"]
    listing = ZipSource(write_zip(names)).listing()
    assert listing.classes == ("a", "b", "c")
    assert listing.records[0].name == names[0]
    assert listing.records[0].given == (part.rstrip("/") or None)


def test_backslashes_separate_too(write_zip):
    assert ZipSource(write_zip(["a\\1.png", "b\\1.png"])).listing().classes == ("a", "b")


def test_dots_and_leading_slashes_are_no_folders(write_zip):
    names = ["./a/1.png", "/a/2.png", "b//3.png", "./"]
    assert [record.name for record in ZipSource(write_zip(names)).listing().records] == [
        "a/1.png",
        "a/2.png",
        "b/3.png",
    ]


def test_a_name_that_leads_out_of_the_zip_is_refused(write_zip):
    with pytest.raises(DataError, match=r"\.\./b/1\.png in .*data\.zip leads out of the zip: zip the folder again"):
        ZipSource(write_zip(["a/1.png", "../b/1.png"])).listing()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_image_that_is_there_twice_is_refused(write_zip):
    with pytest.raises(DataError, match=r"holds two files of one name \(a/1\.png\)"):
        ZipSource(write_zip(["a/1.png", "b/1.png", "a/1.png"])).listing()
    with pytest.raises(DataError, match=r"holds two files of one name \(a/1\.png\)"):
        ZipSource(write_zip(["a/1.png", "b/1.png", "./a/1.png"])).listing()


def unflagged(path, raw):
    """Return the zip with its folder \xc3\xa9\xc3\xa9 written as the bytes `raw`, without the flag for UTF-8."""
    data = path.read_bytes().replace("éé".encode(), raw)
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.find(start)
        while position >= 0:
            data = data[: position + offset] + b"\0\0" + data[position + offset + 2 :]
            position = data.find(start, position + 1)
    path.write_bytes(data)
    return path


def test_names_without_the_flag_are_tried_as_utf8_first(write_zip):
    path = unflagged(write_zip(["éé/1.png", "b/1.png"]), "éé".encode())
    assert ZipSource(path).listing().classes == ("b", "éé")


def test_a_class_folder_in_an_unknown_encoding_is_refused(write_zip):
    path = unflagged(write_zip(["éé/1.png", "b/1.png"]), b"caf\xe9")
    with pytest.raises(DataError, match=r"class folder b'caf\\xe9' in .* is not UTF-8: rename it"):
        ZipSource(path).listing()


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


def central_entry(data: bytes) -> int:
    """Return the offset of the first entry of the central directory (APPNOTE.TXT 4.3.12)."""
    return data.find(b"PK\x01\x02")


def with_bad_name(data: bytes) -> bytes:
    """Bit 11 marks the name as UTF-8, but its bytes are not."""
    changed, at = bytearray(data), central_entry(data)
    changed[at + 9] |= 0x08
    changed[at + 46] = 0xFF
    return bytes(changed)


def with_newer_version(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[central_entry(data) + 6] = 0xFF
    return bytes(changed)


@pytest.fixture
def zip_bytes(png):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for seed, name in enumerate(["é/0.png", "é/1.png", "dog/0.png", "dog/1.png"]):
            archive.writestr(name, png(seed, (8, 8, 3)))
    return stream.getvalue()


@pytest.fixture
def npz_bytes(noise):
    stream = io.BytesIO()
    np.savez(stream, images=noise(1, (8, 8, 8, 3)), labels=np.arange(8) % 2, classes=np.array(["a", "b"]))
    return stream.getvalue()


@pytest.mark.parametrize("damage", [with_bad_name, with_newer_version])
@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_a_directory_that_zipfile_cannot_read_is_one_line(tmp_path, request, kind, damage):
    path = tmp_path / f"data.{kind}"
    path.write_bytes(damage(request.getfixturevalue(f"{kind}_bytes")))
    with pytest.raises(DataError, match=r"data\.(zip|npz) is not a readable zip \(.*\): copy or download it again"):
        inspect_data(path)


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_changed_bytes_end_in_one_line_or_in_unreadable_images(tmp_path, request, kind):
    """Most of the changed bytes are in the central directory, which locates all other data."""
    whole, chance = request.getfixturevalue(f"{kind}_bytes"), random.Random(3)
    path, refused = tmp_path / f"data.{kind}", 0
    for _ in range(250):
        changed = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 3])):
            start = central_entry(whole) if chance.random() < 0.6 else 0
            changed[chance.randrange(start, len(changed))] = chance.choice([0, 1, 0x80, 0xFF, chance.randrange(256)])
        path.write_bytes(changed)
        try:
            inspect_data(path)
        except DataError as error:
            refused += "\n" not in str(error)
    assert refused > 50


def test_a_member_is_read_at_once_as_zipfile_reads_it(tmp_path):
    contents = {"a/1.png": b"", "a/2.png": b"x" * 5000, "b/é.png": random.Random(0).randbytes(3000), "long" * 200: b"y"}
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "some.zip", "w", packing) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        with zipfile.ZipFile(tmp_path / "some.zip") as archive:
            found = {member.filename: _read_at_once(archive, member) for member in archive.infolist()}
        assert found == {**contents, "long" * 200: None}, "zipfile reads what is unusual"


@pytest.mark.parametrize("field", ["CRC", "file_size", "header_offset", "flag_bits", "orig_filename"])
def test_a_member_whose_entry_is_wrong_is_left_to_zipfile(write_zip, field):
    with zipfile.ZipFile(write_zip(["a/1.png", "b/1.png"])) as archive:
        member = archive.infolist()[1]
        assert _read_at_once(archive, member) == archive.read(member)
        setattr(member, field, "a/2.png" if field == "orig_filename" else getattr(member, field) + 1)
        assert _read_at_once(archive, member) is None

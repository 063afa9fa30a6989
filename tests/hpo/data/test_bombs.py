"""Small files that would take gigabytes are refused in one line, in little memory, by training and prediction alike.

Each file unpacks to far more than it claims or needs. It is read in a process of its own whose memory is limited.
"""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hpo.data import iter_images
from hpo.data.archives import ZipSource
from hpo.data.opening import open_source
from hpo.errors import DataError

UNPACKED = 48 * 1024 * 1024
ROOM = 32 * 1024 * 1024
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]

SCRIPT = """
import resource, sys
from pathlib import Path
from hpo.data import iter_images, open_whole
from hpo.errors import DataError
from hpo.data.decode import decode
import cv2
decode(b"P5 2 2 255 1234", 8)
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + int(sys.argv[1]),) * 2)
for job in sys.argv[2:]:
    how, path = job.split(":", 1)
    print(f"# {job}")
    try:
        if how == "train":
            open_whole(path, image_size=8, cache=path + "-cache", max_unreadable=0.5)
        else:
            for _, _, skipped in iter_images(path, 8, 4):
                print(*[image.reason for image in skipped], sep="\\n")
    except DataError as error:
        print(error)
"""


limited = pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")


def messages(*paths, hows=("train", "predict")):
    """The messages by path and reader, with ROOM bytes of memory left. Any other end fails the test."""
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    jobs = [f"{how}:{path}" for path in paths for how in hows]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOM), *jobs],
        check=False, capture_output=True, text=True, env=environment, preexec_fn=_on_one_core,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    parts = [part.split("\n", 1) for part in done.stdout.split("# ")[1:]]
    assert [job for job, _ in parts] == jobs
    return {(path.name, how): seen.strip() for (path, how), (_, seen) in zip(product(paths, hows), parts, strict=True)}


def _on_one_core():
    """One core is one decoding thread, so that the stacks of threads do not count."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def lying(path, method, name, content, claimed):
    """Return a zip whose last member is `claimed` bytes long by its header."""
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr(name, content)
    data = path.read_bytes()
    true = struct.pack("<I", len(content))
    for start, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        position = data.rfind(start) + offset
        assert data[position : position + 4] == true
        data = data[:position] + struct.pack("<I", claimed) + data[position + 4 :]
    path.write_bytes(data)


@pytest.fixture
def good_zip(tmp_path, png):
    return write_good(tmp_path / "data.zip", png)


def write_good(path, png):
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(["a/1.png", "a/2.png", "b/1.png", "b/2.png"]):
            archive.writestr(name, png(seed))
    return path


@limited
def test_members_that_hold_more_than_they_claim(tmp_path, png):
    paths = [write_good(tmp_path / f"{method}.zip", png) for method in METHODS]
    for path, method in zip(paths, METHODS, strict=True):
        lying(path, method, "b/9.png", bytes(UNPACKED if method else 1_000_000), 100)
    for (name, how), seen in messages(*paths).items():
        if int(name[:-4]) in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            assert seen == ("" if how == "train" else "damaged in the zip (Bad CRC-32 for file 'b/9.png')")
        else:
            assert "b/9.png in" in seen
            assert "but only stored and deflated files are read: zip it again" in seen
            assert "\n" not in seen


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused_in_one_line(tmp_path, png, method):
    """A damaged LZMA member is refused in one line, without a traceback."""
    with zipfile.ZipFile(tmp_path / "data.zip", "w", method) as archive:
        archive.writestr("a/1.png", png(0))
    with pytest.raises(DataError, match=r"a/1\.png in .* is packed by (bzip2|LZMA), but only stored and deflated"):
        ZipSource(tmp_path / "data.zip").listing()
    with pytest.raises(DataError, match="is packed by"):
        next(iter_images(tmp_path / "data.zip", 8, 4))
    with zipfile.ZipFile(tmp_path / "data.npz", "w", method) as archive:
        archive.writestr("images.npy", npy(np.zeros((2, 4, 4), np.uint8)))
    with pytest.raises(DataError, match=r"images in .* is packed by"):
        open_source(tmp_path / "data.npz").listing()


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (93, "zstandard"), (98, "PPMd"), (50, "method 50")])
def test_ways_to_pack_that_python_does_not_know_are_named(good_zip, method, name):
    data = good_zip.read_bytes()
    for start, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        position = data.rfind(start) + offset
        data = data[:position] + struct.pack("<H", method) + data[position + 2 :]
    good_zip.write_bytes(data)
    with pytest.raises(DataError, match=rf"b/2\.png in .* is packed by {name}"):
        ZipSource(good_zip).listing()


def test_an_encrypted_member_is_refused_in_one_line(good_zip):
    data = good_zip.read_bytes()
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.rfind(start) + offset
        data = data[:position] + bytes([data[position] | 1]) + data[position + 1 :]
    good_zip.write_bytes(data)
    with pytest.raises(DataError, match=r"b/2\.png in .* is encrypted: unpack it, and zip it again without a password"):
        ZipSource(good_zip).listing()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(text, version=1):
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


IMAGES, LABELS = npy(np.zeros((4, 6, 6), np.uint8)), npy(np.arange(4) % 2)


def shaped(shape):
    return header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode())


@limited
def test_arrays_that_would_need_more_memory_than_there_is(tmp_path):
    bombs = {
        "long header": {"images": header(b" " * UNPACKED, 2)},
        "header of 1.0": {"images": header(b" " * 65_000)},
        "nested labels": {"images": IMAGES, "labels": header(b"(" * 5000)},
        "wide labels": {"images": IMAGES, "labels": npy(np.zeros((4,), f"U{UNPACKED // 16}"))},
        "many rows": {"images": shaped((90_000_000, 1, 1))},
        "large rows": {"images": shaped((2, 90_000, 90_000))},
        "negative rows": {"images": shaped((-2, 9, 9))},
        "many labels": {"images": IMAGES, "labels": shaped((90_000_000,))},
    }
    paths = [npz(tmp_path / f"{name}.npz", {"labels": LABELS, **members}) for name, members in bombs.items()]
    assert all(path.stat().st_size < 1_000_000 for path in paths)
    for (name, how), seen in messages(*paths).items():
        if how == "predict" and "labels" in name:
            assert seen == ""
        else:
            assert "\n" not in seen
            assert "limit of" in seen or "cannot be read" in seen or "cut short" in seen, (name, seen)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.binary(max_size=60), st.text("{}()'[],:0123456789 -descr|u1<>shapefortn_xTrueL\n").map(str.encode)
    )
)
def test_any_header_is_read_or_refused_in_one_line(tmp_path, text):
    path = npz(tmp_path / "data.npz", {"images": header(text), "labels": LABELS})
    with pytest.raises(DataError) as caught:
        open_source(path).listing()
    assert "\n" not in str(caught.value)


def bomb(kind, side):
    """Return a small file whose header claims `side` x `side` pixels."""
    stream = io.BytesIO()
    Image.new("L" if kind != "WEBP" else "RGB", (16, 16)).save(stream, kind)
    data = bytearray(stream.getvalue())
    if kind == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
        position = data.index(b",")
        data[position + 5 : position + 9] = struct.pack("<HH", side, side)
    elif kind == "TIFF":
        for tag in (256, 257):
            position = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[position : position + 4] = struct.pack("<I", side)
    elif kind == "JPEG":
        position = data.index(b"\xff\xc0") + 5
        data[position : position + 4] = struct.pack(">HH", side, side)
    elif kind == "JPEG2000":
        for position in (data.index(b"\xff\x51") + 6, data.index(b"ihdr") + 4):
            data[position : position + 8] = struct.pack(">II", side, side)
    elif kind == "WEBP":
        canvas = struct.pack("<I", side - 1)[:3] * 2
        data = data[:12] + b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + data[12:]
        data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


@limited
def test_images_of_too_many_pixels(tmp_path):
    kinds = {"PNG": 30_000, "BMP": 30_000, "GIF": 30_000, "TIFF": 30_000, "JPEG": 30_000, "JPEG2000": 30_000,
             "WEBP": 16_000}  # fmt: skip
    for number, (kind, side) in enumerate(kinds.items()):
        file = tmp_path / "set" / "ab"[number % 2] / f"{kind}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bomb(kind, side))
    seen = messages(tmp_path / "set")
    assert seen["set", "train"].startswith("7 of 7 images cannot be read")
    assert sorted(line.split(" mega")[0] for line in seen["set", "predict"].splitlines()) == ["256.0"] + ["900.0"] * 6


def test_a_tiff_whose_pages_form_a_circle_is_read_once(tmp_path):
    stream = io.BytesIO()
    pages = [Image.new("L", (8, 8), shade) for shade in (10, 20)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    data = bytearray(stream.getvalue())
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * count)[0]
    entries = struct.unpack_from("<H", data, second)[0]
    data[second + 2 + 12 * entries : second + 6 + 12 * entries] = struct.pack("<I", first)
    (tmp_path / "circle.tif").write_bytes(data)
    ((names, pixels, skipped),) = list(iter_images(tmp_path / "circle.tif", 8, 4))
    assert (len(names), skipped) == (1, [])
    assert (pixels[0] == 10).all()

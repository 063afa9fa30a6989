"""Every suffix opens, other files are described, and damaged metadata cost no image."""

import io
import struct
import zlib
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from hpo.data.decode import decode, plain_image, silence_pillow
from hpo.data.formats import SUFFIXES, describe_content, is_image, size_of_plain_jpeg, without_metadata
from hpo.errors import DataError

LOSSY = {"jpg", "jpeg", "jpe", "jfif", "mpo", "avif"}


@pytest.fixture
def picture(noise):
    """Return a smooth picture, which lossy formats keep within a few grey levels."""
    return Image.fromarray(noise(0, (4, 4, 3))).resize((32, 32), Image.Resampling.BICUBIC)


def stored(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, content, checksum=None):
    crc = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunk(png, added, before=b"IDAT"):
    position = png.index(before) - 4
    return png[:position] + added + png[position:]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_every_suffix_is_written_and_decoded(picture, tmp_path, suffix):
    file = tmp_path / f"x.{suffix}"
    kind = {"pgm": "L", "pbm": "1"}.get(suffix, "RGB")
    image = picture.convert(kind)
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix in LOSSY else {}
    if suffix in ("gif", "jp2", "j2k", "jpx", "jpf", "j2c", "jpc", "dib"):
        options = {}
    form = {"jpx": "JPEG2000", "jpf": "JPEG2000", "dib": "DIB"}.get(suffix)
    image.save(file, form, **options)
    assert is_image(file.name)
    assert is_image(file.name.upper())
    expected = np.asarray((image.quantize(256) if suffix == "gif" else image).convert("RGB"))
    difference = np.abs(decode(file.read_bytes(), 32).astype(int) - expected)
    assert difference.mean() <= (3 if suffix in LOSSY or suffix == "gif" else 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_the_content_decides_and_not_the_suffix(picture, tmp_path, kind):
    (tmp_path / "x.jpg").write_bytes(stored(picture, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(decode((tmp_path / "x.jpg").read_bytes(), 32), np.asarray(picture))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html>\n<html><body>404", "an HTML page, as a failed download leaves it: download it again"),
        (b"\n <html lang='de'>", "an HTML page"),
        (b"\xef\xbb\xbf<!--" + b"<!---->" * 500 + b"<HTML>", "an HTML page"),
        (b"<!---->" * 5000, "a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"%PDF-1.7\n%\xe2", "a PDF: convert it"),
        (b"\x00\x00\x00\x18ftypheic\0\0\0\0mif1heic", "a HEIC image: convert it"),
        (b"\x00\x00\x00\x18ftypmp42\0\0\0\0", "a video"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "an SVG drawing"),
        (b"PK\x03\x04\x14\0", "a zip: unpack it"),
        (b"\0" * 128 + b"DICM", "a DICOM file"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"\0" * 9000, "nothing but zeros"),
        (b"{'error': 'not found'}", "a text"),
        (bytes(range(200, 256)), "not an image of a known format (jpg, "),
    ],
)
def test_files_that_are_not_images_are_described(content, words):
    with pytest.raises(DataError) as caught:
        decode(content, 8)
    assert words in str(caught.value)
    assert str(caught.value).startswith("not an image of a known format")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "PPM"])
def test_the_first_bytes_of_an_image_are_reported_as_damaged_not_unknown(picture, kind):
    assert "damaged" in describe_content(stored(picture, kind)[:16])


TEXT = zlib.compress(b"x" * 3_000_000)
PROFILE = b"odd\0\0" + zlib.compress(b"\0" * 3_000_000)


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    "added",
    [
        chunk(b"zTXt", b"Comment\0\0" + TEXT),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + TEXT),
        chunk(b"iTXt", b"Comment"),
        chunk(b"zTXt", b"Comment\0\7" + TEXT),
        chunk(b"zTXt", b"Comment\0\0rubbish"),
        chunk(b"tEXt", b"Comment\0" + b"y" * 2_000_000),
        b"".join(chunk(b"zTXt", f"Key{n}".encode() + b"\0\0" + zlib.compress(b"x" * 1_000_000)) for n in range(80)),
        chunk(b"tEXt", b"Comment\0text", checksum=1),
        chunk(b"iCCP", PROFILE),
        chunk(b"iCCP", b"odd\0\0rubbish"),
        chunk(b"iCCP", b""),
        chunk(b"eXIf", b"rubbish"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff\xff\xff"),
        chunk(b"eXIf", b"", checksum=2),
        chunk(b"gAMA", b"\0"),
        chunk(b"cHRM", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"pHYs", b"\0"),
        chunk(b"tIME", b"\0"),
        chunk(b"prVt", b"anything", checksum=3),
    ],
    ids=lambda value: f"{value[4:8].decode()}-{len(value)}-{zlib.crc32(value) % 1000}" if len(value) > 5 else None,
)
def test_metadata_of_a_png_change_no_pixel_and_cost_no_image(picture, added, before):
    png = stored(picture)
    with silence_pillow():
        assert np.array_equal(decode(with_chunk(png, added, before), 16), decode(png, 16))


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0rubbish12345",
        b"\xff\xe1" + struct.pack(">H", 16) + b"Exif\0\0MM\0*\xff\xff\xff\xff"[:14],
        b"\xff\xe2" + struct.pack(">H", 16) + b"ICC_PROFILE\0\x09"[:14] + b"\0",
        b"\xff\xe2" + struct.pack(">H", 14) + b"ICC_PROFILE\0",
        b"\xff\xe0" + struct.pack(">H", 7) + b"JFIF\0",
        b"\xff\xee" + struct.pack(">H", 7) + b"Adobe",
        b"\xff\xed" + struct.pack(">H", 22) + b"Photoshop 3.0\x008BIM\x04\x04",
        b"\xff\xe2" + struct.pack(">H", 12) + b"MPF\0rubbis",
        b"\xff\xed" + struct.pack(">H", 24) + b"Photoshop 3.0\x008BIM\xff\xff\xff\xff",
        b"\xff\xee" + struct.pack(">H", 6) + b"Adob",
        b"\xff\xfe" + struct.pack(">H", 2),
    ],
)
def test_metadata_of_a_jpeg_cost_no_image(picture, segment):
    jpeg = stored(picture, "JPEG")
    with silence_pillow():
        assert np.array_equal(decode(jpeg[:2] + segment + jpeg[2:], 16), decode(jpeg, 16))


def test_the_orientation_survives_the_loss_of_other_metadata(picture):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for kind in ("PNG", "JPEG"):
        whole = stored(picture, kind, exif=exif)
        assert np.array_equal(decode(without_metadata(whole), 32), decode(whole, 32))
    bad = with_chunk(stored(picture, exif=exif), chunk(b"zTXt", b"Comment\0\0" + TEXT))
    assert np.array_equal(decode(bad, 32), np.rot90(np.asarray(picture), 2))


@pytest.mark.parametrize("keep", [40, 60, 0.5, 0.9])
def test_a_png_that_is_cut_short_stays_unreadable(noise, keep):
    png = with_chunk(stored(Image.fromarray(noise(0, (64, 64, 3)))), chunk(b"tEXt", b"a\0b", checksum=1))
    with pytest.raises(DataError, match="truncated or damaged"):
        decode(png[: int(keep if keep > 1 else keep * len(png))], 8)


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_page_is_taken_and_pages_are_counted(kind, options):
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = stored(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    with plain_image(data) as image:
        assert image.pages == 3
        assert (image.centre_square(8) == (255, 0, 0)).all()


def test_a_damaged_later_page_costs_no_image():
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    data = stored(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with plain_image(data[:-30]) as image:
        assert (image.centre_square(8) == (255, 0, 0)).all()


def test_huge_texts_are_not_let_into_memory_by_a_raised_limit():
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 2**20
    assert PngImagePlugin.MAX_TEXT_MEMORY <= 2**26


def test_a_jpeg_is_plain_without_metadata_in_three_channels():
    colours = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6

    def written(image, **options):
        file = io.BytesIO()
        image.save(file, format="jpeg", **options)
        return file.getvalue()

    plain = written(colours, comment=b"made here")
    assert size_of_plain_jpeg(plain) == (30, 20)
    for other in (
        written(colours, exif=exif), written(colours.convert("L")), written(colours.convert("CMYK")),
        written(colours, icc_profile=b"a profile"), plain[:20], plain[1:], b"", b"\xff\xd8\xff",
    ):  # fmt: skip
        assert size_of_plain_jpeg(other) is None


@given(st.text("abc./jpgPN g", max_size=12))
def test_a_suffix_is_what_pathlib_takes_for_one(name):
    assert is_image(name.rstrip("/")) == (PurePosixPath(name.rstrip("/")).suffix.lower()[1:] in SUFFIXES)

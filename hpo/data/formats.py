"""Image files: one table of formats for suffixes, decoders and messages; descriptions of files that are not images.

Also a PNG or JPEG without its metadata.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import features

_KINDS: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("JPEG", ("jpg", "jpeg", "jpe", "jfif", "mpo"), None),
    ("PNG", ("png", "apng"), None),
    ("TIFF", ("tif", "tiff"), None),
    ("WEBP", ("webp",), "webp"),
    ("BMP", ("bmp",), None),
    ("GIF", ("gif",), None),
    ("PPM", ("ppm", "pgm", "pbm", "pnm"), None),
    ("AVIF", ("avif",), "avif"),
    ("JPEG2000", ("jp2", "j2k", "jpx", "jpf", "j2c", "jpc"), "jpg_2000"),
    ("DIB", ("dib",), None),
)
"""Pillow's name of a format, the suffixes of its files, and the feature that Pillow must be built with for it."""


def _is_built_in(feature: str | None) -> bool:
    return feature is None or (feature in (*features.modules, *features.codecs) and bool(features.check(feature)))


_AVAILABLE = [(name, suffixes) for name, suffixes, feature in _KINDS if _is_built_in(feature)]

PILLOW_FORMATS = tuple(name for name, _ in _AVAILABLE)
"""The formats that `Image.open` tries, whatever the suffix of a file."""

SUFFIXES = tuple(suffix for _, suffixes in _AVAILABLE for suffix in suffixes)
"""The suffixes of image files, in lower case and without a dot."""

_KNOWN_SUFFIXES = frozenset(SUFFIXES)

_DAMAGED: tuple[tuple[bytes, str], ...] = (
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|BM....\0\0\0\0|P[1-6]\s",
        "truncated or damaged (its header cannot be read)",
    ),
    (rb"II[*+]\0|MM\0[*+]", "damaged, or a kind of TIFF that cannot be read: save it as PNG"),
)
"""The first bytes of image files, to describe those that cannot be decoded."""

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"(?=\s*<).*?<(!doctype\s+html|html|head|body)\b", "an HTML page, as a failed download leaves it: {again}"),
    (rb"(?=\s*<).*?<svg\b", "an SVG drawing: {convert}"),
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer and not the file itself: run git lfs pull"),
    (rb"\s*<\?xml", "an XML file: remove it"),
    (rb"%PDF-", "a PDF: {convert}"),
    (rb"%!PS", "a PostScript file: {convert}"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "a HEIC image: {convert}"),
    (rb"....ftypavi[fs]", "an AVIF image that is damaged, or that this Pillow cannot read: {convert}"),
    (rb"....ftyp", "a video: save its frames as images"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image: {convert}"),
    (
        rb"(\x00\x00\x00\x0cjP|\xff\x4f\xff\x51)",
        "a JPEG 2000 image that is damaged, or that this Pillow cannot read: {convert}",
    ),
    (rb".{128}DICM", "a DICOM file: {convert}"),
    (rb"8BPS", "a Photoshop file: {convert}"),
    (rb"v/1\x01", "an OpenEXR image: {convert}"),
    (rb"P[fF]\s", "a PFM image of floats without a known range: save it with 8 or 16 bits"),
    (rb"SIMPLE  =", "a FITS file: {convert}"),
    (rb"\x93NUMPY", "a NumPy array (.npy): save arrays as one .npz, see docs/data.md"),
    (rb"\x89HDF", "an HDF5 file: {convert}"),
    (rb"PK\x03\x04", "a zip: unpack it"),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a packed file: unpack it"),
    (rb"\x00+\Z", "nothing but zeros, as a failed copy leaves it: {again}"),
    (rb"[\t\n\r\x20-\x7e]+\Z", "a text: remove it"),
)
"""The first bytes of other files, with their descriptions; the first match counts."""

HEAD_BYTES = 4096
"""The number of first bytes that tell the type of a file."""

_WAYS_OUT = {"again": "download it again", "convert": "convert it to PNG or JPEG"}

_PNG = b"\x89PNG\r\n\x1a\n"

_ADOBE_BYTES = 16
"""The size of a whole segment that names the colours of a JPEG."""

_SCAN, _FRAMES = 0xDA, (0xC0, 0xC1, 0xC2)

_PLAIN_MARKERS = frozenset({_SCAN, *_FRAMES, 0xC4, 0xDB, 0xDD, 0xE0, 0xFE})
"""Frame and scan, tables, restart interval, JFIF, comment."""

_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def is_image(name: str) -> bool:
    """Return whether a file of this name is read as an image."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return bool(stem) and suffix.lower() in _KNOWN_SUFFIXES


def describe_content(data: bytes) -> str:
    """Describe, with the way out, a file that begins with `data` and that no decoder can read."""
    head = data[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf")
    for pattern, words in _DAMAGED:
        if re.match(pattern, head, re.DOTALL):
            return words
    for pattern, words in _OTHERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f"not an image of a known format but {words.format(**_WAYS_OUT)}"
    return f"not an image of a known format ({', '.join(SUFFIXES)})"


def describe_misnamed_file(data: bytes) -> str:
    """Describe, with the way out, a file that begins with `data` and has no suffix of an image."""
    words = describe_content(data)
    if words.startswith("not an image"):
        return words
    return f"looks like an image, but its name has none of the suffixes {', '.join(SUFFIXES)}: rename it"


def size_of_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG of 8 bits in three channels that holds no metadata but JFIF's and comments.

    None for other files: those with EXIF, several pictures, Adobe's colours or markers that are rare (JPEG, B.1.1.3).
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    size, position = None, 2
    while position + 10 <= len(data) and data[position] == 0xFF and data[position + 1] in _PLAIN_MARKERS:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SCAN:
            return size
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            if size or bits != 8 or channels != 3:
                return None
            size = (width, height)
        position += 2 + length
    return None


def without_metadata(data: bytes) -> bytes | None:
    """Return a PNG or JPEG without texts, profiles, thumbnails and all else but its pixels; None for other files.

    Whole EXIF data are kept, for the orientation. Other damage stays.
    """
    if data.startswith(_PNG):
        return _PNG + b"".join(_chunks(data))
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd8" + b"".join(_segments(data))
    return None


def _chunks(data: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG that make its pixels (PNG, 5.3), and EXIF if its checksum is right."""
    position = len(_PNG)
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        chunk = data[position:end]
        if kind in _PNG_PIXELS or (kind == b"eXIf" and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))):
            yield chunk
        position = end


def _segments(data: bytes) -> Iterator[bytes]:
    """Yield a JPEG after its first marker without comments and application data (JPEG, B.1.1.2).

    EXIF and Adobe's segment on colours are kept.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        marker, (length,) = data[position + 1], struct.unpack_from(">H", data, position + 2)
        segment = data[position : position + 2 + length]
        is_kept = segment[4:8] == b"Exif" or (segment[4:9] == b"Adobe" and len(segment) >= _ADOBE_BYTES)
        if is_kept or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            yield segment
        position += 2 + length
    yield data[position:]

"""A source of images in a zip."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock

from hpo.data import digests
from hpo.data.decode import refuse_long
from hpo.data.formats import is_image
from hpo.data.layout import arrange
from hpo.data.names import readable, shortened
from hpo.data.records import CHUNK, Listing, Read, is_hidden
from hpo.errors import DataError

FAULTS = (
    OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, RuntimeError,
)  # fmt: skip
"""The errors that zipfile raises on a damaged zip or member. A name with the flag for UTF-8 that is not UTF-8 raises
ValueError, an unknown version of the format NotImplementedError (a RuntimeError), a bad offset OSError."""

_METHODS = {
    zipfile.ZIP_STORED: "stored",
    zipfile.ZIP_DEFLATED: "deflated",
    9: "deflate64",
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
    93: "zstandard",
    95: "xz",
    98: "PPMd",
    99: "AES encryption",
}
"""Compression methods of a member (APPNOTE.TXT 4.4.5), of which the first two are read."""

_ENCRYPTED_FLAG = 0x1

MAX_MEMBERS = 10_000_000

_UTF8_FLAG = 0x800
"""Bit 11 of a member's flags: its name is in UTF-8 (APPNOTE.TXT 4.4.4); else it should be in code page 437."""


_PLAIN_FLAGS = _UTF8_FLAG | 0xE
"""Flags that change nothing for the reader: the effort of the compression, and sizes behind the content (bit 3)."""

_LOCAL_MAGIC = b"PK\x03\x04"

_LOCAL = struct.Struct("<4s2xH18xHH")
"""The header before the content of a member (APPNOTE.TXT 4.3.7): magic, flags, and the lengths of name and extra field.
"""

_SLACK = 512
"""The bytes that name and extra field may have together; those of few members are longer."""


@dataclass(frozen=True)
class ZipMember:
    """A visible file or folder of a zip."""

    name: str
    """Its path with `/` between the parts; bytes that are not UTF-8 are surrogates, as in file names."""
    info: zipfile.ZipInfo

    @property
    def is_image(self) -> bool:
        """Whether it is a file with the suffix of an image."""
        return not self.info.is_dir() and is_image(self.name)


class ZipSource:
    """A zip of class folders, or of train/ val/ test/ of them, by the rules of folders."""

    chunk = CHUNK

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _members(self) -> list[ZipMember]:
        with open_zip(self.path) as archive:
            return visible_members(archive)

    def key(self) -> str:
        """Return the digest of the zip's own path and stamp."""
        return digests.of_file(self.path)

    def listing(self) -> Listing:
        """Return the listing by the rules of `arrange`, with records in the order of a walk through the same folder."""
        files = [member.name for member in self._members if not member.info.is_dir()]
        folders = {folder for member in self._members for folder in _folders_of(member)}
        return arrange(files, sorted(folders), str(self.path))

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """Yield the reads while the zip is open; members are read one at a time, in any thread."""
        with open_zip(self.path) as archive:
            yield member_reads(archive, [member.info for member in self._members if member.is_image])


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip. Raise DataError if it is not a readable one."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): mend its permissions") from None
    try:
        return zipfile.ZipFile(path)
    except FAULTS as error:
        raise DataError(f"{path} is not a readable zip ({error}): copy or download it again") from None


def visible_members(archive: zipfile.ZipFile) -> list[ZipMember]:
    """Return the files and folders of a zip in the order of a walk, without hidden ones.

    Raise DataError for a name that leads out of the zip, for an image that is there twice and for an unsupported
    compression method.
    """
    if len(archive.infolist()) > MAX_MEMBERS:
        raise DataError(
            f"{archive.filename} holds {len(archive.infolist())} files, more than the limit of {MAX_MEMBERS}: split it"
        )
    members = [ZipMember(_name(info, str(archive.filename)), info) for info in archive.infolist()]
    visible = [
        member for member in members if member.name and not any(is_hidden(level) for level in member.name.split("/"))
    ]
    images = [member for member in visible if member.is_image]
    refuse_twice([member.name for member in images], str(archive.filename))
    for member in images:
        refuse_packing(member.info, readable(member.name), str(archive.filename))
    return sorted(visible, key=lambda member: member.name.split("/"))


def _name(info: zipfile.ZipInfo, where: str) -> str:
    """Return the path of a member without `./` and a leading `/`."""
    name = info.filename
    if not info.flag_bits & _UTF8_FLAG:
        # Many programs forget the flag, so UTF-8 is tried first. Other bytes are kept, since their encoding is unknown.
        name = name.encode("cp437").decode(errors="surrogateescape")
    # Some programs write `\` between the parts of a path.
    levels = [level for level in name.replace("\\", "/").split("/") if level not in ("", ".")]
    if ".." in levels:
        raise DataError(f"{readable(name)} in {where} leads out of the zip: zip the folder again")
    return "/".join(levels)


def refuse_twice(names: Sequence[str], where: str) -> None:
    """Raise DataError if a file name occurs more than once in a zip."""
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(
            f"{where} holds two files of one name ({readable(shortened(twice))}), but it cannot be known which is "
            "meant: zip the folder again"
        )


def refuse_packing(info: zipfile.ZipInfo, name: str, where: str) -> None:
    """Raise DataError for a member that is encrypted, or compressed other than stored or deflated."""
    if info.flag_bits & _ENCRYPTED_FLAG:
        raise DataError(f"{name} in {where} is encrypted: unpack it, and zip it again without a password")
    # The other methods cannot be unpacked in blocks of a bounded size: some kilobytes would take gigabytes of memory.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise DataError(
            f"{name} in {where} is packed by {method}, but only stored and deflated files are read: zip it again, "
            "as `zip -r` does"
        )


def member_reads(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> Iterator[Read]:
    """Return one read per member."""
    lock = Lock()  # the archive's count of open members is not safe in threads

    def reader(member: zipfile.ZipInfo) -> Read:
        def read() -> bytes:
            refuse_long(member.file_size)
            content = _read_at_once(archive, member)
            if content is not None:
                return content
            try:
                # Read with a limit, because a member can hold any amount more than its size says, and all of it would
                # be unpacked first. A longer member fails its checksum.
                with lock, archive.open(member) as stream:
                    return stream.read(member.file_size + 1)
            except FAULTS as error:
                raise DataError(f"damaged in the zip ({error})") from None

        return read

    return map(reader, members)


def _read_at_once(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    """Return the content of a member by one read, in any thread; None where anything about it is not as it should be.

    What `zipfile` reads in several layers takes four times as long, as much as a third of decoding a small image. It
    reads what is refused here, or says what is wrong.
    """
    size, packed = member.file_size, member.compress_size
    if archive.fp is None or member.flag_bits & ~_PLAIN_FLAGS or packed > size + size // 100 + _SLACK:
        return None
    try:
        stored = os.pread(archive.fp.fileno(), _LOCAL.size + _SLACK + packed, member.header_offset)
        magic, flags, name_length, extra_length = _LOCAL.unpack_from(stored)
        name = stored[_LOCAL.size : _LOCAL.size + name_length]
        begin = _LOCAL.size + name_length + extra_length
        if magic != _LOCAL_MAGIC or name.decode("utf-8" if flags & _UTF8_FLAG else "cp437") != member.orig_filename:
            return None
        content = stored[begin : begin + packed]
        if member.compress_type == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except (OSError, ValueError, struct.error, zlib.error):
        return None
    return content if len(content) == size and zlib.crc32(content) == member.CRC else None


def _folders_of(member: ZipMember) -> list[str]:
    """Return every folder above a member, and the member itself if it is a folder."""
    levels = member.name.split("/")
    return ["/".join(levels[:count]) for count in range(1, len(levels) + member.info.is_dir())]

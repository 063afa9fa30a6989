"""Images in a zip."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock

from hpo.data import digests
from hpo.data.decode import refuse_long
from hpo.data.layout import arrange
from hpo.data.records import CHUNK, PART_OF, Listing, Read, is_hidden, is_image
from hpo.errors import DataError

_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What a damaged, encrypted or strangely compressed member raises."""


class ZipSource:
    """A zip of class folders, or of train/ val/ test/ of them; one folder around everything is looked through."""

    chunk = CHUNK

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _members(self) -> list[zipfile.ZipInfo]:
        with open_zip(self.path) as archive:
            return visible_members(archive)

    def key(self) -> str:
        """Digest of the zip's own path, size and time."""
        return digests.of_file(self.path)

    def listing(self) -> Listing:
        """Classes are the folders' names, sorted; records are sorted by their path in the zip."""
        members = self._members
        files = [_posix(member) for member in members if not member.is_dir()]
        folders = {parent for member in members for parent in _parents(_posix(member))}
        around = _folder_around(files)
        inner = [folder.removeprefix(around) for folder in folders if folder.startswith(around)]
        return arrange([file.removeprefix(around) for file in files], inner, str(self.path), prefix=around)

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """The zip is held open; its members are read one at a time, in whichever thread."""
        with open_zip(self.path) as archive:
            yield member_reads(archive, [member for member in self._members if not member.is_dir()])


def open_zip(path: Path) -> zipfile.ZipFile:
    """The opened zip; DataError where it is none."""
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): mend its permissions") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} is not a readable zip ({error}): copy or download it again") from None


def visible_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Images and folders of a zip, sorted by path; hidden ones are left out."""
    members = [member for member in archive.infolist() if member.is_dir() or is_image(member.filename)]
    return sorted(
        (member for member in members if not any(map(is_hidden, _posix(member).split("/")))),
        key=lambda member: member.filename,
    )


def member_reads(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo]) -> Iterator[Read]:
    """One read per member. A lock guards the archive: its count of open members is not safe in threads."""
    lock = Lock()

    def reader(member: zipfile.ZipInfo) -> Read:
        def read() -> bytes:
            refuse_long(member.file_size)
            try:
                with lock:
                    return archive.read(member)
            except _FAULTS as error:
                raise DataError(f"damaged in the zip ({error})") from None

        return read

    return map(reader, members)


def _posix(member: zipfile.ZipInfo) -> str:
    """The path of a member; some programs write `\\` between its parts."""
    return member.filename.replace("\\", "/")


def _parents(name: str) -> list[str]:
    """Every folder above `name`, itself where it ends in `/`."""
    levels = name.split("/")[:-1]
    return ["/".join(levels[: count + 1]) for count in range(len(levels))]


def _folder_around(files: Sequence[str]) -> str:
    """The path, with its `/`, of the folders that hold everything and are neither a class nor a part."""
    around = ""
    while True:
        rests = [file.removeprefix(around).split("/") for file in files]
        tops = {rest[0] for rest in rests}
        if len(tops) != 1 or min(map(len, rests)) < 3 or tops.pop().lower() in PART_OF:
            return around
        around += rests[0][0] + "/"

"""Images in folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from hpo.data import digests
from hpo.data.decode import refuse_long
from hpo.data.layout import arrange
from hpo.data.records import CHUNK, Listing, Read, is_hidden, is_image
from hpo.errors import DataError


@dataclass(frozen=True, slots=True)
class Found:
    """A file or folder below a folder."""

    name: str
    """Path relative to that folder, with `/`."""
    is_folder: bool
    stamp: str
    """Size in bytes and time of the last change in ns; empty for a folder."""


class FolderSource:
    """A folder of class folders, or of train/ val/ test/ of them; links are followed, a circle of them once."""

    chunk = CHUNK

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _found(self) -> list[Found]:
        return list(walk(self.path))

    @cached_property
    def _files(self) -> list[str]:
        return [found.name for found in self._found if not found.is_folder]

    def key(self) -> str:
        """Digest of every image's path, size and time."""
        lines = (f"{found.name}\0{found.stamp}" for found in self._found)
        return digests.of_lines([str(self.path.resolve()), *lines])

    def listing(self) -> Listing:
        """Classes are the folders' names, sorted; records are in the order of the walk."""
        folders = [found.name for found in self._found if found.is_folder]
        return arrange(self._files, folders, str(self.path))

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """Each read opens one file."""
        yield (partial(read_file, self.path / name) for name in self._files)


def read_file(path: Path) -> bytes:
    """The bytes of an image file; DataError where there are too many of them."""
    refuse_long(path.stat().st_size)
    return path.read_bytes()


def walk(folder: Path) -> Iterator[Found]:
    """Images and folders below a folder, sorted within each; hidden ones are left out."""
    return _walk(folder, "", ())


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
    """`above` holds (device, inode) of the folders that lead here: a link back to one of them is not followed."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield Found(prefix + entry.name, True, "")
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        elif is_image(entry.name):
            yield Found(prefix + entry.name, False, _stamp(entry))


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except PermissionError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}): mend its permissions") from None


def _stamp(entry: os.DirEntry[str]) -> str:
    """Size and time; of the link itself where it leads nowhere, so that the reason comes up when it is read."""
    try:
        status = entry.stat()
    except FileNotFoundError:
        status = entry.stat(follow_symlinks=False)
    return f"{status.st_size} {status.st_mtime_ns}"

"""A source of images in folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from hpo.data import digests
from hpo.data.decode import refuse_long
from hpo.data.formats import is_image
from hpo.data.layout import arrange, left_out_files
from hpo.data.names import readable
from hpo.data.records import CHUNK, Listing, Read, is_hidden
from hpo.errors import DataError


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A file or folder below a folder."""

    name: str
    """Path relative to that folder, with `/` between its parts."""
    is_folder: bool
    stamp: str
    """`digests.stamp` of the file; empty for a folder."""

    @property
    def is_image(self) -> bool:
        """Whether it is a file with the suffix of an image."""
        return not self.is_folder and is_image(self.name)


class FolderSource:
    """A folder of class folders, or of train/ val/ test/ of them. Links are followed, a circle of links once."""

    chunk = CHUNK

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _found(self) -> list[FolderEntry]:
        return list(walk(self.path))

    @cached_property
    def _images(self) -> list[str]:
        return [found.name for found in self._found if found.is_image]

    def key(self) -> str:
        """Return the digest of every image's path and stamp, of the folders, and of the left-out files by kind."""
        lines = (f"{found.name}\0{found.stamp}" for found in self._found if found.is_image or found.is_folder)
        others = left_out_files(found.name for found in self._found if not found.is_folder and not found.is_image)
        left_out = (f"{entry.kind}\0{entry.count}" for entry in others)
        return digests.of_lines([str(self.path.resolve()), *lines, *left_out])

    def listing(self) -> Listing:
        """Return the listing by the rules of `arrange`, with records in the order of the walk."""
        folders = [found.name for found in self._found if found.is_folder]
        return arrange([found.name for found in self._found if not found.is_folder], folders, str(self.path))

    @contextmanager
    def reads(self) -> Iterator[Iterator[Read]]:
        """Yield the reads; each opens one file."""
        yield (partial(read_file, self.path / name) for name in self._images)


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file. Raise DataError if it is too large or not an ordinary file."""
    if "\0" in str(path):
        raise DataError("no path of a file: it holds a null byte")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not an ordinary file, but a folder, pipe, socket or device")
    refuse_long(status.st_size)
    return path.read_bytes()


def walk(folder: Path) -> Iterator[FolderEntry]:
    """Yield the files and folders below a folder, sorted within each, without hidden ones."""
    return _walk_below(folder, "", ())


def _walk_below(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[FolderEntry]:
    """Walk one folder. `above` holds (device, inode) of the folders above: a link back to one is not followed."""
    entries, here = _visible(folder)
    if here in above:
        return
    for entry in entries:
        if _is_folder(entry):
            yield FolderEntry(prefix + entry.name, True, "")
            yield from _walk_below(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        else:
            yield FolderEntry(prefix + entry.name, False, _stamp(folder, entry))


def _visible(folder: Path) -> tuple[list[os.DirEntry[str]], tuple[int, int]]:
    """Return the visible entries of a folder, sorted by name, and the folder's (device, inode)."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise _unlistable(folder, error) from None
    return visible, (status.st_dev, status.st_ino)


def _unlistable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{readable(str(folder))} cannot be listed ({error.strerror}): mend its permissions")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself counts as a file: reading it gives the reason
        return False


def _stamp(folder: Path, entry: os.DirEntry[str]) -> str:
    try:
        try:
            status = entry.stat()
        except OSError:  # a broken link: its own stamp serves, and reading it gives the reason
            status = entry.stat(follow_symlinks=False)
    except OSError as error:  # the folder may be listed, but not entered
        raise _unlistable(folder, error) from None
    return digests.stamp(status)

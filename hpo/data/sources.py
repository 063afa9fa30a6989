"""Which kind of source lies at a path."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpo.data.archives import ZipSource
from hpo.data.arrays import ArraySource
from hpo.data.folders import FolderSource
from hpo.data.records import Source
from hpo.data.tables import TableSource
from hpo.errors import DataError

_KINDS: dict[str, type[ZipSource] | type[ArraySource] | type[TableSource]] = {
    ".zip": ZipSource,
    ".npz": ArraySource,
    ".csv": TableSource,
}


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source at a path, nothing read yet; DataError where there is nothing, or nothing of a known kind."""
    path = existing(path)
    if path.is_dir():
        return FolderSource(path)
    if kind := _KINDS.get(path.suffix.lower()):
        return kind(path)
    raise DataError(f"{path} is a file, but must be a folder of class folders, or a .zip, .npz or .csv file")


def existing(path: str | os.PathLike[str]) -> Path:
    """The path; DataError where nothing is there, or neither a folder nor an ordinary file."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist: give the path of a folder, or of a .zip, .npz or .csv file") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be reached ({error.strerror}): mend the link, or the permissions of the folders above it"
        ) from None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise DataError(f"{path} is a pipe, socket or device, but must be a folder or an ordinary file: copy it to one")
    return path

"""Which kind of source lies at a path."""

from __future__ import annotations

import os
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
    """The path; DataError where nothing is there."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give the path of a folder, or of a .zip, .npz or .csv file")
    return path

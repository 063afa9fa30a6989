"""What keeps its name after a loss of power. The package `storage` has its own, since it knows nothing of this one.

Folders and files that appear whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; a rename is durable only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Make `out` a folder of exactly `files`, replacing the folder that is there.

    The new folder is complete and on the disk before it gets its name. A kill between the two renames of a
    replacement leaves `out` missing, with old and new whole beside it under hidden names.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        fresh.chmod(0o777 & ~_umask())
        for name, content in files.items():
            _write_through(fresh / name, content)
        sync_folder(fresh)
        _swap(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    sync_folder(out.parent)


def write_file(path: Path, text: str) -> None:
    """Replace the file `path` by `text` in UTF-8, atomically."""
    with open_whole_file(path) as file:
        file.write(text)


@contextmanager
def open_whole_file(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """A text file (UTF-8) that becomes `path` once the block ends, and not at all after an exception.

    `errors` is what becomes of characters that UTF-8 cannot hold, as in `open`.
    """
    path = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="", errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o666 & ~_umask())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(fresh: Path, out: Path) -> None:
    """Give `fresh` the name `out`; what had it goes only after that, and gets its name back if that fails."""
    if not out.exists() or not any(out.iterdir()):
        fresh.rename(out)
        return
    old = fresh.with_suffix(".old")
    out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _umask() -> int:
    """The process's umask, which temporary files ignore."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

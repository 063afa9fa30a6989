"""Files and folders that appear whole or not at all, locks between processes, and lines that are never lost.

Everything is written under a hidden temporary name beside its place, synced to the disk and then renamed. The umask
decides who may read it (0666 or 0777 without the umask's bits), as for any file that a program makes; what is shared
is therefore readable by those who share it. The package `storage` has its own such functions, since it does not import
hpo.
"""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO


def write_file(path: Path, content: str | bytes) -> None:
    """Replace the file `path` by `content` (text as UTF-8, its line ends as they are), atomically."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` when the block ends, and that is discarded after an exception.

    A symbolic link stays a link: the file that it names is replaced.
    """
    path = path.resolve()
    temporary = _temporary_name(path)
    try:
        # "x" makes the file with 0666 less the umask, as tempfile would not: no umask has to be read, which two
        # threads could not do at once.
        with temporary.open("xb") as file:
            yield file
            _sync(file)
        rename_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_text_file(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """Yield a text file (UTF-8) that replaces `path` when the block ends, as `atomic_file` does.

    `errors` says how characters that UTF-8 cannot hold are written, as in `open`.
    """
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", errors=errors)
        yield text
        text.flush()
        text.detach()


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Make `out` a folder of exactly `files`, replacing the folder that is there, as `atomic_folder` does."""
    with atomic_folder(out) as folder:
        for name, content in files.items():
            write_new_file(folder / name, [content])


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `out` when the block ends, and that is removed after an exception.

    The files in it are to be written with `write_new_file`, so that they are on the disk before the folder gets its
    name. A kill between the two renames of a replacement leaves `out` missing, with old and new whole beside it under
    hidden names.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(out)
    try:
        temporary.mkdir()
        yield temporary
        sync_folder(temporary)
        _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(out.parent)


def write_new_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that must not exist yet, and sync it to the disk."""
    with write_new_file_by(path) as file:
        for chunk in chunks:
            file.write(chunk)


@contextmanager
def write_new_file_by(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that must not exist yet, and sync it to the disk when the block ends."""
    # Plain writes, because a full disk under a writable memory map kills the process.
    with path.open("xb") as file:
        yield file
        _sync(file)


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, made where it is missing; the line is on the disk when this returns.

    Several processes and threads may append at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END) and _last_byte(file.fileno()) != b"\n":
            file.write(b"\n")  # the writer before was killed within its line
        file.write(line.encode() + b"\n")
        _sync(file)
    if is_new:
        sync_folder(path.parent)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes and threads, waiting for it; a folder, or a file that is made if missing.

    The kernel releases the lock of a process that dies, so a crashed process never blocks others.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def rename_durably(source: Path, target: Path) -> None:
    """Give `source` the name `target` in the same folder, replacing an existing file, and sync the folder."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; a rename is durable only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _swap(new: Path, out: Path) -> None:
    """Rename `new` to `out`; a folder of that name is removed only after that, and gets its name back if it fails."""
    if not out.exists() or not any(out.iterdir()):
        new.rename(out)
        return
    old = new.with_suffix(".old.tmp")
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _last_byte(descriptor: int) -> bytes:
    return os.pread(descriptor, 1, os.fstat(descriptor).st_size - 1)

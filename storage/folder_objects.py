"""FolderObjects: objects as files below a folder."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.durable import make_folder, sync_folder, write_synced
from storage.errors import CheckpointError, DiskFullError, StoreUnavailableError
from storage.objects import StoredObject

_FULL = (errno.ENOSPC, errno.EDQUOT)


class FolderObjects:
    """An object's key is its file's path below `root`. A file gets its name once it is whole and on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.place = str(root)

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        """Write a file beside its place and rename it. DiskFullError on ENOSPC and EDQUOT, else CheckpointError."""
        path = self._root / key
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with self._explained(path.parent):
            make_folder(path.parent)
            try:
                write_synced(draft, content) if content else draft.touch()  # nothing in an empty file can be lost
                draft.rename(path)
            finally:
                with suppress(OSError):  # the fault that led here is the one to tell
                    draft.unlink(missing_ok=True)
            if settled:
                sync_folder(path.parent)

    def get(self, key: str) -> bytes:
        """The file's bytes."""
        return (self._root / key).read_bytes()

    def list(self, prefix: str = "") -> list[StoredObject]:
        """All files below the folder `prefix`, those that are being written included."""
        return list(self._walk(self._root / prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and the folders that this leaves empty."""
        for key in keys:
            path = self._root / key
            with self._explained(path):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty, or removed by another
                for folder in path.parents[: len(Path(key).parts) - 1]:
                    folder.rmdir()

    def _walk(self, folder: Path) -> Iterator[StoredObject]:
        for parent, _, names in os.walk(folder, onerror=self._unreadable):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):  # removed or renamed while we looked
                    found = path.lstat()
                    yield StoredObject(path.relative_to(self._root).as_posix(), found.st_size, found.st_mtime)

    def _unreadable(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StoreUnavailableError(
                f"{error.filename or self._root} cannot be listed: {_reason(error)}; "
                "mend that, or name another folder with --artifacts"
            )

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = DiskFullError if error.errno in _FULL else CheckpointError
            raise kind(
                f"{error.filename or path} cannot be written: {_reason(error)}; "
                "make room or give write permission there, or name another folder with --artifacts"
            ) from error


def _reason(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)

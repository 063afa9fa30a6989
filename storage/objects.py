"""What checkpoints and bundles are written to: named objects in one place, each of them there whole or not at all.

FolderObjects: objects as files below a folder.

S3Objects: objects below a prefix of an S3 bucket, through optuna's artifact store. Needs the extra `s3`.

Endpoint, region and credentials come from boto3's own chain (AWS_ENDPOINT_URL_S3, AWS_PROFILE, a role, …).
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from storage.errors import CheckpointError, DiskFullError, StorageError, StoreUnavailableError
from storage.synced_files import make_folder, sync_folder, write_synced


@dataclass(frozen=True)
class StoredObject:
    """One object as a listing shows it."""

    key: str
    """Its name within the place, its parts joined by `/`."""
    size: int
    """Bytes."""
    modified: float
    """When it was written, by the clock of the place, in seconds since 1970."""


class ObjectStore(Protocol):
    """A folder, or a prefix in an S3 bucket.

    A fault of the place itself is a CheckpointError: DiskFullError where there is no room, StoreUnavailableError where
    nothing can be said of what it holds.
    """

    place: str
    """What a person knows it by: a path or a URL."""

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        """Write an object, replacing the one that is there; durable when it returns.

        Where `settled` is False it may become durable only with the next settled object of the same folder.
        """

    def get(self, key: str) -> bytes:
        """The object's bytes; OSError where it is missing or cannot be read."""

    def list(self, prefix: str = "") -> list[StoredObject]:
        """All objects whose key begins with `prefix`, which is empty or ends with `/`."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in this order; missing ones are passed over."""


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


SCHEME = "s3://"

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")

_S3_FULL = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage")
"""Error codes of S3 servers that have no room left; Amazon's never runs out of it."""

_PAGE = 1000  # objects; S3 lists no more at once

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


class S3Objects:
    """Every object appears whole or not at all, and a listing shows what was written before it: S3 promises both."""

    def __init__(self, location: str) -> None:
        bucket, self._prefix = split_location(location)
        try:
            from optuna.artifacts import Boto3ArtifactStore

            self._client = _client()
        except ImportError:
            raise StorageError(f"{location} needs boto3, which is not installed; pip install 'hpo[s3]'") from None
        self._bucket = bucket
        self._store = Boto3ArtifactStore(bucket, self._client, avoid_buf_copy=True)
        self.place = location.rstrip("/")

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        """Upload an object; it is durable then, `settled` or not."""
        with self._explained(StoreUnavailableError, key, "written"):
            self._store.write(self._prefix + key, io.BytesIO(content))

    def get(self, key: str) -> bytes:
        """The object's bytes; FileNotFoundError where it is missing, StoreUnavailableError when S3 does not answer."""
        from optuna.artifacts.exceptions import ArtifactNotFound

        with self._explained(StoreUnavailableError, key, "read"):
            try:
                return self._store.open_reader(self._prefix + key).read()
            except ArtifactNotFound:
                raise FileNotFoundError(2, "No such object", f"{self.place}/{key}") from None

    def list(self, prefix: str = "") -> list[StoredObject]:
        """All objects whose key begins with `prefix`."""
        with self._explained(StoreUnavailableError, prefix, "listed"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": _PAGE}
            )
            return [self._found(item) for page in pages for item in page.get("Contents", ())]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects."""
        for key in keys:
            with self._explained(CheckpointError, key, "removed"):
                self._store.remove(self._prefix + key)

    def _found(self, item: dict[str, Any]) -> StoredObject:
        return StoredObject(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].timestamp())

    @contextmanager
    def _explained(self, kind: type[CheckpointError], key: str, done: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            where = f"{self.place}/{key}".rstrip("/")
            reason = _PASSWORD.sub("", " ".join(str(error).split()))
            if any(code in reason for code in _S3_FULL):
                raise DiskFullError(f"{where} cannot be {done}: {reason}; make room there") from None
            raise kind(
                f"{where} cannot be {done}: {reason}; check the bucket, the network, and the AWS_… variables"
            ) from None


def split_location(location: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`, the prefix empty or ending with `/`; StorageError for what is none."""
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise StorageError(f"{location!r} names no place in S3; write s3://bucket/prefix")
    prefix = (match[2] or "").strip("/")
    return match[1], f"{prefix}/" if prefix else ""


def _client() -> Any:
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard"})  # seconds
    return boto3.session.Session().client("s3", config=config)


def open_objects(place: Path | str) -> ObjectStore:
    """The objects in a folder or under `s3://bucket/prefix`; StorageError for a URL that is none, or without boto3."""
    if is_url(place):
        return S3Objects(str(place))
    return FolderObjects(Path(place))


def is_url(place: Path | str) -> bool:
    """Whether `place` is in S3 rather than a folder."""
    return isinstance(place, str) and place.startswith(SCHEME)

"""Object stores for checkpoints and bundles: named objects in one place, each complete or absent.

FolderObjects: objects as files below a folder.

S3Objects: objects below a prefix of an S3 bucket, by boto3. Needs the extra `s3`.

This module needs no database library. Endpoint, region and credentials of S3 come from boto3's own chain
(AWS_ENDPOINT_URL_S3, AWS_PROFILE, a role, …).
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
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from storage.errors import CheckpointError, DiskFullError, StorageError, StoreUnavailableError
from storage.synced_files import make_folder, sync_folder, write_synced

SCHEME = "s3://"

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")

_FULL = (errno.ENOSPC, errno.EDQUOT)

# Error codes of S3 servers that have no room left; Amazon's has no limit.
_S3_FULL = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage")

_PAGE = 1000  # objects in one answer of S3, at most

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class StoredObject:
    """One object as a listing shows it."""

    key: str
    """Its name within the store; the parts are joined by `/`."""
    size: int
    """Bytes."""
    modified: float
    """When it was written, by the clock of the store, in seconds since 1970."""


class ObjectStore(Protocol):
    """A folder, or a prefix in an S3 bucket.

    A fault of the store itself is a CheckpointError: DiskFullError when there is no room, StoreUnavailableError when
    its content cannot be known.
    """

    place: str
    """Path or URL of the store."""

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        """Write an object, and replace the one that is there; it is durable on return.

        When `settled` is False it may become durable only with the next settled object of the same folder.
        """

    def get(self, key: str) -> bytes:
        """Return the object's bytes. Raises OSError when it is missing or cannot be read."""

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return all objects whose key begins with `prefix`, which is empty or ends with `/`."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in this order; missing ones are skipped."""


def open_objects(place: Path | str) -> ObjectStore:
    """Return the store in a folder or at `s3://bucket/prefix`. StorageError for an invalid URL, or without boto3."""
    if is_url(place):
        return S3Objects(str(place))
    return FolderObjects(Path(place))


def is_url(place: Path | str) -> bool:
    """Return whether `place` is in S3 rather than a folder."""
    return isinstance(place, str) and place.startswith(SCHEME)


def split_location(location: str) -> tuple[str, str]:
    """Return bucket and prefix of `s3://bucket/prefix`; the prefix is empty or ends with `/`.

    Raises StorageError for an invalid location.
    """
    match = _LOCATION.fullmatch(location)
    if match is None:
        raise StorageError(f"{location!r} names no place in S3; write s3://bucket/prefix")
    prefix = (match[2] or "").strip("/")
    return match[1], f"{prefix}/" if prefix else ""


class FolderObjects:
    """Objects as files: a key is the path below `root`. A file gets its name once it is complete and synced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.place = str(root)

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        """Write a temporary file and rename it. Raises DiskFullError on ENOSPC and EDQUOT, else CheckpointError."""
        path = self._root / key
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with self._translated(path.parent):
            make_folder(path.parent)
            try:
                write_synced(draft, content) if content else draft.touch()  # an empty file has no content to sync
                draft.rename(path)
            finally:
                with suppress(OSError):  # the first fault is the one to report
                    draft.unlink(missing_ok=True)
            if settled:
                sync_folder(path.parent)

    def get(self, key: str) -> bytes:
        """Return the file's bytes."""
        return (self._root / key).read_bytes()

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return all files below the folder `prefix`, temporary ones included."""
        return list(self._walk(self._root / prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and the folders that become empty."""
        for key in keys:
            path = self._root / key
            with self._translated(path):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty, or removed by another process
                for folder in path.parents[: len(Path(key).parts) - 1]:
                    folder.rmdir()

    def _walk(self, folder: Path) -> Iterator[StoredObject]:
        for parent, _, names in os.walk(folder, onerror=self._raise_unreadable):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):  # removed or renamed since it was listed
                    status = path.lstat()
                    yield StoredObject(path.relative_to(self._root).as_posix(), status.st_size, status.st_mtime)

    def _raise_unreadable(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StoreUnavailableError(
                f"{error.filename or self._root} cannot be listed: {_reason(error)}; "
                "mend that, or name another folder with --artifacts"
            )

    @contextmanager
    def _translated(self, path: Path) -> Iterator[None]:
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


class S3Objects:
    """Objects in an S3 bucket. S3 makes uploads atomic, and lists every object that was written before the listing."""

    def __init__(self, location: str) -> None:
        self._bucket, self._prefix = split_location(location)
        try:
            self._client = _client()
        except ImportError:
            raise StorageError(f"{location} needs boto3, which is not installed; pip install 'hpo[s3]'") from None
        self.place = location.rstrip("/")

    def put(self, key: str, content: bytes, *, settled: bool = True) -> None:
        """Upload an object; it is durable on return, whatever `settled` says."""
        with self._translated(StoreUnavailableError, key, "written"):
            self._client.upload_fileobj(io.BytesIO(content), self._bucket, self._prefix + key)

    def get(self, key: str) -> bytes:
        """Return the object's bytes. FileNotFoundError when it is missing, StoreUnavailableError when S3 fails."""
        from botocore.exceptions import ClientError

        with self._translated(StoreUnavailableError, key, "read"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if not _is_missing(error.response):
                    raise
                raise FileNotFoundError(2, "No such object", f"{self.place}/{key}") from None
            content: bytes = answer["Body"].read()
            return content

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Return all objects whose key begins with `prefix`."""
        with self._translated(StoreUnavailableError, prefix, "listed"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": _PAGE}
            )
            return [self._stored_object(item) for page in pages for item in self._contents(page, prefix)]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects."""
        for key in keys:
            with self._translated(CheckpointError, key, "removed"):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def _contents(self, page: dict[str, Any], prefix: str) -> Iterable[dict[str, Any]]:
        # botocore takes an answer that was cut before its first byte for an empty listing. A whole answer names the
        # bucket, also where it lists nothing.
        if "Name" not in page:
            raise StoreUnavailableError(
                f"{self.place}/{prefix}".rstrip("/") + " cannot be listed: the answer was cut; check the network"
            )
        contents: Iterable[dict[str, Any]] = page.get("Contents", ())
        return contents

    def _stored_object(self, item: dict[str, Any]) -> StoredObject:
        return StoredObject(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].timestamp())

    @contextmanager
    def _translated(self, kind: type[CheckpointError], key: str, done: str) -> Iterator[None]:
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


def _is_missing(response: dict[str, Any]) -> bool:
    """Return whether S3 answered that there is no such object; some servers give the HTTP status only."""
    code: str | None = response.get("Error", {}).get("Code")
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return code == "NoSuchKey" or status == 404


def _client() -> Any:
    import boto3
    from botocore.config import Config
    from botocore.session import Session

    core = Session()
    loader = _loader(core.get_config_variable("data_path"))
    core.register_component("data_loader", loader)
    session = boto3.session.Session(botocore_session=core)
    loader.search_paths[:] = dict.fromkeys(loader.search_paths)  # every session of boto3 appends its own folder
    config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard"})  # seconds
    return session.client("s3", config=config)


@cache
def _loader(data_path: str | None) -> Any:
    """Return botocore's reader of its descriptions of services: it keeps what it has read, which takes 0.2 s to read.

    Credentials, region and endpoint are still those of the moment in which a client is made.
    """
    from botocore.loaders import create_loader

    return create_loader(data_path)

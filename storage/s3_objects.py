"""S3Objects: objects below a prefix of an S3 bucket, through optuna's artifact store. Needs the extra `s3`.

Endpoint, region and credentials come from boto3's own chain (AWS_ENDPOINT_URL_S3, AWS_PROFILE, a role, …).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from storage.errors import CheckpointError, DiskFullError, StorageError, StoreUnavailableError
from storage.objects import StoredObject

SCHEME = "s3://"
_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_FULL = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage")
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
            if any(code in reason for code in _FULL):
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

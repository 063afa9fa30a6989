"""What checkpoints and bundles are written to: named objects in one place, each of them there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


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

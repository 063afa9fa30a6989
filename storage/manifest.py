"""Manifest: what a checkpoint consists of, with a checksum of every file and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.durable import write_synced
from storage.errors import CheckpointError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """SHA-256 (hex) by file name, and the writer's notes."""

    files: Mapping[str, str]
    info: Mapping[str, Any]

    @classmethod
    def of(cls, files: Mapping[str, bytes], info: Mapping[str, Any]) -> Manifest:
        """The manifest of files that are about to be written. TypeError when the notes are no JSON."""
        return cls({name: _digest(content) for name, content in files.items()}, json.loads(json.dumps(dict(info))))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`; CheckpointError when it is missing or not as it was written."""
        path = folder / MANIFEST
        try:
            stored = json.loads(_bytes(path))
            files, info, digest = stored["files"], stored["info"], stored["sha256"]
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(f"{path} is torn") from None
        manifest = cls(files, info)
        if manifest.digest() != digest:
            raise CheckpointError(f"{path} fails its checksum")
        return manifest

    def digest(self) -> str:
        """SHA-256 (hex) of the manifest's content."""
        return _digest(json.dumps({"files": self.files, "info": self.info}, sort_keys=True).encode())

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`, durably."""
        content = {"files": dict(self.files), "info": dict(self.info), "sha256": self.digest()}
        write_synced(folder / MANIFEST, json.dumps(content, indent=1).encode())

    def load(self, folder: Path) -> dict[str, bytes]:
        """The bytes of every file; CheckpointError for the first that is missing or fails its checksum."""
        return {name: _checked(folder / name, digest) for name, digest in self.files.items()}


def _checked(path: Path, digest: str) -> bytes:
    content = _bytes(path)
    if _digest(content) != digest:
        raise CheckpointError(f"{path} fails its checksum")
    return content


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

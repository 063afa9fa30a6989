"""Manifest: what a checkpoint consists of, with a checksum of every file and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    def parse(cls, content: bytes, source: str) -> Manifest:
        """The manifest that `source` holds; CheckpointError when it is not as it was written."""
        try:
            stored = json.loads(content)
            files, info, digest = stored["files"], stored["info"], stored["sha256"]
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(f"{source} is torn") from None
        manifest = cls(files, info)
        if manifest.digest() != digest:
            raise CheckpointError(f"{source} fails its checksum")
        return manifest

    def digest(self) -> str:
        """SHA-256 (hex) of the manifest's content."""
        return _digest(json.dumps({"files": self.files, "info": self.info}, sort_keys=True).encode())

    def to_bytes(self) -> bytes:
        """What `parse` reads."""
        content = {"files": dict(self.files), "info": dict(self.info), "sha256": self.digest()}
        return json.dumps(content, indent=1).encode()

    def check(self, name: str, content: bytes, source: str) -> bytes:
        """The content of file `name` as it was found at `source`; CheckpointError when it fails its checksum."""
        if _digest(content) != self.files[name]:
            raise CheckpointError(f"{source} fails its checksum")
        return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Shelf: the versions of checkpoints that lie in an object store, to be listed, loaded and removed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from storage.errors import CheckpointError, StoreUnavailableError
from storage.manifest import MANIFEST, Manifest
from storage.objects import ObjectStore
from storage.versions import Version, found_versions


class Shelf:
    """What an object store holds of one study."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    def versions(self, trial: int | None = None) -> list[Version]:
        """All versions and drafts, of one trial or of all, the newest first."""
        return found_versions(self.objects.list("" if trial is None else f"{trial:d}/"))

    def load(self, version: Version) -> tuple[Manifest, dict[str, bytes]]:
        """Manifest and files of a version; CheckpointError, naming the file, unless every byte is as it was written."""
        manifest = Manifest.parse(self._get(version, MANIFEST), self._where(version, MANIFEST))
        files = {
            name: manifest.check(name, self._get(version, name), self._where(version, name)) for name in manifest.files
        }
        return manifest, files

    def is_sound(self, version: Version) -> bool:
        """Whether a version can be loaded."""
        try:
            self.load(version)
        except StoreUnavailableError:
            raise
        except CheckpointError:
            return False
        return True

    def remove(self, versions: Iterable[Version]) -> None:
        """Remove versions; what another removes at the same time is passed over."""
        for version in versions:
            self.objects.delete(version.keys)

    def _get(self, version: Version, name: str) -> bytes:
        try:
            return self.objects.get(version.folder + name)
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            raise CheckpointError(f"{self._where(version, name)} cannot be read: {reason}") from None

    def _where(self, version: Version, name: str) -> str:
        return f"{self.objects.place}/{version.folder}{name}"

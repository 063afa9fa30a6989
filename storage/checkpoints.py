"""CheckpointStore: the checkpoints of a study's trials, as bytes in objects. Atomic, checksummed, two versions deep.

    <root>/<study's id>/<trial>/latest-0000000042-00000007/   manifest.json and the files that it lists with SHA-256
    <root>/<study's id>/<trial>/latest-0000000041-00000006/   read when the one above is damaged
    <root>/<study's id>/images/<digest of the split>.npy      digests of the images that its trials were made with

Where the root is, a folder or a prefix in an S3 bucket, is the affair of its `ObjectStore`; the rules are here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from storage.drafts import Drafts
from storage.errors import CheckpointError, StoreUnavailableError
from storage.garbage import Freed, collect
from storage.manifest import MANIFEST, Manifest
from storage.objects import ObjectStore
from storage.quota import Quota
from storage.shelf import Shelf
from storage.versions import Kind, Version

_IMAGES = "images/"
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Checkpoint:
    """One version of a checkpoint, every byte as it was written."""

    files: Mapping[str, bytes]
    info: Mapping[str, Any]
    """What the writer noted, as JSON values."""
    name: str
    """Of the version: `latest-<token>-<number>`."""
    token: int
    """Of the lease under which it was written."""
    version: int
    """Its number among those of its token."""
    damaged: tuple[str, ...] = ()
    """Versions that were to be used rather than this one and could not be, and why: empty unless it is a fallback."""


class CheckpointStore:
    """The checkpoints of one study. One writer for each trial and token, any number of readers."""

    def __init__(self, objects: ObjectStore, *, quota: Quota | None = None) -> None:
        self._shelf = Shelf(objects)
        self._drafts = Drafts(self._shelf, quota)
        self.place = objects.place

    def write(
        self, trial: int, kind: Kind, files: Mapping[str, bytes], info: Mapping[str, Any], *, token: int = 0
    ) -> str:
        """Write a version and return its name; it is durable then, and all but the one before it are removed.

        `token` is that of the writer's lease. Raises LeaseLostError where a higher one has written already,
        DiskFullError when the disk is full or the quota cannot be held, CheckpointError when the place cannot be
        written: what was there before is untouched, but for what had to go to make room.
        """
        return self._drafts.write(trial, kind, token, _content(files, info)).name

    def read(self, trial: int, kind: Kind, *, version: str | None = None) -> Checkpoint:
        """The version of that name where it is whole, else the newest that is.

        Raises CheckpointError, saying what is wrong with each, when there is none, and StoreUnavailableError where
        the place does not answer: then there may well be one.
        """
        found = [v for v in self._shelf.versions(trial) if v.kind == kind and not v.is_draft]
        damaged = []
        if version is not None and version not in {v.name for v in found}:
            damaged.append(f"{self.place}/{trial}/{version} is gone")
        for candidate in sorted(found, key=lambda v: v.name != version):
            try:
                return _checkpoint(candidate, *self._shelf.load(candidate), damaged)
            except StoreUnavailableError:
                raise
            except CheckpointError as error:
                damaged.append(str(error))
        why = "; ".join(damaged) or "none was written, or it was removed to save space"
        raise CheckpointError(f"trial {trial} has no {kind} checkpoint in {self.place} that can be used: {why}")

    def names(self, trial: int, kind: Kind) -> list[str]:
        """Names of the versions that are there, the newest first; reading may still find one damaged."""
        return [v.name for v in self._shelf.versions(trial) if v.kind == kind and not v.is_draft]

    def has(self, trial: int, kind: Kind) -> bool:
        """Whether any version is there; reading may still find it damaged."""
        return bool(self.names(trial, kind))

    def trials(self) -> set[int]:
        """Numbers of the trials of which anything is there."""
        parts = (found.key.split("/") for found in self._shelf.objects.list())
        return {int(trial) for trial, *inside in parts if inside and trial.isdecimal()}

    def drop(self, trials: Collection[int]) -> None:
        """Remove the checkpoints of these trials; of several workers that do so at once, each takes what is left.

        The caller names trials that nobody runs. A list of the ones to keep would miss those begun meanwhile.
        """
        for trial in self.trials().intersection(trials):
            self._shelf.remove(self._shelf.versions(trial))
            self._shelf.objects.delete(found.key for found in self._shelf.objects.list(f"{trial}/"))

    def discard(self, trial: int, kind: Kind) -> None:
        """Remove every version of one kind, where there is any: the `latest` of a trial that nobody goes on with."""
        self._shelf.remove(version for version in self._shelf.versions(trial) if version.kind == kind)

    def discard_damaged(self, trial: int, kind: Kind) -> None:
        """Remove the versions that cannot be used, so that they do not count among the two that are kept."""
        found = (version for version in self._shelf.versions(trial) if version.kind == kind and version.whole)
        self._shelf.remove(version for version in found if not self._shelf.is_sound(version))

    def keep_images(self, split_digest: str, content: bytes) -> None:
        """Write what `images` gives, unless it is there: the digests of the images of the split `split_digest`.

        It lies beside the trials, once for all of them. Raises CheckpointError as `write` does.
        """
        key = _images_key(split_digest)
        if key not in {found.key for found in self._shelf.objects.list(_IMAGES)}:
            self._shelf.objects.put(key, content)

    def images(self, split_digest: str) -> bytes | None:
        """What `keep_images` wrote; None where it is not there, as of studies of earlier versions of hpo."""
        try:
            return self._shelf.objects.get(_images_key(split_digest))
        except FileNotFoundError:
            return None

    def usage(self) -> int:
        """Bytes of all files of the study."""
        return sum(found.size for found in self._shelf.objects.list())

    def collect(self, finished: Collection[int], keep: Collection[int], *, dry_run: bool = False) -> Freed:
        """Remove what no unfinished trial and none to `keep` needs, and say what that frees; see `garbage.collect`."""
        return collect(self._shelf.objects, finished, keep, dry_run=dry_run)


def _images_key(split_digest: str) -> str:
    return f"{_IMAGES}{split_digest}.npy"


def _content(files: Mapping[str, bytes], info: Mapping[str, Any]) -> dict[str, bytes]:
    """Everything that a version consists of, the manifest last. TypeError when the notes are no JSON."""
    for name in files:
        if not _PLAIN_FILE.fullmatch(name) or name == MANIFEST:
            raise CheckpointError(f"{name!r} cannot be a file of a checkpoint; use letters, digits, `.`, `_` and `-`")
    return {**files, MANIFEST: Manifest.of(files, info).to_bytes()}


def _checkpoint(version: Version, manifest: Manifest, files: Mapping[str, bytes], damaged: list[str]) -> Checkpoint:
    return Checkpoint(files, manifest.info, version.name, version.token, version.number, tuple(damaged))

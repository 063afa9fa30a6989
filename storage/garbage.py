"""What nobody needs any more: checkpoints of finished trials, leftovers of killed writers, files of deleted studies."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from storage.manifest import MANIFEST
from storage.objects import ObjectStore, StoredObject
from storage.versions import Version, abandoned, found_versions

_ABANDONED = 86_400.0  # seconds; no write takes as long, nor is a clock as wrong


@dataclass(frozen=True)
class Freed:
    """What was removed, or would be."""

    trials: tuple[int, ...] = ()
    """Trials of which something goes, in order."""
    bytes: int = 0


def collect(objects: ObjectStore, finished: Collection[int], keep: Collection[int], *, dry_run: bool = False) -> Freed:
    """Remove all of the `finished` trials but the `best` of those to `keep`, and what killed writers left.

    `finished` is what the study says now: a finished trial stays one. Any other may be running, even one that the
    caller has not heard of, so nothing of it goes but unfinished versions whose writers are gone: those of earlier
    owners, and those that are a day old. With `dry_run` nothing is removed.
    """
    found = objects.list()
    unneeded = sorted(set(_unneeded(found, set(finished), set(keep))), key=_manifest_first)
    if not dry_run:
        objects.delete(one.key for one in unneeded)
    trials = {int(head) for one in unneeded if (head := one.key.split("/")[0]).isdecimal()}
    return Freed(tuple(sorted(trials)), sum(one.size for one in unneeded))


def stray_studies(root: ObjectStore, known: Collection[str]) -> dict[str, int]:
    """Folders below `root` that hold checkpoints of studies other than the `known` folders, and the bytes of each.

    `known` must name the studies of every database whose workers use this root. A folder without a checkpoint in it
    is not taken for a study's.
    """
    folders: dict[str, list[StoredObject]] = {}
    for found in root.list():
        study, _, key = found.key.partition("/")
        if key and study not in known:
            folders.setdefault(study, []).append(StoredObject(key, found.size, found.modified))
    return {study: sum(one.size for one in inside) for study, inside in folders.items() if found_versions(inside)}


def remove_study(root: ObjectStore, folder: str) -> None:
    """Remove all checkpoints of the study in `folder`, one of those that `stray_studies` names."""
    root.delete(one.key for one in sorted(root.list(f"{folder}/"), key=_manifest_first))


def _unneeded(found: Sequence[StoredObject], finished: set[int], keep: set[int]) -> Iterator[StoredObject]:
    versions = found_versions(found)
    needed = {one for version in versions if version.kind == "best" and version.whole for one in version.objects}
    for one in found:
        head, _, inside = one.key.partition("/")
        if inside and head.isdecimal() and int(head) in finished and (int(head) not in keep or one not in needed):
            yield one
    for version in [*abandoned(versions), *(version for version in versions if _is_old_draft(version))]:
        yield from version.objects


def _is_old_draft(version: Version) -> bool:
    return not version.whole and time.time() - version.modified > _ABANDONED


def _manifest_first(found: StoredObject) -> tuple[bool, str]:
    return not found.key.endswith(f"/{MANIFEST}"), found.key

"""Checkpoint stores of studies below one root, a folder or `s3://bucket/prefix`, and the database that owns each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from storage.checkpoint_versions import Quota, manifest_first, versions_in
from storage.checkpoints import CheckpointStore
from storage.database import Database
from storage.errors import DiskFullError, StorageError, StudyError
from storage.objects import SCHEME, StoredObject, is_url, open_objects, split_location

OWNER = "owner.json"
"""Name of the object in a study's folder that records which database the study is in."""

_PLAIN_STUDY = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def open_store(root: Path | str, study_id: str, *, quota: Quota | None = None) -> CheckpointStore:
    """Open the checkpoints of one study under `root`, a folder or `s3://bucket/prefix`; nothing is written.

    `study_id` is the id in the study's spec, not its name: another database, or the same one after a deletion, may
    have another study of that name. Raises StorageError for an invalid URL, and for S3 without boto3.
    """
    return CheckpointStore(open_objects(_below(root, study_folder(study_id))), quota=quota)


def claim_files(db: Database, root: Path | str, study_id: str) -> None:
    """Record in the study's folder under `root` that its checkpoints belong to the study in `db`.

    Raises StudyError when they belong to another database: see `refuse_foreign_files`. When the disk is full nothing is
    recorded; the next worker does it.
    """
    if not refuse_foreign_files(db, root, study_id):
        note = {"database": db.identity(), "where": db.where}
        with suppress(DiskFullError):
            open_objects(_below(root, study_folder(study_id))).put(OWNER, json.dumps(note, indent=2).encode())


def refuse_foreign_files(db: Database, root: Path | str, study_id: str) -> bool:
    """Raise StudyError when the study's checkpoints under `root` belong to a study in another database.

    A dump that was restored beside its original has studies with the same ids. Returns whether `db` is recorded as
    their database; False when none is, as before the first worker. Raises StudyError for a damaged record too, and
    StorageError when it cannot be read.
    """
    objects = open_objects(_below(root, study_folder(study_id)))
    try:
        note = json.loads(objects.get(OWNER))
        database, where = note["database"], note["where"]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(
            f"{objects.place}/{OWNER} cannot be read: {error.strerror or error}; let this user read it"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise StudyError(
            f"{objects.place}/{OWNER} is damaged, so which database its checkpoints belong to cannot be read; if they "
            f"are those of the study in {db.where}, remove that file, and its workers go on from them"
        ) from None
    if database == db.identity():
        return True
    raise StudyError(
        f"the checkpoints in {objects.place} belong to a study in another database ({where}), not to the one in "
        f"{db.where}; give --artifacts another place, or, if the study was moved here for good, remove "
        f"{objects.place}/{OWNER}: its workers then go on from these checkpoints"
    )


def stray_studies(root: Path | str, known_ids: Collection[str]) -> list[tuple[str, int]]:
    """Return folder and bytes of each study under `root` whose id is not among `known_ids`, sorted by folder.

    `known_ids` must name the studies of every database whose workers use this root. A folder without a checkpoint does
    not count as a study's.
    """
    known = {study_folder(study_id) for study_id in known_ids}
    folders: dict[str, list[StoredObject]] = {}
    for one in open_objects(root).list():
        folder, _, key = one.key.partition("/")
        if key and folder not in known:
            folders.setdefault(folder, []).append(StoredObject(key, one.size, one.modified))
    sizes = {folder: sum(one.size for one in inside) for folder, inside in folders.items() if versions_in(inside)}
    return sorted(sizes.items())


def remove_stray_study(root: Path | str, folder: str) -> None:
    """Remove all checkpoints in a folder that `stray_studies` named."""
    objects = open_objects(root)
    objects.delete(one.key for one in sorted(objects.list(f"{folder}/"), key=manifest_first))


def remove_checkpoints(root: Path | str, study_id: str) -> None:
    """Remove all checkpoints of one study, if there are any."""
    remove_stray_study(root, study_folder(study_id))


def study_folder(study: str) -> str:
    """Return the folder name for a study's id: the id itself when plain, else its plain part, `%` and a digest of it.

    No two studies share one, even on file systems that ignore case.
    """
    if _PLAIN_STUDY.fullmatch(study):
        return study
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-")[:60]
    return f"{plain}%{hashlib.sha256(study.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _below(root: Path | str, name: str) -> Path | str:
    if not is_url(root):
        return Path(root) / name
    bucket, prefix = split_location(str(root))
    return f"{SCHEME}{bucket}/{prefix}{name}"

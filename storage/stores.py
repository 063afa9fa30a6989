"""Where checkpoints and bundles lie: a folder, or `s3://bucket/prefix`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from storage.checkpoint_versions import Quota, remove_study, stray_study_folders
from storage.checkpoints import CheckpointStore
from storage.database import Database
from storage.errors import DiskFullError, StorageError, StudyError
from storage.objects import SCHEME, is_url, open_objects, split_location

OWNER = "owner.json"
"""The object in a study's folder that says which database the study is in."""

_PLAIN_STUDY = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def open_store(root: Path | str, study_id: str, *, quota: Quota | None = None) -> CheckpointStore:
    """The checkpoints of one study under `root`, a folder or `s3://bucket/prefix`; nothing is written yet.

    `study_id` is the id in the study's spec rather than its name: of that another database, or the same one after a
    deletion, may have another study. Raises StorageError for a URL that is none, and for S3 without boto3.
    """
    return CheckpointStore(open_objects(_below(root, study_folder(study_id))), quota=quota)


def claim_files(db: Database, root: Path | str, study_id: str) -> None:
    """Note in the study's folder under `root` that its checkpoints are those of the study in `db`.

    Raises StudyError where another database's are there: see `refuse_foreign_files`. Where the disk is full nothing is
    noted; the next worker does it.
    """
    if not refuse_foreign_files(db, root, study_id):
        note = {"database": db.identity(), "where": db.where}
        with suppress(DiskFullError):
            open_objects(_below(root, study_folder(study_id))).put(OWNER, json.dumps(note, indent=2).encode())


def refuse_foreign_files(db: Database, root: Path | str, study_id: str) -> bool:
    """Raise StudyError where the study's checkpoints under `root` are those of a study in another database.

    A dump that was restored beside its original has studies with the same ids. Returns whether they were noted to be
    those of `db`; False where nothing is noted, as before the first worker. StudyError for a note that is damaged, too;
    StorageError where it cannot be read.
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
    """Folder and bytes of each study under `root` whose id is not among `known_ids`, in order of the folders' names.

    `known_ids` must name the studies of every database whose workers use this root.
    """
    strays = stray_study_folders(open_objects(root), {study_folder(study_id) for study_id in known_ids})
    return sorted(strays.items())


def remove_stray_study(root: Path | str, folder: str) -> None:
    """Remove all checkpoints in a folder that `stray_studies` named."""
    remove_study(open_objects(root), folder)


def remove_checkpoints(root: Path | str, study_id: str) -> None:
    """Remove all checkpoints of one study; nothing where there are none."""
    remove_study(open_objects(root), study_folder(study_id))


def study_folder(study: str) -> str:
    """A folder name for a study's: its own where that is plain, else its plain part, `%` and a digest of it.

    No two studies share one, on file systems that ignore case neither.
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

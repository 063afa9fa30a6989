"""CheckpointStore: the checkpoints of a study's trials, as bytes in files. Atomic, checksummed, two versions deep.

    <root>/<study's id>/<trial>/latest-00000007/   manifest.json and the files it lists with size and SHA-256
    <root>/<study's id>/<trial>/latest-00000006/   read when the one above is damaged

A version is written under a temporary name, synced, then renamed: a reader sees all of it or nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.durable import make_folder, sync_folder, write_synced
from storage.errors import CheckpointError
from storage.manifest import MANIFEST, Manifest

Kind = Literal["latest", "best"]

_VERSIONS_KEPT = 2
_ABANDONED = 3600.0  # seconds after which a temporary folder belongs to nobody who lives
_PLAIN_STUDY = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class Checkpoint:
    """One version of a checkpoint, every byte as it was written."""

    files: Mapping[str, bytes]
    info: Mapping[str, Any]
    """What the writer noted, as JSON values."""
    version: int
    damaged: tuple[str, ...] = ()
    """Newer versions that could not be used, and why: empty unless this is a fallback."""


class CheckpointStore:
    """The checkpoints of one study under `root`. One writer a trial, any number of readers.

    `study` is the id in its spec rather than its name: of that another database, or the same one after a deletion,
    may have another study.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.folder = root / study_folder(study)

    def write(self, trial: int, kind: Kind, files: Mapping[str, bytes], info: Mapping[str, Any]) -> Path:
        """Write a version and return its folder; it is durable then, and all but the one before it are removed.

        Raises CheckpointError when the disk is full or not writable: what was there before is untouched.
        """
        _check_names(files)
        folder = self._trial(trial)
        with _explained(folder):
            make_folder(folder)
            draft = folder / f"{_TEMPORARY}{kind}-{secrets.token_hex(4)}"
            try:
                _fill(draft, files, info)
                version = _publish(draft, folder, kind)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        _remove_old(folder, kind)
        return version

    def read(self, trial: int, kind: Kind) -> Checkpoint:
        """The newest version that is whole. Raises CheckpointError, saying what is wrong, when there is none."""
        folder = self._trial(trial)
        damaged: list[str] = []
        for number, version in _versions(folder, kind):
            try:
                manifest = Manifest.read(version)
                return Checkpoint(manifest.load(version), manifest.info, number, tuple(damaged))
            except CheckpointError as error:
                damaged.append(str(error))
        why = "; ".join(damaged) or "none was written, or it was removed to save space"
        raise CheckpointError(f"trial {trial} has no {kind} checkpoint in {folder} that can be used: {why}")

    def has(self, trial: int, kind: Kind) -> bool:
        """Whether any version is there; reading may still find it damaged."""
        return any(_versions(self._trial(trial), kind))

    def trials(self) -> set[int]:
        """Numbers of the trials that have a folder."""
        return {int(path.name) for path in _entries(self.folder) if path.name.isdecimal()}

    def drop(self, trials: Collection[int]) -> None:
        """Remove the checkpoints of these trials; of several workers that do so at once, each takes what is left.

        The caller names trials that nobody runs. A list of the ones to keep would miss those begun meanwhile.
        """
        self._remove(self._trial(trial) for trial in self.trials().intersection(trials))

    def discard(self, trial: int, kind: Kind) -> None:
        """Remove every version of one kind, where there is any: the `latest` of a trial that nobody goes on with."""
        self._remove(version for _, version in _versions(self._trial(trial), kind))

    def usage(self) -> int:
        """Bytes of all files of the study."""
        return sum(_size(path) for path in self.folder.rglob("*"))

    def _trial(self, trial: int) -> Path:
        return self.folder / f"{trial:d}"

    def _remove(self, folders: Iterable[Path]) -> None:
        """Remove folders, each out of sight at once; and what a killed worker left of those that it removed."""
        with _explained(self.folder):
            for folder in folders:
                with suppress(FileNotFoundError):  # another worker removes it
                    folder.rename(self.folder / f"{_TEMPORARY}{secrets.token_hex(8)}")
        for path in _entries(self.folder):
            if path.name.startswith(_TEMPORARY):
                shutil.rmtree(path, ignore_errors=True)


def study_folder(study: str) -> str:
    """A folder name for a study's: its own where that is plain, else its plain part, `%` and a digest of it.

    No two studies share one, on file systems that ignore case neither.
    """
    if _PLAIN_STUDY.fullmatch(study):
        return study
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", study).strip("-")[:60]
    return f"{plain}%{hashlib.sha256(study.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        if not _PLAIN_FILE.fullmatch(name) or name == MANIFEST:
            raise CheckpointError(f"{name!r} cannot be a file of a checkpoint; use letters, digits, `.`, `_` and `-`")


def _fill(draft: Path, files: Mapping[str, bytes], info: Mapping[str, Any]) -> None:
    draft.mkdir()
    for name, content in files.items():
        write_synced(draft / name, content)
    Manifest.of(files, info).write(draft)
    sync_folder(draft)


def _publish(draft: Path, folder: Path, kind: Kind) -> Path:
    """Rename the draft to the next version. A number that another writer took meanwhile is passed over."""
    number = next((number for number, _ in _versions(folder, kind)), 0) + 1
    while (version := folder / f"{kind}-{number:08d}").exists():
        number += 1
    draft.rename(version)
    sync_folder(folder)
    return version


def _versions(folder: Path, kind: Kind) -> Iterator[tuple[int, Path]]:
    """Number and folder of the versions, the newest first."""
    pattern = re.compile(rf"{kind}-(\d{{8,}})")
    found = [(int(match[1]), path) for path in _entries(folder) if (match := pattern.fullmatch(path.name))]
    return iter(sorted(found, reverse=True))


def _remove_old(folder: Path, kind: Kind) -> None:
    """Keep the newest versions, and no leftovers of writers that were killed."""
    for _, version in list(_versions(folder, kind))[_VERSIONS_KEPT:]:
        shutil.rmtree(version, ignore_errors=True)
    for path in _entries(folder):
        if path.name.startswith(_TEMPORARY) and _age(path) > _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if path.is_file() else 0
    except FileNotFoundError:  # removed while we counted
        return 0


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or folder} cannot be written: {error.strerror or os.strerror(error.errno or 0)}; "
            "make room or give write permission there, or name another folder with --artifacts"
        ) from error

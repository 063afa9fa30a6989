"""What `hpo gc` frees: checkpoints that no kept trial needs, and the files of studies that are not there any more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hpo.errors import HpoError
from hpo.search.status import best_first
from search_spaces import TrialList, read_space
from storage import (
    CheckpointStore,
    Database,
    ObjectStore,
    StudyError,
    open_objects,
    open_study,
    read_spec,
    sharers,
    stray_studies,
    study_names,
)

_KINDS = {"best": "weights of its best epoch", "latest": "state to go on from"}

_LEFT_OVER = "left by a killed writer"

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Removal:
    """What goes of one trial."""

    trial: int
    what: str
    size: int
    """Bytes."""


class RecordingStore:
    """An ObjectStore over `inner` that notes what is removed; with `dry_run` nothing is."""

    def __init__(self, inner: ObjectStore, *, dry_run: bool) -> None:
        self.place, self.put, self.get, self.list = inner.place, inner.put, inner.get, inner.list
        self._inner, self._dry_run = inner, dry_run
        self.removed: list[str] = []

    def delete(self, keys: Iterable[str]) -> None:
        """Note the keys, and remove the objects unless nothing is to be removed."""
        keys = list(keys)
        if not self._dry_run:
            self._inner.delete(keys)
        self.removed += keys


def free(study: optuna.Study, store: CheckpointStore, keep: int, *, dry_run: bool = False) -> list[Removal]:
    """Remove the checkpoints of finished trials but the weights of the best `keep`, and what killed writers left.

    Nothing that a trial which runs or waits can go on from is touched: of a trial that is not finished *now* only
    versions that were never completed go. Raises CheckpointError when the place cannot be read or written.
    """
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state.is_finished()]
    kept = _kept(study, trials, keep) | kept_by_copies(study, keep)
    objects = open_objects(store.place)
    sizes = {found.key: found.size for found in objects.list()}
    witness = RecordingStore(objects, dry_run=dry_run)
    CheckpointStore(witness).collect({trial.number for trial in finished}, kept)
    return _removals({key: sizes.get(key, 0) for key in witness.removed})


def kept_by_copies(study: optuna.Study, keep: int) -> set[int]:
    """Numbers of the trials whose checkpoints other studies with the id of `study` need.

    Those are its copies, or what it was copied from: their best `keep` trials, and all that are not finished.
    """
    kept: set[int] = set()
    for other in sharers(study):
        trials = other.get_trials(deepcopy=False)
        kept |= _kept(other, trials, keep) | {trial.number for trial in trials if not trial.state.is_finished()}
    return kept


def _kept(study: optuna.Study, trials: Iterable[FrozenTrial], keep: int) -> set[int]:
    """The best `keep` trials; all complete ones of a roster: what is compared is measured afterwards, the worst too."""
    ranked = best_first(trials)
    kept = ranked if isinstance(read_space(read_spec(study).space), TrialList) else ranked[:keep]
    return {trial.number for trial in kept}


def orphans(db: Database, root: Path | str) -> list[tuple[str, int]]:
    """Folder and bytes of each study under `root` that is not in `db`; a study made while we look is none."""
    before = dict(stray_studies(root, _ids(db)))
    return [(folder, size) for folder, size in stray_studies(root, _ids(db)) if folder in before]


def _ids(db: Database) -> set[str]:
    """Ids of all studies that hpo made. Raises HpoError where one cannot be read: its files would look ownerless."""
    ids = set()
    for name in study_names(db):
        study = open_study(db, name)
        try:
            ids.add(read_spec(study).id)
        except StudyError as error:
            if any(key.startswith("hpo:") for key in study.user_attrs):
                raise HpoError(f"--orphans cannot tell whose files are whose: {error}") from error
    return ids


def _removals(removed: dict[str, int]) -> list[Removal]:
    """By trial: what the removed keys were of, and their bytes."""
    trials: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for key, size in removed.items():
        trial, _, inside = key.partition("/")
        trials[int(trial)][inside] = size
    return [Removal(trial, _what(inside), sum(inside.values())) for trial, inside in sorted(trials.items())]


def _what(keys: Iterable[str]) -> str:
    """`weights of its best epoch, state to go on from`; a version without its manifest was never completed."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for key in keys:
        version, _, file = key.partition("/")
        versions[version].add(file)
    parts = [
        _KINDS.get(version.partition("-")[0], _LEFT_OVER) if _MANIFEST in files else _LEFT_OVER
        for version, files in sorted(versions.items())
    ]
    return ", ".join(dict.fromkeys(parts))

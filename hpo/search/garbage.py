"""Garbage collection for `hpo gc`: checkpoints that no kept trial needs, and the files of deleted studies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hpo.errors import HpoError
from hpo.search.status import best_first, keeping_checkpoints
from search_spaces import TrialList, read_space
from storage import (
    CheckpointStore,
    Database,
    Removal,
    StudyError,
    open_study,
    read_spec,
    stray_studies,
    studies_with_same_id,
    study_names,
)


def free(study: optuna.Study, store: CheckpointStore, keep: int, *, dry_run: bool = False) -> list[Removal]:
    """Remove the checkpoints of finished trials but the weights of the best `keep`, and what killed writers left.

    Of a trial that is not finished *now* only versions that were never completed are removed, so that it can be
    resumed. With `dry_run` nothing is removed. Raises CheckpointError when the store cannot be read or written.
    """
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state.is_finished()]
    kept = _kept(study, trials, keep) | kept_by_copies(study, keep)
    return store.collect({trial.number for trial in finished}, kept, dry_run=dry_run)


def kept_by_copies(study: optuna.Study, keep: int) -> set[int]:
    """Return the numbers of the trials whose checkpoints other studies with the id of `study` need.

    Such a study is a copy of `study`, or its original. It needs its best `keep` trials, and all that are not finished.
    """
    kept: set[int] = set()
    for other in studies_with_same_id(study):
        trials = other.get_trials(deepcopy=False)
        kept |= _kept(other, trials, keep) | {trial.number for trial in trials if not trial.state.is_finished()}
    return kept


def _kept(study: optuna.Study, trials: Iterable[FrozenTrial], keep: int) -> set[int]:
    """Return `keeping_checkpoints`; all complete ones of a trial list, since a comparison measures each afterwards."""
    is_list = isinstance(read_space(read_spec(study).space), TrialList)
    kept = best_first(trials) if is_list else keeping_checkpoints(trials, keep)
    return {trial.number for trial in kept}


def stray_folders(db: Database, root: Path | str) -> list[tuple[str, int]]:
    """Return folder and bytes of each study under `root` that is not in `db`."""
    # Listed twice: the workers of a study made after the first reading of ids may have written before the listing.
    before = dict(stray_studies(root, _ids(db)))
    return [(folder, size) for folder, size in stray_studies(root, _ids(db)) if folder in before]


def _ids(db: Database) -> set[str]:
    """Return the ids of all studies of hpo. Raises HpoError when one cannot be read: its files would look stray."""
    ids = set()
    for name in study_names(db):
        study = open_study(db, name)
        try:
            ids.add(read_spec(study).id)
        except StudyError as error:
            if any(key.startswith("hpo:") for key in study.user_attrs):
                raise HpoError(f"--orphans cannot tell whose files are whose: {error}") from error
    return ids

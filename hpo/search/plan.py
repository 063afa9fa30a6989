"""Plan: from the user's request to a study that workers can join; all that can be checked before training is checked.

The cheap checks come first: names, space, database, the listing of the images, weights; then the images are decoded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from hpo.data import DataOrigin, Dataset, Progress, SplitOptions, open_dataset
from hpo.data.cache import remember_data
from hpo.data.changes import DataChanges
from hpo.errors import HpoError
from hpo.search.planned_probes import PlannedProbes, planned_probes
from hpo.search.trial_record import probe_attributes
from search_spaces import (
    SearchSpace,
    Space,
    SpaceError,
    TrialConfig,
    TrialList,
    read_space,
)
from storage import (
    DEFAULT_TOP,
    Confirmation,
    Control,
    Database,
    Limits,
    StudySpec,
    Worker,
    check_same,
    create_study,
    expire_dead_neighbours,
    get_control,
    has_spec,
    lease_infos,
    open_study,
    read_limits,
    read_spec,
    study_names,
    write_limits,
)

if TYPE_CHECKING:
    from hpo.models import Trainability


DEFAULT_TRIALS = 50

DEFAULT_ROBUSTNESS = 0.0
"""Robustness of a study that is made without --robustness. `hpo run --help` names it too."""


@dataclass(frozen=True)
class Plan:
    """All that a study is made from."""

    data: Path
    study: str
    space: Space
    weights_digest: str | None
    metric: str
    sampler: str
    pruner: str
    split: SplitOptions
    changes: DataChanges | None = None
    """The decisions on single images; None for those of the study, where it exists."""
    robustness: float | None = None
    """Weight of altered images in a trial's value; None for that of the study, where it exists, else the default."""
    earlier: tuple[SearchSpace, ...] = ()
    """The space as it was before `symmetry` was a field, and before it changed: a study from then goes on with it."""
    names_space: bool = True
    """Whether a space, or a value of it, was asked for; else an existing study goes on with its own."""
    trials: int | None = None
    """Limit on the trials that is asked for; None for that of the study, where it exists, else the default."""
    probe: bool = False
    """Whether a new study begins with frozen probes of its backbones."""


def check_models(space: Space, classes: int) -> dict[str, Trainability]:
    """Build every backbone of the space once in each normalisation, for `classes` classes, and load its weights.

    The rest is at its largest: image, head, and depth of the phase that trains most. Returns what was built, by
    backbone, or by planned trial. Raises ModelError for the first that cannot be built, before a study exists.
    """
    from hpo.models import check_trainable

    return {
        which: check_trainable(config.deepest_phase(), classes) for which, config in _models_to_build(space).items()
    }


def _models_to_build(space: Space) -> dict[str, TrialConfig]:
    """Return the configurations to build, by planned trial, or by backbone (and normalisation where that varies)."""
    if isinstance(space, TrialList):
        return {entry.name: entry.config for entry in space.entries}
    pairs = product(space.values("backbone"), space.values("normalisation"))
    configs = [space.largest({"backbone": backbone, "normalisation": kind}) for backbone, kind in pairs]
    ways = Counter(backbone for backbone, _ in {(c.backbone, c.normalisation) for c in configs})
    return {c.backbone if ways[c.backbone] == 1 else f"{c.backbone} ({c.normalisation})": c for c in configs}


def open_data(plan: Plan, cache: Path, progress: Progress | None = None, *, db: Database | None = None) -> Dataset:
    """Decode and pack DATA at every image size of the space; return the last one.

    Where the study exists in `db`, 16-bit images are decoded with its white level, and its decisions on single images
    are applied, as its workers do.
    """
    origin = stored_origin(db, plan) if db else None
    changes = origin.changes if origin and plan.changes is None else plan.changes
    own = origin.options if origin else None
    split = replace(plan.split, copies=own.copies, every_class=own.every_class) if own else plan.split
    sizes: list[Any] = plan.space.values("image_size")
    if len(sizes) > 16:
        raise SpaceError(f"image_size can take {len(sizes)} values, but each is packed on disk; give at most 16")
    for size in sizes:
        dataset = open_dataset(
            plan.data, image_size=size, cache=cache, split=split,
            white_level=origin.white if origin else None, changes=changes, progress=progress,
        )  # fmt: skip
        split = replace(split, copies=dataset.copies)
    return dataset


def _normalisation(weights: object) -> list[list[float]]:
    """Return mean and std from the files beside the weights; an empty list where there are none."""
    from hpo.models.architecture import describe

    found = describe(Path(str(weights)))
    return [list(found.mean), list(found.std)] if found.mean and found.std else []


def refuse_other_normalisation(spec: StudySpec, weights: object) -> None:
    """Raise HpoError where the files beside the weights give another mean and std than where the study was made.

    These files are easily left behind when the weights are copied to another host.
    """
    theirs, ours = spec.weights_normalisation, _normalisation(weights)
    if theirs is None or theirs == ours:
        return
    texts = [f"mean {pair[0]} and std {pair[1]}" if pair else "no mean and std" for pair in (ours, theirs)]
    raise HpoError(
        f"the files beside {weights} give {texts[0]}, but gave {texts[1]} where the study was made; "
        "copy the .json or config.json along with the weights"
    )


def refuse_another_search(db: Database, plan: Plan) -> None:
    """Raise StudyError where the study exists with another space, metric, seed or method than the plan's.

    To be called before weights are fetched and images decoded, whose own faults would hide that difference.
    """
    stored = _stored_spec(db, plan)
    if stored is None:
        return
    split = {key: getattr(plan.split, key) for key in _COMPARED_OF_THE_SPLIT}
    space, known = plan.space, read_space(stored.space)
    if isinstance(space, SearchSpace) and isinstance(known, SearchSpace) and space.assumes_symmetry:
        space = space.with_fixed({"symmetry": known.largest().symmetry})  # as `choose_symmetry` will decide it
    asked = {
        "space": space.to_dict(), "space_fingerprint": space.fingerprint, "metric": plan.metric,
        "robustness": stored.robustness if plan.robustness is None else plan.robustness, "seed": plan.split.seed,
        "weights_digest": plan.weights_digest, "sampler": plan.sampler, "pruner": plan.pruner,
        "data": {**stored.data, **split},
    }  # fmt: skip
    check_same(plan.study, stored, stored.model_copy(update=asked))


_COMPARED_OF_THE_SPLIT = ("seed", "val_fraction", "test_fraction", "group_by", "folds", "max_unreadable")


def create_or_open_study(db: Database, plan: Plan, dataset: Dataset) -> optuna.Study:
    """Create the study, or open it where it exists with the same space, data, metric and seed.

    Raises StudyError where these differ, DataError where the images or their split do.
    """
    fingerprint = _data_fingerprint(db, plan, dataset)
    origin = DataOrigin.of(dataset, plan.split)
    spec = StudySpec(
        space=plan.space.to_dict(),
        space_fingerprint=plan.space.fingerprint,
        data=origin.to_spec(dataset.classes),
        data_fingerprint=fingerprint,
        metric=plan.metric,
        robustness=_robustness(db, plan),
        seed=plan.split.seed,
        weights_digest=plan.weights_digest,
        weights_normalisation=_normalisation(plan.space.fixed["weights"]) if plan.weights_digest else None,
        sampler=plan.sampler,
        pruner=plan.pruner,
    )
    limits = _first_limits(plan.space, folds=plan.split.folds)
    first = [probe_attributes(backbone) for backbone in probes_of(plan).backbones]
    study = create_study(db, plan.study, spec, points=plan.space.enqueue_points(), limits=limits, first=first)
    if plan.weights_digest:
        refuse_other_normalisation(read_spec(study), plan.space.fixed["weights"])
    way_out = "use the version of hpo that it was made with, or give another name with --study"
    origin_of(read_spec(study)).refuse_other_split(
        dataset, plan.data, options=plan.split, maker=f"study {plan.study!r}", way_out=way_out
    )
    return study


def _first_limits(space: Space, *, folds: int | None) -> Limits:
    """Return the limits of a new study, until the budget is set.

    By default the best trials are confirmed, where that is worth their time: a value over folds is the mean of several
    trainings already, and a list is trained once.
    """
    if isinstance(space, TrialList):
        return Limits(len(space.entries))
    top = 0 if folds else DEFAULT_TOP
    return Limits(DEFAULT_TRIALS, confirm=Confirmation(top, asked=False))


def probes_of(plan: Plan) -> PlannedProbes:
    """Return the frozen probes with which a study made from the plan begins."""
    return planned_probes(plan.space, plan.trials or DEFAULT_TRIALS) if plan.probe else PlannedProbes(())


def _data_fingerprint(db: Database, plan: Plan, dataset: Dataset) -> str:
    """Return the fingerprint of `dataset`; an existing study may have that of an earlier version of hpo.

    DataError, which says what changed, where the study exists with other images.
    """
    origin = stored_origin(db, plan)
    if origin is None:
        return dataset.fingerprint
    way_out = "give that DATA, or another name with --study"
    classes = read_spec(open_study(db, plan.study)).data["classes"]
    origin.refuse_other_images(dataset, plan.data, maker=f"study {plan.study!r}", way_out=way_out, classes=classes)
    return origin.fingerprint


def _robustness(db: Database, plan: Plan) -> float:
    """Return the robustness that the plan asks for; without one that of the existing study, else the default."""
    if plan.robustness is not None:
        return plan.robustness
    stored = _stored_spec(db, plan)
    return stored.robustness if stored else DEFAULT_ROBUSTNESS


def stored_origin(db: Database, plan: Plan) -> DataOrigin | None:
    """Return the origin of the study's data; None where the study does not exist yet."""
    spec = _stored_spec(db, plan)
    return origin_of(spec) if spec else None


def _stored_spec(db: Database, plan: Plan) -> StudySpec | None:
    """Return the spec of the study; None where it does not exist yet."""
    if plan.study not in study_names(db):
        return None
    study = open_study(db, plan.study)
    return read_spec(study) if has_spec(study) else None


def origin_of(spec: StudySpec) -> DataOrigin:
    """Return where a study's data came from and how they were split."""
    return DataOrigin.from_spec(spec.data, spec.data_fingerprint)


def open_study_data(path: Path, spec: StudySpec, image_size: int, cache: Path, *, name: str = "") -> Dataset:
    """Open the data of the study `name` at one image size; DataError where DATA is not what it was made with."""
    origin, maker = origin_of(spec), f"study {name!r}" if name else "the study"
    dataset = origin.reopen(path, image_size=image_size, cache=cache)
    way_out = "give the same DATA, or make a study with another name"
    origin.refuse_other_images(dataset, path, maker=maker, way_out=way_out, classes=spec.data["classes"])
    same_code = "use the version of hpo that the study was made with, or make a study with another name"
    origin.refuse_other_split(dataset, path, options=origin.options, maker=maker, way_out=same_code)
    remember_data(cache, spec.data_fingerprint, path)
    return dataset


def set_budget(
    db: Database,
    study: optuna.Study,
    trials: int | None,
    timeout: timedelta | None,
    *,
    run: Worker | None = None,
    until_converged: bool | None = None,
    confirm: int | None = None,
) -> Limits:
    """Write the budget into the study, where all its workers read it; what is not given stays as it was.

    `run` is the process of the `hpo run` that gives `timeout`. A deadline that has passed is dropped: an earlier run
    set it. A future deadline is kept: another run may have set it. With `until_converged` False a study that has
    converged goes on. `confirm` is the number of the best trials that are trained again within the budget.
    """
    before, now = read_limits(study), db.now()
    limits = replace(before, trials=trials or before.trials)
    if confirm is not None:
        limits = replace(limits, confirm=Confirmation(confirm))
    if until_converged is not None:
        converged = before.converged if until_converged else None
        limits = replace(limits, until_converged=until_converged, converged=converged)
    if timeout is not None:
        limits = replace(limits, deadline=now + timeout, run=run)
    elif before.deadline is not None and before.deadline <= now:
        limits = replace(limits, deadline=None, run=None)
    if limits != before:
        write_limits(study, limits)
    return limits


def keep_or_lift_deadline(db: Database, study: optuna.Study) -> str | None:
    """Keep or lift a future deadline that was set before, for a run that sets none; return a line that says which.

    It is lifted only where it was set by an `hpo run` that has ended for certain, no worker holds a trial and the study
    is not paused. None where there is no future deadline.
    """
    limits, now = read_limits(study), db.now()
    if limits.deadline is None or limits.deadline <= now:
        return None
    end = limits.deadline.astimezone()
    when = f"{end:%H:%M}" if end.date() == now.astimezone().date() else f"{end:%Y-%m-%d %H:%M}"
    if reason := _reason_to_keep(db, study, limits):
        return f"ends at {when}, by {reason}; --timeout TIME sets another end"
    write_limits(study, replace(limits, deadline=None, run=None))
    return (
        f"an earlier --timeout would end it at {when}; no worker holds a trial and the run that set it has ended, so "
        "that is lifted: --timeout TIME sets one"
    )


def _reason_to_keep(db: Database, study: optuna.Study, limits: Limits) -> str | None:
    """Return what set a future deadline, and why it holds; None where it was set by a run that has ended."""
    expire_dead_neighbours(db, study)
    if limits.run is None:
        return "the --timeout of `hpo init`, or of an earlier version of hpo"
    if get_control(db, study) is Control.PAUSE:
        return "an earlier --timeout, as the study is paused"
    if any(lease.alive for lease in lease_infos(db, study)):
        return "an earlier --timeout, as other workers are at work"
    return None if limits.run.is_gone else f"the --timeout of the run {limits.run}, which may be at work still"

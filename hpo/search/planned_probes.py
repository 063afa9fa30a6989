"""Rung 0: which backbones of a space get a frozen probe before anything is trained, and as what configuration.

A probe takes seconds, and is the line that tuning has to beat. It is a trial like any other: claimed under a lease,
told with its value, kept with weights and predictions, and counted among the trials of the study. It has no parameters,
reports no step, and its record says what it is (`TrialRecord.probe`). Backbones that start from random weights have
none: a linear head on random features says nothing of what training would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import optuna

from hpo.search.trial_record import TrialRecord, is_probe
from search_spaces import SearchSpace, Space, TrialConfig

SHARE = 5
"""Probes take at most one of so many trials of a study, so a study of fewer trials has none."""

OWN = ("weights", "background", "validation_augmented", "symmetry")
"""Fixed values of a space that its probes keep: they say what the network and its validation images are."""


class PlannedProbes(NamedTuple):
    """The backbones of a space that get a probe, and those that do not for want of trials."""

    backbones: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def planned_probes(space: Space, trials: int) -> PlannedProbes:
    """Return the backbones to probe, in the order of the space, in a study of so many trials; none of a trial list."""
    from hpo.models.baselines import is_baseline

    if not isinstance(space, SearchSpace) or True not in space.values("pretrained"):
        return PlannedProbes(())
    names = [name for name in _backbones(space) if not is_baseline(name)]
    most = trials // SHARE
    return PlannedProbes(tuple(names[:most]), tuple(names[most:]))


def _backbones(space: SearchSpace) -> list[str]:
    """Return the backbones of a space in the order of its choices, or its one."""
    variants = space.dimensions.get("backbone", ())
    chosen = [str(name) for variant in variants for name in getattr(variant, "choices", ())]
    return list(dict.fromkeys([*chosen, *map(str, space.values("backbone"))]))


def probe_config(space: Space, backbone: str) -> TrialConfig:
    """Return the configuration of a probe: nothing but a linear head trains, on images as they are, once.

    The images have the largest size of the space. `validation_augmented` is that of the space, so that the value is
    measured on the images of the other trials.
    """
    kept = {name: space.fixed[name] for name in OWN if name in space.fixed}
    return TrialConfig.from_dict(
        {
            **kept, "backbone": backbone, "pretrained": True, "image_size": max(map(int, space.values("image_size"))),
            "unfreeze_depth": 0.0, "head_layers": 0, "epochs": 1, "schedule": "constant", "weight_decay": 0.0,
            "augmentation": "none", "augmentation_strength": 0.0, "precision": "fp32",
        }
    )  # fmt: skip


def probe_lines(study: optuna.Study, plan: PlannedProbes) -> Iterator[str]:
    """Yield a line on the probes with which a study begins, while one of them waits, and on those left out."""
    probes = [trial for trial in study.get_trials(deepcopy=False) if is_probe(trial)]
    if not any(not trial.state.is_finished() for trial in probes):
        return
    named = ", ".join(f"{TrialRecord.of(trial).probe} (trial {trial.number})" for trial in probes)
    yield (
        f"first, as the line to beat, a linear head on the frozen backbone: {named}; it counts among the trials, "
        "--no-probe leaves it out"
    )
    if plan.left_out:
        yield (
            f"no such probe of {', '.join(plan.left_out)}: they take at most one trial in {SHARE}; a study made with "
            "more --trials has them"
        )

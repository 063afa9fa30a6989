"""A row of the table: a candidate as the bench has measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from hpo.bundle.bundle import read_bundle
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import networks_of
from hpo.evaluation.intervals import Score
from hpo.experiments.benchmark import Benchmark, Measured
from hpo.experiments.compared_model import ComparedModel, Cost
from hpo.models.baselines import is_baseline
from hpo.models.built_model import build_model, count_parameters
from hpo.private_paths import public_config, public_path_from_here
from hpo.training.tuning import device_name
from search_spaces import TrialConfig


@dataclass(frozen=True)
class ComparisonRow:
    """One contestant in figures; None where there is nothing to tell. Of several seeds the means."""

    label: str
    kind: str
    backbone: str
    image_size: int
    seeds: int
    epochs: int | None
    """None of a baseline, which takes no training."""
    validation: Score | None
    corrupted: Score | None
    test: Score | None
    macro_f1: float | None
    parameters: int
    trainable_parameters: int | None
    """In the phase that trains most; None of what joins several models."""
    seconds_per_epoch: float | None
    images_per_second: Mapping[int, float]
    """By the number of images at a time."""
    peak_memory: int | None
    """Bytes, in training: of the device on a GPU, of the process on a CPU."""
    conditions: Mapping[str, Mapping[int, float]]
    """Accuracy on the corrupted copy by alteration and severity."""
    config: Mapping[str, Any]
    openings: int
    folders: tuple[str, ...]
    notes: tuple[str, ...]
    memory_shared: bool = False
    """Whether `peak_memory` is an upper bound: see `Cost.shared`."""
    test_models: int = 0
    """Different models that were measured on this test part by now; 0 where it stays locked."""
    trained_on: tuple[str, ...] = ()
    """The devices of training, where they are others than what measures."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        scores = {
            name: score.to_dict() if (score := getattr(self, name)) else None
            for name in ("validation", "corrupted", "test")
        }
        lists = {name: list(getattr(self, name)) for name in ("folders", "notes", "trained_on")}
        return {**vars(self), **scores, **lists}


def measured_row(candidate: ComparedModel, bench: Benchmark) -> ComparisonRow:
    """Put a candidate on the bench: every seed of it for the scores, its first for the speed."""
    manifests = [read_bundle(folder).manifest for folder in candidate.folders]
    found = [bench.measure(folder) for folder in candidate.folders]
    first, manifest = candidate.folders[0], manifests[0]
    costs = candidate.costs
    recorded = costs[0].trainable_parameters if costs else None
    return ComparisonRow(
        label=candidate.label,
        kind=candidate.kind,
        backbone=_backbone(manifest),
        image_size=manifest.preprocessing.image_size,
        seeds=len(found),
        epochs=None if is_baseline(manifest.config.backbone) else manifest.config.epochs,
        **_pooled(found),
        parameters=parameters(first),
        trainable_parameters=recorded if recorded is not None else trainable_parameters(manifest),
        seconds_per_epoch=median(cost.seconds_per_epoch for cost in costs) if costs else None,
        images_per_second=bench.speed(first),
        peak_memory=max(cost.peak_memory for cost in costs) if costs else None,
        config=public_config(manifest.config.to_dict()),
        folders=tuple(map(public_path_from_here, candidate.folders)),
        notes=candidate.notes,
        memory_shared=any(cost.shared for cost in costs),
        trained_on=_elsewhere(costs, bench.device),
    )


def _elsewhere(costs: Sequence[Cost], device: str) -> tuple[str, ...]:
    here = device_name(torch.device(device))
    return tuple(sorted({cost.device for cost in costs} - {here, ""}))


def _pooled(found: list[Measured]) -> dict[str, Any]:
    f1 = [one.macro_f1 for one in found if one.macro_f1 is not None]
    return {
        "validation": Score.pooled([one.validation for one in found]),
        "corrupted": Score.pooled([one.corrupted for one in found]),
        "test": Score.pooled([one.test for one in found]),
        "macro_f1": mean(f1) if f1 else None,
        "conditions": _mean_conditions([one.conditions for one in found]),
        "openings": max(one.openings for one in found),
        "test_models": max(one.accesses.models if one.accesses else 0 for one in found),
    }


def _mean_conditions(found: list[Mapping[str, Mapping[int, float]]]) -> dict[str, dict[int, float]]:
    return {
        name: {severity: mean(one[name][severity] for one in found) for severity in severities}
        for name, severities in found[0].items()
    }


def _backbone(manifest: Manifest) -> str:
    if not manifest.members:
        return manifest.config.backbone
    return " + ".join(sorted({member.config.backbone for member in manifest.members}))


def parameters(folder: Path) -> int:
    """Of all networks of a bundle."""
    return sum(count_parameters(network.module)[0] for network in networks_of(read_bundle(folder)))


def trainable_parameters(manifest: Manifest) -> int | None:
    """In the phase of the configuration that trains most; None of what joins several models."""
    if manifest.stage in ("ensemble", "soup"):
        return None
    deepest = max(manifest.config.phase_configs(), key=lambda config: config.unfreeze_depth)
    return count_parameters(build_model(_at_once(deepest), len(manifest.classes), initialise=False).model)[1]


def _at_once(config: TrialConfig) -> TrialConfig:
    return config.replace(unfreezing="at-once")

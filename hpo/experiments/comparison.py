"""The measurement of compared models: one row of figures for each, and the models that could not be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from hpo.bundle.bundle import read_bundle
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import networks_of
from hpo.corruption_family import FamilyName
from hpo.data import Progress
from hpo.errors import HpoError
from hpo.evaluation.intervals import Score
from hpo.evaluation.metrics import Report
from hpo.evaluation.robustness import Accuracies, Errors, RelativeErrors, mean_accuracies, relative_errors
from hpo.experiments.benchmark import Benchmark, Measured
from hpo.experiments.compared_model import ComparedModel, Cost
from hpo.models.baselines import is_baseline
from hpo.models.built_model import build_model, count_parameters
from hpo.private_paths import public_config, public_path_from_here
from hpo.training.tuning import device_name


@dataclass(frozen=True)
class ComparisonRow:
    """The figures of one compared model, None where there is none; means over several seeds."""

    label: str
    kind: str
    backbone: str
    image_size: int
    seeds: int
    epochs: int | None
    """None for a baseline, which is not trained."""
    validation: Score | None
    corrupted: Score | None
    test: Score | None
    macro_f1: float | None
    parameters: int
    trainable_parameters: int | None
    """In the phase that trains most; None if several models are joined."""
    seconds_per_epoch: float | None
    images_per_second: Mapping[int, float]
    """By the number of images at a time."""
    peak_memory: int | None
    """Bytes, in training: of the device on a GPU, of the process on a CPU."""
    conditions: Accuracies
    """Accuracy under the corruptions that a search may see."""
    config: Mapping[str, Any]
    openings: int
    folders: tuple[str, ...]
    notes: tuple[str, ...]
    memory_shared: bool = False
    """Whether `peak_memory` is an upper bound: see `Cost.shared`."""
    test_models: int = 0
    """Different models that were measured on this test part so far; 0 if it stays locked."""
    trained_on: tuple[str, ...] = ()
    """The devices of training that differ from the one that measures."""
    unseen: Score | None = None
    """Under the corruptions that no search sees."""
    unseen_conditions: Accuracies = field(default_factory=dict)
    """Accuracy under them by kind and severity."""
    other: Score | None = None
    """On the images of another laboratory."""
    other_balanced: float | None = None
    """The balanced accuracy there, since such a set often has few images of some classes."""
    other_notes: tuple[str, ...] = ()
    """Lines on those images: which classes are missing or renamed, what was left out."""
    errors: Mapping[FamilyName, RelativeErrors] = field(default_factory=dict)
    """Errors under corruptions relative to those of the model `baseline`; empty where one of the two has none."""
    baseline: str = ""
    image_errors: Mapping[FamilyName, Errors] = field(default_factory=dict, compare=False, repr=False)
    """Errors by kind and image, for intervals; not part of `to_dict`."""

    @property
    def families(self) -> dict[FamilyName, Accuracies]:
        """Accuracy by kind and severity of every family that was measured."""
        known: dict[FamilyName, Accuracies] = {"seen": self.conditions, "unseen": self.unseen_conditions}
        return {name: found for name, found in known.items() if found}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        scores = {
            name: score.to_dict() if (score := getattr(self, name)) else None
            for name in ("validation", "corrupted", "unseen", "test", "other")
        }
        lists = {name: list(getattr(self, name)) for name in ("folders", "notes", "other_notes", "trained_on")}
        errors = {name: found.to_dict() for name, found in self.errors.items()}
        plain = {name: value for name, value in vars(self).items() if name != "image_errors"}
        return {**plain, **scores, **lists, "errors": errors}


def with_relative_errors(rows: Sequence[ComparisonRow], baseline: str) -> list[ComparisonRow]:
    """Return the rows with their errors under corruptions relative to those of the model with the label `baseline`."""
    base = next((row for row in rows if row.label == baseline), None)
    return [replace(row, baseline=baseline, errors=_relative_to(base, row) if base else {}) for row in rows]


def _relative_to(base: ComparisonRow, row: ComparisonRow) -> dict[FamilyName, RelativeErrors]:
    """Return the errors of a row relative to those of `base`, with intervals, by family."""
    common = [name for name in row.families if name in base.families]
    return {
        name: relative_errors(row.families[name], base.families[name]).with_interval(
            row.image_errors.get(name), base.image_errors.get(name)
        )
        for name in common
    }


def measure_models(
    models: Sequence[ComparedModel],
    benchmark: Benchmark,
    counting: Callable[[str], AbstractContextManager[Progress | None]],
    report: Callable[[str], None],
) -> tuple[list[ComparisonRow], list[ComparedModel]]:
    """Measure the models; return their rows, best on validation first, and the models without one, with the reason.

    `counting` shows the progress of what it is given the name of; `report` takes a line for each model. Raises HpoError
    if no model could be measured.
    """
    rows: list[ComparisonRow] = []
    missing: list[ComparedModel] = []
    for model in models:
        if not model.folders:
            report(f"hpo: {model.label} gave no model: {'; '.join(model.notes)}")
            missing.append(model)
            continue
        report(f"measuring {model.label}")
        try:
            with counting(f"images of {model.label}") as progress:
                rows.append(measure_row(model, replace(benchmark, progress=progress)))
        except (HpoError, OSError) as error:
            # The test part has been opened for the other models, so their figures must not be lost.
            report(f"hpo: {model.label} cannot be measured: {error}")
            missing.append(replace(model, notes=(*model.notes, str(error))))
    if not rows:
        raise HpoError("no model could be measured; mend the cause, or compare them under another --name")
    return sorted(rows, key=lambda row: -row.validation.value if row.validation else 1.0), missing


def measure_row(model: ComparedModel, benchmark: Benchmark) -> ComparisonRow:
    """Measure a model: the scores with every seed, the speed with the first."""
    manifests = [read_bundle(folder).manifest for folder in model.folders]
    results = [benchmark.measure(folder) for folder in model.folders]
    first, manifest = model.folders[0], manifests[0]
    costs = model.costs
    recorded = costs[0].trainable_parameters if costs else None
    return ComparisonRow(
        label=model.label,
        kind=model.kind,
        backbone=_backbone(manifest),
        image_size=manifest.preprocessing.image_size,
        seeds=len(results),
        epochs=None if is_baseline(manifest.config.backbone) else manifest.config.epochs,
        **_pooled(results),
        parameters=_parameters(first),
        trainable_parameters=recorded if recorded is not None else trainable_parameters(manifest),
        seconds_per_epoch=median(cost.seconds_per_epoch for cost in costs) if costs else None,
        images_per_second=benchmark.measure_speed(first),
        peak_memory=max(cost.peak_memory for cost in costs) if costs else None,
        config=public_config(manifest.config.to_dict()),
        folders=tuple(map(public_path_from_here, model.folders)),
        notes=model.notes,
        other_notes=results[0].other_notes,
        memory_shared=any(cost.shared for cost in costs),
        trained_on=_other_devices(costs, benchmark.device),
    )


def _other_devices(costs: Sequence[Cost], device: str) -> tuple[str, ...]:
    here = device_name(torch.device(device))
    return tuple(sorted({cost.device for cost in costs} - {here, ""}))


def _pooled(results: list[Measured]) -> dict[str, Any]:
    f1 = [one.macro_f1 for one in results if one.macro_f1 is not None]
    return {
        "validation": Score.pooled([one.validation for one in results]),
        "test": Score.pooled([one.test for one in results]),
        "macro_f1": mean(f1) if f1 else None,
        "openings": max(one.openings for one in results),
        "test_models": max(one.accesses.models if one.accesses else 0 for one in results),
        **_pooled_family("seen", "corrupted", "conditions", results),
        **_pooled_family("unseen", "unseen", "unseen_conditions", results),
        **_pooled_other([one.other for one in results if one.other is not None]),
        "image_errors": _image_errors(results),
    }


def _image_errors(results: list[Measured]) -> dict[FamilyName, Errors]:
    """Return the mean errors by kind and image under each family where they are known."""
    names: tuple[FamilyName, ...] = ("seen", "unseen")
    return {name: errors for name in names if (errors := _mean_errors(name, results)) is not None}


def _mean_errors(name: FamilyName, results: list[Measured]) -> Errors | None:
    """Return the mean errors by kind and image under a family; None where they are not known of every model."""
    found = [one.families[name].errors for one in results if name in one.families]
    known = [errors for errors in found if errors is not None]
    return np.mean(known, axis=0) if known and len(known) == len(found) else None


def _pooled_family(name: FamilyName, score: str, conditions: str, results: list[Measured]) -> dict[str, Any]:
    """Return the mean score and accuracies under a family, by the names of their fields."""
    found = [one.families[name] for one in results if name in one.families]
    accuracies = mean_accuracies([one.accuracies for one in found])
    return {score: Score.pooled([one.accuracy for one in found]), conditions: accuracies}


def _pooled_other(reports: list[Report]) -> dict[str, Any]:
    return {
        "other": Score.pooled([Score.of(report.accuracy, report.n) for report in reports]),
        "other_balanced": mean(report.balanced_accuracy for report in reports) if reports else None,
    }


def _backbone(manifest: Manifest) -> str:
    if not manifest.members:
        return manifest.config.backbone
    return " + ".join(sorted({member.config.backbone for member in manifest.members}))


def _parameters(folder: Path) -> int:
    """Return the number of parameters of all networks of a bundle."""
    return sum(count_parameters(network.module)[0] for network in networks_of(read_bundle(folder)))


def trainable_parameters(manifest: Manifest) -> int | None:
    """Return their number in the phase of the configuration that trains most; None if several models are joined."""
    if manifest.stage in ("ensemble", "soup"):
        return None
    # Gradual unfreezing starts with few trainable blocks.
    at_once = manifest.config.deepest_phase().replace(unfreezing="at-once")
    return count_parameters(build_model(at_once, len(manifest.classes), initialise=False).model)[1]

"""The report of a study or of a bundle: the order of its sections, its key figures, and the HTML."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna

from hpo.bundle.bundle import read_bundle
from hpo.bundle.calibrate import augmented_validation
from hpo.bundle.manifest import Manifest
from hpo.data import Dataset
from hpo.delivery.export import choose_trial, export_trial
from hpo.errors import BundleError
from hpo.evaluation.intervals import plus_minus
from hpo.hints import hint
from hpo.private_paths import public_path
from hpo.report import wording
from hpo.report.image_sections import data_section, saliency_section
from hpo.report.model_data import Figures, ModelData, ModelWithData, ReportOptions
from hpo.report.model_sections import calibration_section, class_section, confusion_section, origin_section
from hpo.report.noise_section import noise_section
from hpo.report.page import Page, Section, Tile, render
from hpo.report.robustness_section import robustness_section, robustness_tiles
from hpo.report.search_sections import best_configuration, cost, history, search_sections
from hpo.report.sets_section import sets_section
from hpo.report.study_data import StudyData, read_study
from hpo.search.ranking import RankedConfiguration
from storage import CheckpointStore, Database

MODEL_SECTIONS = (
    ("classes", "Scores by class"),
    ("confusion", "What is confused"),
    ("calibration", "Calibration"),
    ("sets", "Prediction sets"),
    ("saliency", "Where the model looks"),
    ("robustness", "Robustness"),
)


CHOSEN = {
    "exported": "The validation part has chosen this model's epoch, and its trial among the others: its figures there "
    "are a little too good.",
    "ensemble": "The validation part has chosen the members of this ensemble: its figures there are too good. What it "
    "does on images that its members were not chosen by stands under Joint model and best single trial.",
    "soup": "The validation part has chosen the trials of this soup: its figures there are too good. What it does on "
    "images that they were not chosen by stands under Joint model and best single trial.",
}
"""Notes on what was chosen by the validation part, by stage; a retrained model has figures only on the test part."""


def report_study(
    db: Database, study: optuna.Study, store: CheckpointStore, data: Path | None, options: ReportOptions
) -> str:  # fmt: skip
    """Return the report of `study` at this moment, with its best trial from `store` and images from `data`.

    If no trial can be exported, the sections about the model say why. Raises StudyError if hpo did not create the
    study, DataError if `data` is other data, ModelError for a backbone that is unknown on this machine.
    """
    study_data = read_study(db, study)
    with tempfile.TemporaryDirectory(prefix="hpo-report-") as folder:
        try:
            export_trial(study, choose_trial(study), store, Path(folder, "best"))
            bundle = read_bundle(Path(folder, "best"))
        except BundleError as error:
            return render(study_page(study_data, None, None, str(error)))
        with_data = ModelWithData.of(bundle, data, options) if data is not None else None
        return render(study_page(study_data, ModelData(bundle), with_data, ""))


def report_bundle(folder: Path, data: Path | None, options: ReportOptions, *, place: str = "") -> str:
    """Return the report of the bundle in `folder`; raise BundleError if it is none, other errors as `report_study`.

    `place` is the bundle's URL if the folder is a download.
    """
    bundle = read_bundle(folder)
    with_data = ModelWithData.of(bundle, data, options) if data is not None else None
    return render(bundle_page(ModelData(bundle, public_path(place or folder)), with_data))


def study_page(study: StudyData, model: ModelData | None, with_data: ModelWithData | None, reason: str) -> Page:
    """Return the page of a study; without a `model`, `reason` says in one line why there is none."""
    how = hint("report", study.name, data="DATA", out="report.html")
    if model is not None:
        about = model_sections(model, with_data, how)
    else:
        about = [Section(key, title, missing=f"No model to show: {reason}.") for key, title in MODEL_SECTIONS]
    sections = [
        _data(study.spec.data, model, with_data),
        history(study),
        *([noise_section(study)] if study.searches else []),
        *search_sections(study),
        best_configuration(study),
        *about,
        cost(study),
    ]
    return Page(
        title=study.name, kind="study", subtitle=_study_line(study), tiles=study_tiles(study, model),
        sections=sections, made=_now(), notes=_notes(study),
    )  # fmt: skip


def _study_line(study: StudyData) -> str:
    best = study.best_trial
    searched = f"space {study.spec.space.get('name')}, {study.spec.metric} on the validation part"
    if study.spec.robustness:
        searched += f", robustness {study.spec.robustness:g}"
    if best is None:
        return f"Searched in {searched}; no complete trial yet."
    config = best.record.config
    return (
        f"Best: trial {best.number}, {config.get('backbone', 'unknown backbone')} at {config.get('image_size', '?')} "
        f"pixels. Searched in {searched}."
    )


def _notes(study: StudyData) -> list[str]:
    notes = []
    running = study.counts.get("running", 0)
    if running:
        notes.append(f"The search goes on: {running} of its trials are running.")
    if study.best is not None:
        apart = "" if study.test_results else ", which no figure on this page comes from,"
        notes.append(
            "The best of many trials was chosen on the validation part, so its figures there are a little too good; "
            f"the locked test part{apart} shows how much."
        )
    return notes


def bundle_page(model: ModelData, with_data: ModelWithData | None) -> Page:
    """Return the page of a bundle; without its data, the sections that need images say how to add them."""
    manifest = model.manifest
    origin = {
        "classes": list(manifest.classes), "counts": manifest.data.counts, "split": manifest.data.split,
        "findings": manifest.data.findings,
    }  # fmt: skip
    backbones = sorted({member.config.backbone for member in manifest.members}) or [manifest.config.backbone]
    how = hint("report", model.place, data="DATA", out="report.html")
    return Page(
        title=Path(model.place).resolve().name, kind="bundle", made=_now(),
        tiles=[*_fold_tile(manifest), *model_tiles(model)],
        subtitle=f"{', '.join(backbones)} at {manifest.preprocessing.image_size} pixels, "
        f"{manifest.stage} from study {manifest.study}.",
        sections=[_data(origin, model, with_data), origin_section(model), *model_sections(model, with_data, how)],
        notes=[CHOSEN[manifest.stage]] if manifest.stage in CHOSEN else (),
    )  # fmt: skip


def model_sections(model: ModelData, with_data: ModelWithData | None, how: str) -> list[Section]:
    """Return all sections about a model; `how` is the command that adds the images."""
    return [
        class_section(model),
        confusion_section(model, with_data),
        calibration_section(model),
        sets_section(model),
        saliency_section(with_data, how),
        robustness_section(model, with_data, how),
    ]


def _data(origin: Mapping[str, Any], model: ModelData | None, with_data: ModelWithData | None) -> Section:
    known = model.validation if model else None
    support = {name: one["support"] for name, one in known.scores["classes"].items()} if known else {}
    dataset: Dataset | None = with_data.dataset if with_data else None
    return data_section(origin, support, dataset, openings=model.openings if model else ())


def _now() -> datetime:
    return datetime.now(UTC)


def study_tiles(study: StudyData, model: ModelData | None) -> list[Tile]:
    """Return the key figures of a study: the best value, the number of trials, the training time."""
    # The figures of a model that was trained in one fold are not the value by which its trial was chosen.
    tiles = [*_value_tile(study, of_folds=model is not None), *(model_tiles(model) if model else [])]
    counts = study.counts
    finished = sum(counts.get(state, 0) for state in ("complete", "pruned", "failed"))
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    seconds = sum(trial.seconds for trial in study.trials)
    devices = sorted({trial.record.device for trial in study.trials if trial.record.device})
    return [
        *tiles,
        Tile("Finished trials", f"{finished:,}", states or "none yet"),
        Tile("Training time", wording.rough(seconds), f"all trials together, {', '.join(devices) or 'no device yet'}"),
    ]


def _value_tile(study: StudyData, *, of_folds: bool) -> list[Tile]:
    """Return the value that the best trial recorded; with `of_folds` only where it is one of folds."""
    best = study.best_trial
    if best is None or best.value is None:
        return []
    folds = best.record.folds.get("values", [])
    if folds:
        return [_mean_tile(study.spec.value_name, best.value, best.error, len(folds), f"trial {best.number}, ")]
    seeds = [_seeds_tile(study.spec.value_name, study.winner)] if study.winner else []
    clean, altered = best.record.clean, best.record.altered
    if clean is not None and altered is not None:
        detail = f"trial {best.number}: {_words(study.spec.metric)} {clean:.4f} clean, {altered:.4f} altered"
        return [*seeds, Tile("Value on validation images", plus_minus(best.value, best.error), detail)]
    if of_folds:
        return seeds
    value = plus_minus(best.value, best.error)
    return [*seeds, Tile(f"Validation {_words(study.spec.metric)}", value, f"trial {best.number}")]


def _seeds_tile(name: str, winner: RankedConfiguration) -> Tile:
    """Return the mean over seeds of the best configuration, with its lower bound."""
    numbers = ", ".join(str(trial.number) for trial in winner.trials)
    detail = f"{len(winner.values)} seeds, trials {numbers}; lower bound {winner.lower:.4f}"
    return Tile(f"Mean {_words(name)} over seeds", plus_minus(winner.mean, winner.standard_error), detail)


def _fold_tile(manifest: Manifest) -> list[Tile]:
    """Return the mean over the folds of a model's one trial; nothing without folds."""
    folds = manifest.folds
    if folds is None or manifest.members or manifest.ingredients:
        return []
    value, of = fmean(folds.values), f"trial {manifest.trial}, "
    return [_mean_tile(manifest.value_name, value, folds.standard_error, len(folds.values), of)]


def _mean_tile(metric: str, value: float, noise: float | None, folds: int, of: str) -> Tile:
    """Return the mean over folds with its standard error; `of` says whose it is."""
    error = "" if noise is None else " ± its standard error"
    return Tile(f"Mean {_words(metric)}", plus_minus(value, noise), f"{of}{wording.counted(folds, 'fold')}{error}")


def model_tiles(model: ModelData) -> list[Tile]:
    """Return the key figures of a model: accuracy with its interval, macro F1, calibration, on the same images.

    A retrained model without a test has only figures of its trial, and their names say so.
    """
    shown = model.figures
    tiles = [] if shown is None else _figures(model, shown)
    if model.test is not None and model.validation is not None:
        tiles.append(_accuracy("Validation accuracy of the trial", model.validation.scores))
    return [*tiles, *robustness_tiles(model)]


def _figures(model: ModelData, shown: Figures) -> list[Tile]:
    of = " of the trial" if model.retrained and model.test is None else ""
    where = f"{shown.part} part{_augmented(model) if shown.part == 'validation' else ''}"
    tiles = [
        _accuracy(f"{shown.part.capitalize()} accuracy{of}", shown.scores),
        Tile(f"Macro F1{of}", f"{shown.scores['macro_f1']:.4f}", f"mean over the classes, {where}"),
    ]
    found = model.calibration
    if found is not None and found.fitted:
        detail = f"{wording.percent(found.before.ece, 2)} as trained, temperature {found.temperature:.2f}, {where}"
        tiles.append(Tile(f"Calibration error{of}", wording.percent((found.after or found.before).ece, 2), detail))
    return tiles


def _augmented(model: ModelData) -> str:
    return ", augmented images" if augmented_validation(model.manifest.config) else ""


def _accuracy(name: str, scores: Mapping[str, Any]) -> Tile:
    low, high = scores["interval"]
    return Tile(name, f"{scores['accuracy']:.4f}", f"95 % interval {low:.4f} to {high:.4f}, n {scores['n']:,}")


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1")

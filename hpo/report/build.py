"""The key figures on top of the page.

The two doors: a study, or a bundle, to the HTML of its report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna

from hpo.bundle.bundle import read_bundle
from hpo.bundle.calibrate import altered_validation
from hpo.data import Dataset
from hpo.delivery.export import choose_trial, export_trial
from hpo.errors import BundleError
from hpo.hints import hint
from hpo.private_paths import public_path
from hpo.report import wording
from hpo.report.image_sections import data_section, robustness_section, saliency_section
from hpo.report.model_data import BenchOptions, Figures, ModelData, ModelWithData
from hpo.report.model_sections import calibration_section, class_section, confusion_section, origin_section
from hpo.report.page import Page, Section, Tile, render
from hpo.report.search_sections import best_configuration, cost, search_sections
from hpo.report.study_data import StudyData, read_study
from storage import CheckpointStore, Database


def study_tiles(facts: StudyData, model: ModelData | None) -> list[Tile]:
    """Of a study: what its best trial reached, how many trials there were, what they took."""
    tiles = model_tiles(model) if model else _value_tile(facts)
    counts = facts.counts
    finished = sum(counts.get(state, 0) for state in ("complete", "pruned", "failed"))
    told = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    seconds = sum(trial.seconds for trial in facts.trials)
    devices = sorted({trial.record.device for trial in facts.trials if trial.record.device})
    return [
        *tiles,
        Tile("Finished trials", f"{finished:,}", told or "none yet"),
        Tile("Training time", wording.rough(seconds), f"all trials together, {', '.join(devices) or 'no device yet'}"),
    ]


def _value_tile(facts: StudyData) -> list[Tile]:
    """What the best trial says of itself, where its predictions are not at hand."""
    best = facts.best_trial
    if best is None or best.value is None:
        return []
    return [Tile(f"Validation {_words(facts.spec.metric)}", f"{best.value:.4f}", f"trial {best.number}")]


def model_tiles(facts: ModelData) -> list[Tile]:
    """Of a model: accuracy with its interval, macro F1, calibration, all on the same images; the trial's last.

    Of a retrained model without a test there are figures of its trial alone, and each says so.
    """
    shown = facts.figures
    tiles = [] if shown is None else _figures(facts, shown)
    if facts.test is not None and facts.validation is not None:
        tiles.append(_accuracy("Validation accuracy of the trial", facts.validation.scores))
    return tiles


def _figures(facts: ModelData, shown: Figures) -> list[Tile]:
    of = " of the trial" if facts.retrained and facts.test is None else ""
    where = f"{shown.part} part{_altered(facts) if shown.part == 'validation' else ''}"
    tiles = [
        _accuracy(f"{shown.part.capitalize()} accuracy{of}", shown.scores),
        Tile(f"Macro F1{of}", f"{shown.scores['macro_f1']:.4f}", f"mean over the classes, {where}"),
    ]
    found = facts.calibration
    if found is not None and found.fitted:
        told = f"{wording.percent(found.before.ece, 2)} as trained, temperature {found.temperature:.2f}, {where}"
        tiles.append(Tile(f"Calibration error{of}", wording.percent((found.after or found.before).ece, 2), told))
    return tiles


def _altered(facts: ModelData) -> str:
    return ", altered images" if altered_validation(facts.manifest.config) else ""


def _accuracy(name: str, scores: Mapping[str, Any]) -> Tile:
    low, high = scores["interval"]
    return Tile(name, f"{scores['accuracy']:.4f}", f"95 % interval {low:.4f} to {high:.4f}, n {scores['n']:,}")


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1")


MODEL_SECTIONS = (
    ("classes", "Scores by class"),
    ("confusion", "What is confused"),
    ("calibration", "Calibration"),
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
"""What the validation part has decided, by stage; a retrained model has figures of its own on the test part alone."""


def report_study(
    db: Database, study: optuna.Study, store: CheckpointStore, data: Path | None, options: BenchOptions
) -> str:  # fmt: skip
    """The report of `study` as it stands; its best trial is taken from `store`, images from `data`.

    Without a trial that can be exported the sections about the model say why. Raises StudyError where the study is
    none of ours, DataError where `data` is not its data, ModelError for a backbone that is unknown here.
    """
    facts = read_study(db, study)
    with tempfile.TemporaryDirectory(prefix="hpo-report-") as folder:
        try:
            export_trial(study, choose_trial(study), store, Path(folder, "best"))
            bundle = read_bundle(Path(folder, "best"))
        except BundleError as error:
            return render(study_page(facts, None, None, str(error)))
        bench = ModelWithData.of(bundle, data, options) if data is not None else None
        return render(study_page(facts, ModelData(bundle), bench, ""))


def report_bundle(folder: Path, data: Path | None, options: BenchOptions, *, place: str = "") -> str:
    """The report of the bundle in `folder`; BundleError where it is none, otherwise as in `report_study`.

    `place` is how its user calls it, where that is not the folder: an s3:// URL.
    """
    bundle = read_bundle(folder)
    bench = ModelWithData.of(bundle, data, options) if data is not None else None
    return render(bundle_page(ModelData(bundle, public_path(place or folder)), bench))


def study_page(facts: StudyData, model: ModelData | None, bench: ModelWithData | None, reason: str) -> Page:
    """The page of a study; without a `model`, `reason` says in one line why there is none."""
    how = hint("report", facts.name, data="DATA", out="report.html")
    if model is not None:
        about = model_sections(model, bench, how)
    else:
        about = [Section(key, title, missing=f"No model to show: {reason}.") for key, title in MODEL_SECTIONS]
    sections = [
        _data(facts.spec.data, model, bench),
        *search_sections(facts),
        best_configuration(facts),
        *about,
        cost(facts),
    ]
    return Page(
        title=facts.name, kind="study", subtitle=_study_line(facts), tiles=study_tiles(facts, model),
        sections=sections, made=_now(), notes=_notes(facts),
    )  # fmt: skip


def _study_line(facts: StudyData) -> str:
    best = facts.best_trial
    searched = f"space {facts.spec.space.get('name')}, {facts.spec.metric} on the validation part"
    if best is None:
        return f"Searched in {searched}; no complete trial yet."
    config = best.record.config
    return (
        f"Best: trial {best.number}, {config.get('backbone', 'unknown backbone')} at {config.get('image_size', '?')} "
        f"pixels. Searched in {searched}."
    )


def _notes(facts: StudyData) -> list[str]:
    notes = []
    running = facts.counts.get("running", 0)
    if running:
        notes.append(f"The search goes on: {running} of its trials are running.")
    if facts.best is not None:
        notes.append(
            "The best of many trials was chosen on the validation part, so its figures there are a little too good; "
            "the locked test part, which nothing on this page has seen, says how much."
        )
    return notes


def bundle_page(model: ModelData, bench: ModelWithData | None) -> Page:
    """The page of a bundle; without a `bench`, what needs images says how to get it."""
    manifest = model.manifest
    origin = {
        "classes": list(manifest.classes), "counts": manifest.data.counts, "split": manifest.data.split,
    }  # fmt: skip
    backbones = sorted({member.config.backbone for member in manifest.members}) or [manifest.config.backbone]
    how = hint("report", model.place, data="DATA", out="report.html")
    return Page(
        title=Path(model.place).resolve().name, kind="bundle", made=_now(), tiles=model_tiles(model),
        subtitle=f"{', '.join(backbones)} at {manifest.preprocessing.image_size} pixels, "
        f"{manifest.stage} from study {manifest.study}.",
        sections=[_data(origin, model, bench), origin_section(model), *model_sections(model, bench, how)],
        notes=[CHOSEN[manifest.stage]] if manifest.stage in CHOSEN else (),
    )  # fmt: skip


def model_sections(model: ModelData, bench: ModelWithData | None, how: str) -> list[Section]:
    """All sections about a model; `how` is the command that shows what needs images."""
    return [
        class_section(model),
        confusion_section(model, bench),
        calibration_section(model),
        saliency_section(bench, how),
        robustness_section(bench, how),
    ]


def _data(origin: Mapping[str, Any], model: ModelData | None, bench: ModelWithData | None) -> Section:
    known = model.validation if model else None
    support = {name: one["support"] for name, one in known.scores["classes"].items()} if known else {}
    classes: Sequence[str] = origin.get("classes", ())
    dataset: Dataset | None = bench.dataset if bench else None
    return data_section(classes, origin.get("counts", {}), str(origin.get("split", "not recorded")), support, dataset)


def _now() -> datetime:
    return datetime.now(UTC)

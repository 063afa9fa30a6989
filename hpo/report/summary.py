"""The key figures on top of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.delivery.calibrate import altered_validation
from hpo.report import wording
from hpo.report.model_facts import Figures, ModelFacts
from hpo.report.section import Tile
from hpo.report.study_facts import StudyFacts


def study_tiles(facts: StudyFacts, model: ModelFacts | None) -> list[Tile]:
    """Of a study: what its best trial reached, how many trials there were, what they took."""
    tiles = model_tiles(model) if model else _value_tile(facts)
    counts = facts.counts
    finished = sum(counts.get(state, 0) for state in ("complete", "pruned", "failed"))
    told = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    seconds = sum(trial.seconds for trial in facts.trials)
    devices = sorted({str(trial.attrs["device"]) for trial in facts.trials if "device" in trial.attrs})
    return [
        *tiles,
        Tile("Finished trials", f"{finished:,}", told or "none yet"),
        Tile("Training time", wording.rough(seconds), f"all trials together, {', '.join(devices) or 'no device yet'}"),
    ]


def _value_tile(facts: StudyFacts) -> list[Tile]:
    """What the best trial says of itself, where its predictions are not at hand."""
    best = facts.best_trial
    if best is None or best.value is None:
        return []
    return [Tile(f"Validation {_words(facts.spec.metric)}", f"{best.value:.4f}", f"trial {best.number}")]


def model_tiles(facts: ModelFacts) -> list[Tile]:
    """Of a model: accuracy with its interval, macro F1, calibration, all on the same images; the trial's last.

    Of a retrained model without a test there are figures of its trial alone, and each says so.
    """
    shown = facts.figures
    tiles = [] if shown is None else _figures(facts, shown)
    if facts.test is not None and facts.validation is not None:
        tiles.append(_accuracy("Validation accuracy of the trial", facts.validation.scores))
    return tiles


def _figures(facts: ModelFacts, shown: Figures) -> list[Tile]:
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


def _altered(facts: ModelFacts) -> str:
    return ", altered images" if altered_validation(facts.manifest.config) else ""


def _accuracy(name: str, scores: Mapping[str, Any]) -> Tile:
    low, high = scores["interval"]
    return Tile(name, f"{scores['accuracy']:.4f}", f"95 % interval {low:.4f} to {high:.4f}, n {scores['n']:,}")


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1")

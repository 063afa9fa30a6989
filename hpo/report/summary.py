"""The key figures on top of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpo.report import wording
from hpo.report.model_facts import ModelFacts
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
    """Of a model: accuracy with its interval, macro F1, calibration; of a proven one the test first."""
    tiles = []
    trial = " of the trial" if facts.manifest.stage == "retrained" else ""
    if facts.test is not None:
        tiles.append(_accuracy("Test accuracy", facts.test))
    if facts.scores is not None:
        tiles.append(_accuracy(f"Validation accuracy{trial}", facts.scores))
        tiles.append(Tile("Macro F1", f"{facts.scores['macro_f1']:.4f}", "mean over the classes, validation"))
    found = facts.calibration
    if found is not None and facts.manifest.calibration is not None:
        told = f"{wording.percent(found.before.ece, 2)} as trained, temperature {found.temperature:.2f}"
        tiles.append(Tile("Calibration error", wording.percent((found.after or found.before).ece, 2), told))
    return tiles


def _accuracy(name: str, scores: Mapping[str, Any]) -> Tile:
    low, high = scores["interval"]
    return Tile(name, f"{scores['accuracy']:.4f}", f"95 % interval {low:.4f} to {high:.4f}, n {scores['n']:,}")


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1")

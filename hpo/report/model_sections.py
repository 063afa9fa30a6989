"""Sections about a model that its stored predictions suffice for: origin, classes, confusions, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hpo.bundle.calibrate import altered_validation
from hpo.bundle.manifest import Manifest
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.metrics import wilson
from hpo.report import model_figures as figures_model
from hpo.report import pictures, wording
from hpo.report.model_data import CalibrationData, ModelData, ModelWithData
from hpo.report.page import Section
from hpo.report.reproduce import Recipe, bundle_recipe, delivery, joining
from hpo.report.search_sections import configuration_groups

NO_PREDICTIONS = "The bundle holds no report on a validation part; `hpo export-best` writes bundles that do."

STAGES = {
    "exported": "exported from its trial: trained on the train part alone",
    "retrained": "retrained: trained on train + validation, so that only a test part can measure it",
    "ensemble": "an ensemble of trials: the weighted mean of their probabilities",
    "soup": "a soup of trials: the mean of their weights",
}


def origin_section(facts: ModelData) -> Section:
    """Where the model of a bundle comes from, what the test part has said, how to use and make it again."""
    manifest = facts.manifest
    curve = manifest.curve
    return Section(
        "origin", "The model, and how to get it again",
        {
            "facts": _origin_facts(manifest),
            "trial": manifest.trial,
            "joint": manifest.stage in ("ensemble", "soup"),
            "svg": figures_model.trial_curve(curve, manifest.best_epoch, manifest.metric) if len(curve) > 1 else "",
            "members": [_member(m) for m in manifest.members],
            "joined": facts.bundle.metrics.get("joined"),
            "openings": [dict(opening) for opening in facts.openings],
            "groups": configuration_groups(manifest.config.to_dict(), set()),
            "recipe": _recipe(facts),
        },
    )  # fmt: skip


def _origin_facts(manifest: Manifest) -> list[tuple[str, str]]:
    joined = [member.trial for member in manifest.members] or list(manifest.ingredients)
    trials = f"trials {', '.join(map(str, joined))}" if joined else f"trial {manifest.trial}"
    rows = [
        ("stage", STAGES[manifest.stage]),
        ("from", f"{trials} of study {manifest.study}"),
        ("trained for", "" if joined else wording.counted(manifest.epochs, "epoch")),
        ("input", f"{manifest.preprocessing.image_size} pixels; {manifest.preprocessing.resize}"),
        ("data", f"fingerprint {manifest.data.fingerprint[:12]}"),
        ("weights", _weights(manifest)),
        ("seed", "" if joined else str(manifest.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]
    return [(name, value) for name, value in rows if value]


def _weights(manifest: Manifest) -> str:
    if not manifest.config.pretrained:
        return "trained from scratch"
    if manifest.weights.file is None:
        return "timm's own"
    return f"{manifest.weights.file}, digest {(manifest.weights.digest or 'unknown')[:12]}"


def _member(member: Any) -> dict[str, Any]:
    return {
        "trial": member.trial,
        "weight": member.weight,
        "backbone": member.config.backbone,
        "best_epoch": member.best_epoch,
        "temperature": member.temperature,
    }


def _recipe(facts: ModelData) -> Recipe:
    manifest = facts.manifest
    again, *use = bundle_recipe(facts.place).commands
    if manifest.stage in ("ensemble", "soup"):
        return Recipe([joining(manifest.study, soup=manifest.stage == "soup"), *use])
    return Recipe([delivery(manifest.study, manifest.trial)[0], again, *use])


def class_section(facts: ModelData) -> Section:
    """Precision, recall and F1 of every class."""
    shown = facts.figures
    if shown is None:
        return Section("classes", "Scores by class", missing=NO_PREDICTIONS)
    scores = shown.scores
    intervals = {name: _recall_interval(one) for name, one in scores["classes"].items()}
    floor = _floor(low for low, _ in intervals.values())
    rows = [
        {"name": name, **one, "interval": intervals[name], "drawn": _drawn(one["recall"], intervals[name], floor)}
        for name, one in scores["classes"].items()
    ]
    lowest = min((row["f1"] for row in rows if row["support"]), default=None)
    numbered = len(rows) > figures_model.MOST_NAMED
    values = {
        "rows": rows, "lowest": lowest, "scores": scores, "floor": floor, "numbered": numbered, "part": shown.part,
        "note": shown.note,
    }  # fmt: skip
    return Section("classes", "Scores by class", values)


def _recall_interval(score: Mapping[str, Any]) -> tuple[float, float]:
    """95 % Wilson interval of the recall; all of [0, 1] for a class without an image."""
    n = int(score["support"])
    return wilson(round(score["recall"] * n), n) if n else (0.0, 1.0)


def _floor(lows: Iterable[float]) -> float:
    """Where the axis of the intervals begins: a twentieth at or below all of them."""
    return math.floor(20 * min(lows, default=0.0)) / 20


def _drawn(recall: float, interval: tuple[float, float], floor: float) -> tuple[float, float, float]:
    """Ends of the interval and the recall on the axis from `floor` to 1, as shares of its length."""
    low, high, at = ((value - floor) / (1 - floor) for value in (*interval, recall))
    return low, high, at


def confusion_section(facts: ModelData, bench: ModelWithData | None) -> Section:
    """The confusion matrix, the worst pairs, and the images of these."""
    figures = facts.figures
    if figures is None:
        return Section("confusion", "What is confused", missing=NO_PREDICTIONS)
    scores = figures.scores
    names = list(scores["labels"])
    shown = _pair_images(facts, bench)
    pairs = [
        {**pair, "images": shown(names.index(pair["true"]), names.index(pair["predicted"])) if shown else []}
        for pair in scores["worst_pairs"]
    ]
    return Section(
        "confusion", "What is confused",
        {
            "svg": figures_model.confusion(scores["confusion"], names),
            "numbered": len(names) > figures_model.MOST_NAMED,
            "pairs": pairs,
            "with_images": shown is not None,
            "locked": figures.part == "test",
            "n": scores["n"],
            "part": figures.part,
            "note": figures.note,
        },
    )  # fmt: skip


def _pair_images(facts: ModelData, bench: ModelWithData | None) -> Any:
    """A function from a pair of class numbers to images, of the predictions that the matrix was counted from."""
    if bench is None or facts.test is not None:  # the test part stays locked
        return None
    stored = facts.bundle.validation
    classes = facts.manifest.classes
    if stored is not None and np.array_equal(stored.labels, bench.part.labels):
        rows = probabilities(stored.logits, facts.manifest.temperature)
    elif not bench.seen:
        rows = bench.probabilities
    else:
        return None
    return lambda true, predicted: pictures.mistakes(bench.part, rows, (true, predicted), classes)


def calibration_section(facts: ModelData) -> Section:
    """How far the probabilities can be believed, before and after temperature scaling."""
    title = "Calibration"
    shown, found = facts.figures, facts.calibration
    if shown is None or found is None:
        return Section("calibration", title, missing=_uncalibrated(facts))
    values = {
        "svg": figures_model.calibration(found.before, found.after),
        "rows": _calibration_rows(found),
        "told": _temperature(facts, found, shown.part),
        "chance": (found.after or found.before).chance_ece,
        "part": shown.part,
        "note": shown.note,
    }
    return Section("calibration", title, values)


def _uncalibrated(facts: ModelData) -> str:
    if facts.test is None and (reason := altered_validation(facts.manifest.config)):
        return f"Nothing is known of plain images: {reason}."
    if facts.test is not None:
        return "The bundle does not hold what the test part says of its probabilities; retrain it again to have that."
    return "The bundle holds no validation predictions; export it again with this version of hpo."


def _temperature(facts: ModelData, found: CalibrationData, part: str) -> str:
    """Which temperature is applied, what it was fitted on, and what the column beside measures."""
    if not found.fitted:
        return "The model is not calibrated: no temperature is applied."
    stored = facts.manifest.calibration
    fitted = f"fitted on {wording.counted(stored.n, 'validation image')}" if stored else "from an older bundle"
    if stored and stored.best_fit is not None and abs(math.log(stored.best_fit / stored.temperature)) >= 0.05:
        fitted += f" ({stored.best_fit:.3g} fits these best; drawn towards 1 by how little they show)"
    line = f"The temperature is {found.temperature:.3f}, {fitted}"
    if part == "test":
        return f"{line}. It is the temperature of {facts.trial}, another model; both columns are measured on the test."
    return f"{line}; the column beside measures each image under a temperature fitted without it."


def _calibration_rows(found: CalibrationData) -> list[tuple[str, float, float | None]]:
    """Name, before, after."""
    words = (("expected calibration error", "ece"), ("Brier score", "brier"), ("negative log-likelihood", "nll"))
    return [
        (name, getattr(found.before, key), getattr(found.after, key) if found.after else None) for name, key in words
    ]

"""Sections about a model that need only its stored predictions: origin, classes, confusions, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import numpy as np

from hpo.bundle.calibrate import augmented_validation
from hpo.bundle.manifest import FoldValues, Manifest
from hpo.bundle.stored_metrics import METRICS
from hpo.delivery.finishing import FINISHING, finishing_of
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.intervals import plus_minus
from hpo.evaluation.metrics import wilson
from hpo.report import model_figures, pictures, wording
from hpo.report.model_data import CalibrationData, ModelData, ModelWithData
from hpo.report.page import Section
from hpo.report.reproduce import Recipe, bundle_recipe, delivery, finished, joining
from hpo.report.search_sections import configuration_groups

NO_PREDICTIONS = "The bundle holds no report on a validation part; `hpo export-best` writes bundles that do."

STAGES = {
    "exported": "exported from its trial: trained on the train part alone",
    "retrained": "retrained: trained on train + validation, so only a test part can measure it",
    "ensemble": "an ensemble of trials: the weighted mean of their probabilities",
    "soup": "a soup of trials: the mean of their weights",
}


def origin_section(model: ModelData) -> Section:
    """Return the section about the origin of a model, its test accesses, and the commands to reproduce it."""
    manifest = model.manifest
    curve, name = manifest.curve, manifest.value_name
    return Section(
        "origin", "The model, and how to get it again",
        {
            "facts": _origin_facts(manifest),
            "trial": manifest.trial,
            "joint": manifest.stage in ("ensemble", "soup"),
            "svg": model_figures.trial_curve(curve, manifest.best_epoch, name) if len(curve) > 1 else "",
            "members": [_member(m) for m in manifest.members],
            "joined": model.bundle.metrics.get("joined"),
            "finishing": _finishing(model),
            "openings": [
                {**opening, "ours": opening.get("model") == model.bundle.model_digest} for opening in model.openings
            ],
            "groups": configuration_groups(manifest.config.to_dict(), set()),
            "recipe": _recipe(model),
        },
    )  # fmt: skip


def _origin_facts(manifest: Manifest) -> list[tuple[str, str]]:
    joined = [member.trial for member in manifest.members] or list(manifest.ingredients)
    trials = f"trials {', '.join(map(str, joined))}" if joined else f"trial {manifest.trial}"
    rows = [
        ("stage", STAGES[manifest.stage]),
        ("from", f"{trials} of study {manifest.study}"),
        ("folds", "" if joined else _folds(manifest.folds)),
        ("value", "" if joined else _robustness(manifest)),
        ("since then", _changed_since(manifest)),
        ("trained for", "" if joined else _trained_for(manifest)),
        ("input", f"{manifest.preprocessing.image_size} pixels; {manifest.preprocessing.resize}"),
        ("data", f"fingerprint {manifest.data.fingerprint[:12]}"),
        ("weights", _weights(manifest)),
        ("seed", "" if joined else str(manifest.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]
    return [(name, value) for name, value in rows if value]


def _trained_for(manifest: Manifest) -> str:
    probe = manifest.probe
    if probe is None:
        return wording.counted(manifest.epochs, "epoch")
    return f"none: a frozen probe, its linear head fitted at once on {wording.counted(probe.images, 'image')}"


def _folds(folds: FoldValues | None) -> str:
    """Return the values of the trial over folds; "" without folds."""
    if folds is None:
        return ""
    mean = plus_minus(fmean(folds.values), folds.standard_error)
    return f"mean {mean} over {len(folds.values)}: {', '.join(f'{value:.4f}' for value in folds.values)}"


def _changed_since(manifest: Manifest) -> str:
    """Return what was done to the weights or statistics of the trial; "" for nothing. The trial's figures are older."""
    adapted = manifest.adapted
    found = manifest.changes
    if adapted is not None:
        images = f"{adapted.images:,} of {adapted.found:,} unlabelled images of {', '.join(adapted.sources)}"
        found.append(f"BatchNorm statistics adapted to {images} (hpo adapt)")
    return "; ".join(found)


def _robustness(manifest: Manifest) -> str:
    """Return what the value of the trial is made of; "" where clean images alone counted."""
    found = manifest.robustness
    if found is None:
        return ""
    pair = f"{manifest.metric} {found.clean:.4f} on clean and {found.altered:.4f} on altered validation images"
    older = " (of the trial, before its statistics were adapted)" if manifest.adapted is not None else ""
    return f"{found.value:.4f}: {pair}, robustness {found.weight:g}{older}"


def _finishing(model: ModelData) -> dict[str, Any] | None:
    """Return what was tried after the search, for the page; None where the bundle does not say."""
    found = finishing_of(model.bundle.metrics, str(model.bundle.path / METRICS))
    if found is None or not found.tried:
        return None
    return {
        "metric": "value" if found.weight else found.metric.replace("_", " "),
        "images": found.images,
        "required": found.required,
        "rows": [
            {
                "name": one.name,
                "choice": one.choice,
                "after": one.after,
                "gain": one.gain,
                "error": one.error,
                "forwards": one.forwards,
                "result": "taken" if one.taken else one.why,
            }
            for one in found.tried
        ],
    }


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


def _recipe(model: ModelData) -> Recipe:
    manifest = model.manifest
    again, *use = bundle_recipe(model.place, retrained=model.retrained).commands
    if FINISHING in model.bundle.metrics and manifest.stage in ("ensemble", "soup"):
        return Recipe([finished(manifest.study), *use])
    if manifest.stage in ("ensemble", "soup"):
        return Recipe([joining(manifest.study, soup=manifest.stage == "soup"), *use])
    return Recipe([delivery(manifest.study, manifest.trial)[0], again, *use])


def class_section(model: ModelData) -> Section:
    """Return the section with precision, recall and F1 of every class."""
    shown = model.figures
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
    numbered = len(rows) > model_figures.MOST_NAMED
    values = {
        "rows": rows, "lowest": lowest, "scores": scores, "floor": floor, "numbered": numbered, "part": shown.part,
        "note": shown.note,
    }  # fmt: skip
    return Section("classes", "Scores by class", values)


def _recall_interval(score: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % Wilson interval of the recall; [0, 1] for a class without an image."""
    n = int(score["support"])
    return wilson(round(score["recall"] * n), n) if n else (0.0, 1.0)


def _floor(lows: Iterable[float]) -> float:
    """Return the start of the axis of the intervals: a multiple of 1/20 at or below all of them."""
    return math.floor(20 * min(lows, default=0.0)) / 20


def _drawn(recall: float, interval: tuple[float, float], floor: float) -> tuple[float, float, float]:
    """Return the ends of the interval and the recall on the axis from `floor` to 1, as shares of its length."""
    low, high, at = ((value - floor) / (1 - floor) for value in (*interval, recall))
    return low, high, at


def confusion_section(model: ModelData, with_data: ModelWithData | None) -> Section:
    """Return the section with the confusion matrix, the worst pairs, and images of these."""
    figures = model.figures
    if figures is None:
        return Section("confusion", "What is confused", missing=NO_PREDICTIONS)
    scores = figures.scores
    names = list(scores["labels"])
    shown = _pair_images(model, with_data)
    pairs = [
        {**pair, "images": shown(names.index(pair["true"]), names.index(pair["predicted"])) if shown else []}
        for pair in scores["worst_pairs"]
    ]
    return Section(
        "confusion", "What is confused",
        {
            "svg": model_figures.confusion(scores["confusion"], names),
            "numbered": len(names) > model_figures.MOST_NAMED,
            "pairs": pairs,
            "with_images": shown is not None,
            "locked": figures.part == "test",
            "n": scores["n"],
            "part": figures.part,
            "note": figures.note,
        },
    )  # fmt: skip


def _pair_images(model: ModelData, with_data: ModelWithData | None) -> Any:
    """Return a function from a pair of class numbers to images, for the predictions of the matrix, or None."""
    if with_data is None or model.test is not None:  # the test part stays locked
        return None
    stored = model.bundle.validation
    classes = model.manifest.classes
    if stored is not None and np.array_equal(stored.labels, with_data.part.labels):
        rows = probabilities(stored.logits, model.manifest.temperature)
    elif not with_data.seen:
        rows = with_data.probabilities
    else:
        return None
    return lambda true, predicted: pictures.mistakes(with_data.part, rows, (true, predicted), classes)


def calibration_section(model: ModelData) -> Section:
    """Return the section about calibration, before and after temperature scaling."""
    title = "Calibration"
    shown, found = model.figures, model.calibration
    if shown is None or found is None:
        return Section("calibration", title, missing=_uncalibrated(model))
    values = {
        "svg": model_figures.calibration(found.before, None if _same_calibration(found) else found.after),
        "rows": _calibration_rows(found),
        "same": _same_calibration(found),
        "temperature": _temperature(model, found, shown.part),
        "chance": (found.after or found.before).chance_ece,
        "part": shown.part,
        "note": shown.note,
    }
    return Section("calibration", title, values)


def _uncalibrated(model: ModelData) -> str:
    if model.test is None and (reason := augmented_validation(model.manifest.config)):
        return f"Nothing is known of plain images: {reason}."
    if model.test is not None:
        return "The bundle does not hold what the test part says of its probabilities; retrain it again to have that."
    return "The bundle holds no validation predictions; export it again with this version of hpo."


def _temperature(model: ModelData, found: CalibrationData, part: str) -> str:
    """Return which temperature is applied, what it was fitted on, and what the other column measures."""
    if not found.fitted:
        return "The model is not calibrated: no temperature is applied."
    stored = model.manifest.calibration
    fitted = f"fitted on {wording.counted(stored.n, 'validation image')}" if stored else "from an older bundle"
    if stored and stored.best_fit is not None and abs(math.log(stored.best_fit / stored.temperature)) >= 0.05:
        fitted += f" ({stored.best_fit:.3g} fits these best; kept closer to 1, because so few images show no more)"
    line = f"The temperature is {found.temperature:.3f}, {fitted}"
    if _same_calibration(found):
        return f"{line}: it changes no probability, so the figures as trained are those of the model as it is."
    if part == "test":
        return f"{line}. It is the temperature of {model.trial}, another model; both columns are measured on the test."
    return f"{line}; the column beside measures each image under a temperature fitted without it."


def _same_calibration(found: CalibrationData) -> bool:
    """Return whether the temperature is 1 and changes no figure of the table, so that one column says it."""
    figures = ((before, after) for _, before, after in _calibration_rows(found))
    return found.temperature == 1 and all(
        after is not None and f"{before:.4f}" == f"{after:.4f}" for before, after in figures
    )


def _calibration_rows(found: CalibrationData) -> list[tuple[str, float, float | None]]:
    """Return rows of name, value before, value after."""
    words = (("expected calibration error", "ece"), ("Brier score", "brier"), ("negative log-likelihood", "nll"))
    return [
        (name, getattr(found.before, key), getattr(found.after, key) if found.after else None) for name, key in words
    ]

"""The model card of a bundle, README.md: what is known about the model, for people, in Markdown.

It is written with the bundle, in the layout of a model hub (a head in YAML, then the text), and written anew when
metrics.json changes. All of it is taken from config.json and metrics.json; for what was not measured it names the
command that measures it. No digest of it is kept. A README.md that hpo did not write is never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpo.bundle.corrupted_card import BUNDLE, DATA, accuracy_cell, corruption_parts, kept_records
from hpo.bundle.json_files import read_json
from hpo.bundle.manifest import Manifest
from hpo.bundle.stored_metrics import METRICS, StoredCalibration, calibration_in, report_of
from hpo.errors import BundleError
from hpo.evaluation.intervals import Score
from hpo.files import write_file
from hpo.hints import hint
from hpo.markdown import NOTHING, literal, to_document, to_markdown
from search_spaces import TrialConfig

README = "README.md"

MARK = "<!-- hpo writes this file from config.json and metrics.json, and anew when they change. -->"

_CONFIG, _MODEL = "config.json", "model.safetensors"

_MARK_WITHIN = 2_000
"""Bytes at the beginning of README.md in which the mark lies, where hpo wrote it."""


def is_card(path: Path) -> bool:
    """Whether hpo wrote the file at `path`."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(_MARK_WITHIN)
    except OSError:
        return False


def refresh_card(bundle: Path) -> None:
    """Write the model card of the bundle at `bundle` anew; nothing where README.md is another's or cannot be written.

    A card is no reason for a measurement to fail, so what cannot be read leaves it as it is.
    """
    path = bundle / README
    if path.exists() and not is_card(path):
        return
    with suppress(OSError, BundleError):
        values = read_json(bundle / _CONFIG)
        stored = {key: value for key, value in values.items() if key not in ("bundle_format", "sha256")}
        manifest = Manifest.from_dict(stored, source=str(bundle / _CONFIG))
        digests = values.get("sha256")
        digest = digests.get(_MODEL, "") if isinstance(digests, Mapping) else ""
        write_file(path, card_text(manifest, read_json(bundle / METRICS), digest))


def card_text(manifest: Manifest, metrics: Mapping[str, Any], digest: str) -> str:
    """Return the model card of a bundle with this manifest, this content of metrics.json and this digest of weights."""
    metrics = {**metrics, "test": metrics.get("test") or _test_in_records(manifest, metrics, digest)}
    sections: dict[str, Callable[[Manifest, Mapping[str, Any]], Iterable[str]]] = {
        "Use": _use,
        "Figures": _figures,
        "Under corruptions": corruption_parts,
        "Calibration": _calibration,
        "Data": _data,
        "Recipe": _recipe,
        "Limits": _limits,
        "Reproduce": _reproduce,
    }
    parts = [_introduction(manifest)]
    for title, section in sections.items():
        parts += [f"## {title}\n", *(f"{part.rstrip()}\n" for part in section(manifest, metrics))]
    return f"{_head(manifest)}\n{MARK}\n\n{to_document(_title(manifest), parts, [])}"


def _test_in_records(manifest: Manifest, metrics: Mapping[str, Any], digest: str) -> dict[str, Any] | None:
    """Return accuracy and number of the last access to the model's own test part, of these very weights.

    `evaluate` keeps no other scores of it in a bundle.
    """
    for one in reversed(_openings(metrics)):
        own = one.get("model") == digest and one.get("data") == manifest.data.fingerprint
        if own and _is_scored(one):
            return {
                "accuracy": one["accuracy"],
                "n": one["n"],
                "interval": Score.of(one["accuracy"], one["n"]).interval,
            }
    return None


def _openings(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in metrics.get("test_openings") or [] if isinstance(one, Mapping)]


def _head(manifest: Manifest) -> str:
    """Return the head in YAML, as model hubs read it; JSON texts are YAML texts."""
    tags = ["image-classification", "timm", *dict.fromkeys(_backbones(manifest))]
    lines = ["library_name: hpo", "pipeline_tag: image-classification", "tags:", *(f"- {json.dumps(t)}" for t in tags)]
    return "\n".join(["---", *lines, "---"])


def _backbones(manifest: Manifest) -> list[str]:
    return [member.config.backbone for member in manifest.members] or [manifest.config.backbone]


def _title(manifest: Manifest) -> str:
    return f"{literal(manifest.study)}: {_origin(manifest)}"


def _origin(manifest: Manifest) -> str:
    """Return which trials the model is of, in words."""
    if manifest.members:
        return f"an ensemble of {_trials(len(manifest.members))}"
    if manifest.ingredients:
        return f"a soup of {_trials(len(manifest.ingredients))}"
    return f"trial {manifest.trial}{', trained again on train + val' if manifest.stage == 'retrained' else ''}"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _introduction(manifest: Manifest) -> str:
    size, count = manifest.preprocessing.image_size, len(manifest.classes)
    names = ", ".join(literal(name) for name in dict.fromkeys(_backbones(manifest)))
    return f"A classifier of images in {count} classes, {names} at {size} x {size} pixels, made with hpo.\n"


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _use(manifest: Manifest, metrics: Mapping[str, Any]) -> list[str]:
    return [
        f"{BUNDLE} is this folder.",
        _code("sh", hint("predict", BUNDLE, "IMAGES", out="predictions.csv")),
        _code(
            "python", "import hpo", "", f'model = hpo.load("{BUNDLE}")', 'for found in model.predict(["image.jpg"]):',
            "    print(found.name, found.label, found.probability)",
        ),
    ]  # fmt: skip


def _figures(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the scores on validation and test, and those of each class."""
    whose = "validation, of the model of the trial" if manifest.stage == "retrained" else "validation"
    names = {"validation": whose, "altered": "validation, altered by corruptions that a search may see", "test": "test"}
    known = {key: metrics[key] for key in names if _is_scored(metrics.get(key))}
    if known:
        rows = [_score_row(names[key], found) for key, found in known.items()]
        yield to_markdown(("images", "number", "accuracy, %", "balanced, %", "macro F1, %"), rows)
    for key, name in names.items():
        if key != "altered" and key not in known:
            yield f"Not measured: {name}. {_way_to_measure(manifest, key)}"
    if share := manifest.config.validation_augmented:
        yield f"Of the validation images {share:g} were augmented, so the figures are lower than on plain ones."
    yield from _classes(metrics)


def _is_scored(found: Any) -> bool:
    """Whether metrics.json, which may have been written by hand, has scores there."""
    return isinstance(found, Mapping) and all(isinstance(found.get(key), int | float) for key in ("accuracy", "n"))


def _score_row(name: str, found: Mapping[str, Any]) -> list[str]:
    number = f"{found['n']:,}" + (f", of {found['images']:,} images" if "images" in found else "")
    return [name, number, accuracy_cell(found["accuracy"], found.get("interval")), *(
        _percent(found.get(key)) for key in ("balanced_accuracy", "macro_f1")
    )]  # fmt: skip


def _way_to_measure(manifest: Manifest, key: str) -> str:
    if key == "test" and manifest.data.counts.get("test") == 0:
        return "The data have no test part."
    if key == "test" and manifest.stage != "retrained":
        retrain = hint("retrain", BUNDLE, data=DATA, out="final/")
        return f"`{hint('evaluate', BUNDLE, data=DATA)}` measures this model on the test part, `{retrain}` a new one."
    split = {"validation": "val"}.get(key, key)
    if split == "val" and manifest.stage == "retrained":
        return "The model has trained on these images."
    return f"`{hint('evaluate', BUNDLE, data=DATA, split=split)}` measures it."


def _classes(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a row for each class, of the test part if it was measured, else of validation."""
    for key in ("test", "validation"):
        with suppress(BundleError):
            found = report_of(metrics.get(key) or {}, METRICS)
            if found is not None:
                rows = [
                    [literal(name), f"{one.support:,}", *map(_percent, (one.precision, one.recall, one.f1))]
                    for name, one in found.classes.items()
                ]
                yield to_markdown((f"class ({key})", "images", "precision, %", "recall, %", "F1, %"), rows)
                return


def _calibration(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    found = manifest.calibration
    if found is None:
        yield "None: the probabilities are those of the network."
        return
    whose = ", of the model of the trial" if found.fitted_on == "trial" or manifest.adapted else ""
    yield f"The logits are divided by {found.temperature:.3f}, fitted on {found.n:,} validation images{whose}."
    rows: list[list[Any]] = [["validation, on which it was fitted", found.before.ece, found.after.ece, found.after.nll]]
    if found.held_out is not None:
        rows.append(["validation, cross-validated", None, found.held_out.ece, found.held_out.nll])
    if (test := _test_calibration(metrics)) is not None:
        rows.append(["test", test.before.ece, test.after.ece, test.after.nll])
    cells = ([name, *(NOTHING if value is None else f"{value:.4f}" for value in values)] for name, *values in rows)
    yield to_markdown(("images", "ECE before", "ECE", "NLL"), cells)


def _test_calibration(metrics: Mapping[str, Any]) -> StoredCalibration | None:
    with suppress(BundleError):
        stored = (metrics.get("test") or {}).get("calibration")
        return calibration_in(stored, METRICS) if stored else None
    return None


def _data(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    data = manifest.data
    parts = ", ".join(f"{count:,} {part}" for part, count in data.counts.items())
    grouped = f"; grouped by {literal(data.group_by)}" if data.group_by else ""
    images = f"{parts} images; " if parts else ""
    yield f"{images}{literal(data.split)}{grouped}; fingerprint `{data.fingerprint[:16]}`."
    if data.changes:
        yield f"{literal(data.changes.line())}."
    counts = data.class_counts or dict.fromkeys(manifest.classes)
    named = (literal(name) + ("" if count is None else f" ({count:,})") for name, count in counts.items())
    yield f"Classes{' with their images' if data.class_counts else ''}: {', '.join(named)}."


def _recipe(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    weights = manifest.weights
    if weights.file:
        start = f"{literal(weights.file)}, sha256 `{(weights.digest or '')[:16]}`"
    else:
        start = "weights of timm" if manifest.config.pretrained else "random weights"
    how = f"trained for {_epochs(manifest.epochs)}"
    if manifest.probe is not None:
        how = f"the backbone is frozen, a linear head was fitted to its features of {manifest.probe.images:,} images"
    yield f"Started from {start}; {how}; seed {manifest.seed}."
    if manifest.members:
        members = [[str(one.trial), f"{one.weight:.3g}", literal(one.config.backbone)] for one in manifest.members]
        yield to_markdown(("trial", "weight", "backbone"), members)
    if manifest.ingredients:
        yield f"Mean of the weights of trials {', '.join(map(str, manifest.ingredients))}."
    if changes := manifest.changes:
        yield f"Changed after training: {'; '.join(changes)}."
    if (adapted := manifest.adapted) is not None:
        yield f"BatchNorm statistics are adapted to {adapted.images:,} unlabelled images."
    if (made_of := manifest.robustness) is not None:
        yield (
            f"Chosen by {1 - made_of.weight:.4g} of the {manifest.metric} on validation images as they are "
            f"({made_of.clean:.4f}) and {made_of.weight:g} of that on altered ones ({made_of.altered:.4f})."
        )
    of = " of the best trial" if manifest.stage in ("ensemble", "soup") else ""
    yield f"Choices{of} that differ from the defaults:"
    yield to_markdown(("choice", "value"), _choices(manifest.config))


def _choices(config: TrialConfig) -> list[list[str]]:
    """Return the fields whose values are not the defaults, with the phases as JSON."""
    default = {name: field.default for name, field in TrialConfig.model_fields.items()}
    kept = {
        name: value for name, value in config.to_dict().items() if value != default[name] and value not in ([], None)
    }
    return [
        [f"`{name}`", literal(value if isinstance(value, str) else json.dumps(value))] for name, value in kept.items()
    ]


def _limits(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    lines = [f"Every image is given one of the {len(manifest.classes)} classes, whatever it shows."]
    if manifest.stage != "retrained" and (manifest.compared or 0) > 1:
        lines.append(
            f"It is the best of {manifest.compared:,} by the validation images: its figures on them are biased upwards."
        )
    lines += _accesses(metrics)
    if manifest.robustness is not None:
        lines.append("It was chosen by corruptions that a search may see, so figures on these are biased upwards.")
    if manifest.config.symmetry == "dihedral":
        lines.append("It was trained on mirrored and turned images: it does not tell them apart.")
    if not any(one.data != manifest.data.fingerprint for one in kept_records(metrics)):
        lines.append(
            "Images of another laboratory or camera were not measured: "
            f"`{hint('evaluate', BUNDLE, data='LAB', corrupted=True)}`."
        )
    yield "\n".join(f"- {line}" for line in lines)


def _accesses(metrics: Mapping[str, Any]) -> list[str]:
    """Return the line on the openings of test parts that the bundle knows of; nothing where there are none."""
    openings = _openings(metrics)
    models = len({one.get("model") for one in openings if one.get("model")})
    times = "once" if len(openings) == 1 else f"{len(openings)} times"
    different = f", with {models} different models" if models > 1 else ""
    return [f"The bundle records that a test part was opened {times}{different}."] if openings else []


def _reproduce(manifest: Manifest, metrics: Mapping[str, Any]) -> Iterator[str]:
    if manifest.stage in ("ensemble", "soup"):
        words = {"soup": True, "data": DATA} if manifest.stage == "soup" else {}
        joined = hint("ensemble", study=manifest.study, **words, out="again/")
        commands = [hint("export-best", study=manifest.study, out="again/") if "finishing" in metrics else joined]
    else:
        start = {"weights": manifest.weights.file} if manifest.weights.file else {}
        commands = [hint("retrain", BUNDLE, data=DATA, **start, out="again/")]
    yield _code("sh", *commands, hint("evaluate", BUNDLE, data=DATA))
    yield f"Made with {', '.join(f'{literal(name)} {literal(one)}' for name, one in manifest.versions.items())}."


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.2f}"

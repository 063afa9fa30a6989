"""Measure prediction sets: their coverage and size on clean and altered images of a bundle, or in simulated searches.

    python -m benchmarks.conformal BUNDLE DATA [--cache FOLDER]
    python -m benchmarks.conformal --simulate [--repeats 200]

With a bundle, sets are calibrated on the validation part, as it is, and altered; then they are counted on the test part
of its data as it is, under the corruptions that a search may see, and under those that none sees. The access to the
test part is recorded. The simulation draws classifiers of equal quality, takes the best of them on n validation images
or, as unfavourable as can be, the one with the smallest sets there, and counts the coverage on 4,000 new images.
Prints markdown.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.abstention import CLASSES, drawn
from hpo.bundle.access_ledger import AccessLedger
from hpo.bundle.calibrate import compared_with
from hpo.bundle.corrupted_measurement import FAMILIES
from hpo.bundle.evaluate import select
from hpo.bundle.model import BATCH_SIZE, Model, load
from hpo.bundle.own_data import reopen_same
from hpo.bundle.set_coverage import SetCoverage, coverage_of
from hpo.bundle.stored_metrics import new_opening
from hpo.corruption_family import CorruptionFamily
from hpo.data import Part
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.calibration import fit_temperature, probabilities
from hpo.evaluation.conformal import METHODS, ScoredImages, SetMethod, SetRule, calibrate_sets
from hpo.evaluation.corrupted_copy import CorruptedCopy, corrupted_copy
from hpo.evaluation.robustness import sample_of

LEVELS = (0.9, 0.95, 0.99)
SETTINGS = ((300, 20), (300, 100), (1_700, 20), (1_700, 100))
"""Validation images, trials."""

NEW = 4_000


def main() -> None:
    """Measure a bundle, or simulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--cache", type=Path, default=Path(".hpo/cache"))
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    if options.simulate:
        simulate(options.repeats)
    elif options.data is None:
        parser.error("give BUNDLE and DATA, or --simulate")
    else:
        measure_bundle(options.bundle, options.data, options.cache)


def measure_bundle(place: Path, data: Path, cache: Path) -> None:
    """Print coverage and mean size by level, method and calibration."""
    model = load(place, "cpu")
    manifest = model.bundle.manifest
    dataset = reopen_same(manifest, data, cache, maker="the bundle", way_out="give its data")
    compared = compared_with(manifest)
    altered = altered_part(dataset.val, cache, train=8 * 2 * len(dataset.val))
    copy = corrupted_copy(sample_of(dataset.val), cache)
    calibration: dict[str, list[ScoredImages]] = {
        "clean": [],
        "clean, two corruptions": [ScoredImages.of(altered.labels, rows_of(model, altered), altered.rows)],
        "clean, one corruption": [ScoredImages.of(copy.labels, rows_of(model, whole(copy)), copy.originals)],
    }
    clean = ScoredImages.of(dataset.val.labels, rows_of(model, dataset.val))
    test = select(model.bundle, data, cache=cache, split="test")
    opening = new_opening(
        "benchmark", test.fingerprint, len(test.part), test=test.tests[0], model=model.bundle.model_digest
    )
    print(AccessLedger.of_user().begin(place, opening).line)
    measured = list(images_of(model, test.part, cache))
    print(f"{len(dataset.val):,} validation images, best of {compared} trials; {len(test.part):,} test images\n")
    headings = [heading for heading, *_ in measured]
    print(f"| level | method | calibrated on | {' | '.join(headings)} |")
    print(f"|---:|---|---|{'---:|' * len(headings)}")
    for level in LEVELS:
        for method in METHODS:
            for name, harder in calibration.items():
                rule = joint_rule([clean, *harder], method, level, len(manifest.classes), compared)
                cells = [cell(rule, *what) for _, *what in measured] if rule else ["too few images"]
                print(f"| {level:g} | {method} | {name} | {' | '.join(cells)} |", flush=True)


def joint_rule(
    found: list[ScoredImages], method: SetMethod, level: float, classes: int, compared: int
) -> SetRule | None:  # fmt: skip
    """Return the rule that holds for each kind of images."""
    rules = [calibrate_sets(images, method, level, classes=classes, compared=compared) for images in found]
    known = [rule.thresholds for rule in rules if rule is not None]
    return SetRule(method, level, np.max(known, axis=0)) if len(known) == len(found) else None


def rows_of(model: Model, part: Part) -> Any:
    """Return (n, C) calibrated probabilities."""
    return probabilities(model.logits_of(part.batches(BATCH_SIZE)), model.temperature)


def whole(copy: CorruptedCopy) -> Part:
    """Return all images of a corrupted copy."""
    return Part(copy.images, np.arange(len(copy)), copy.labels, ())


def images_of(model: Model, part: Part, cache: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield heading, labels, probabilities and originals of the images to count on."""
    yield "clean", part.labels, rows_of(model, part), np.arange(len(part))
    sample = sample_of(part)
    for family in FAMILIES:
        yield from copies_of(model, sample, family, cache)


def copies_of(model: Model, part: Part, family: CorruptionFamily, cache: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield the same for one family of corruptions: all severities, then each."""
    copy = corrupted_copy(part, cache, family=family)
    rows, originals = rows_of(model, whole(copy)), copy.originals
    yield family.name, copy.labels, rows, originals
    for step in (1, 3, 5):
        some = copy.severity == step
        yield f"{family.name} {step}", copy.labels[some], rows[some], originals[some]


def cell(rule: SetRule, labels: Any, rows: Any, originals: Any) -> str:
    """Return `0.951 (1.02)`: coverage and mean size."""
    found: SetCoverage = coverage_of(rule, labels, rows, originals=originals)
    return f"{found.coverage:.3f} ({found.size:.2f})"


def simulate(repeats: int) -> None:
    """Print the mean coverage over the repeats for each setting, method and correction."""
    print("| images | trials | level | method | the trial taken | calibrated on | mean coverage | mean size |")
    print("|---:|---:|---:|---|---|---|---:|---:|")
    for n, count in SETTINGS:
        tallies: defaultdict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        for seed in range(repeats):
            for key, coverage, size in outcomes(seed, n, count, 0.95):
                tallies[key].append((coverage, size))
        for key, found in tallies.items():
            coverage, size = np.mean(found, axis=0)
            print(f"| {n:,} | {count} | 0.95 | {' | '.join(key)} | {coverage:.4f} | {size:.2f} |", flush=True)


def outcomes(seed: int, n: int, count: int, level: float) -> Iterator[tuple[tuple[str, ...], float, float]]:
    """Yield method, which trial was taken and what it was calibrated on, with coverage and mean size on new images."""
    generator = np.random.default_rng(seed)
    labels, logits = drawn(generator, count, n)
    new_labels, new_logits = drawn(generator, 1, n + NEW)
    temperatures = [fit_temperature(labels, one) for one in logits]
    seen = [ScoredImages.of(labels, probabilities(*pair)) for pair in zip(logits, temperatures, strict=True)]
    right = int(np.argmax([images.right.sum() for images in seen]))
    for method in METHODS:
        alone = [calibrate_sets(images, method, level, classes=CLASSES) for images in seen]
        small = int(np.argmin([one.thresholds[0] if one else 9.0 for one in alone]))
        for name, taken in (("most accurate", right), ("smallest sets", small)):
            # Models are alike but for their noise, so new images of one are as good as new images of any other.
            rows = probabilities(new_logits[0], temperatures[taken])
            test = ScoredImages.of(new_labels[:n], rows[:n])
            for by, images, compared in (
                ("validation, as if alone", seen[taken], 1),
                ("validation, best of all", seen[taken], count),
                ("as many test images", test, 1),
            ):
                found = calibrate_sets(images, method, level, classes=CLASSES, compared=compared)
                if found is not None:
                    counted = coverage_of(SetRule(method, level, found.thresholds), new_labels[n:], rows[n:])
                    yield (method, name, by), counted.coverage, counted.size


if __name__ == "__main__":
    main()

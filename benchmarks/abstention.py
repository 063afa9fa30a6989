"""Simulate how often answers of `predict --accuracy` miss the requested accuracy after a selection of models.

    python -m benchmarks.abstention [--repeats 150] [--quick]

Classifiers of equal quality are drawn as logits: the true class plus noise that they share and noise of their own. The
best of them on n validation images, and the ensemble of the best ten, get their temperature and threshold from these
images by hpo's own functions, the best also from as many test images that chose nothing, and from the better of both
proofs; the accuracy of the answers is counted on 8,000 new images. The promise is that at most 5 % of such bundles fall
short. Prints markdown.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.bundle.validation import Validation
from hpo.delivery.ensemble import choose, cross_check
from hpo.delivery.ensemble_candidates import EnsembleCandidates
from hpo.delivery.selection import mean_of
from hpo.evaluation.calibration import abstention, fit_temperature, log_probabilities, probabilities

CLASSES, NEW, JOINED = 4, 8_000, 10
SETTINGS = ((300, 10, 0.95), (300, 20, 0.97), (300, 100, 0.97), (1_700, 20, 0.97))
"""Validation images, trials, requested accuracy."""

Array = npt.NDArray[Any]


@dataclass
class Tally:
    """Counts over the repeats of one method of proof."""

    answering: int = 0
    """Repeats with a threshold."""
    short: int = 0
    covered: list[float] = field(default_factory=list)
    """Share of the new images with an answer, for each repeat."""

    def add(self, threshold: float | None, rows: Array, labels: Array, accuracy: float) -> None:
        """Count the answers of calibrated `rows` (n, C) on new images with a probability of at least `threshold`."""
        sure = rows.max(axis=1) >= threshold if threshold is not None else np.zeros(len(rows), dtype=np.bool_)
        self.answering += threshold is not None
        self.covered.append(float(sure.mean()))
        self.short += bool(sure.any() and (rows.argmax(axis=1) == labels)[sure].mean() < accuracy)


def main() -> None:
    """Simulate every setting and print a row for each method of proof."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=150)
    parser.add_argument("--quick", action="store_true", help="without the ensembles, which take most of the time")
    options = parser.parse_args()
    print("| images | trials | asked | model | proved by | falls short | has a threshold | answers |")
    print("|---:|---:|---:|---|---|---:|---:|---:|")
    for n, count, accuracy in SETTINGS:
        tallies: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
        for seed in range(options.repeats):
            for key, *result in outcomes(seed, n, count, accuracy, joined=not options.quick):
                tallies[key].add(*result, accuracy)
        for (model, proof), found in tallies.items():
            shares = (found.short / options.repeats, found.answering / options.repeats, np.mean(found.covered))
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            print(f"| {n:,} | {count} | {accuracy:g} | {model} | {proof} | {cells} |", flush=True)


def outcomes(seed: int, n: int, count: int, accuracy: float, *, joined: bool) -> Iterator[tuple[Any, ...]]:
    """Yield (name, threshold, rows of the new images, their labels) for each model and method of proof."""
    labels, logits = drawn(np.random.default_rng(seed), count, n + NEW)
    hits = (logits[:, :n].argmax(axis=2) == labels[:n]).sum(axis=1)
    order = np.argsort(-hits, kind="stable")
    best = logits[order[0]]
    temperature = fit_temperature(labels[:n], best[:n])
    rows = probabilities(best, temperature)
    for proof, compared in (("itself, as if alone", 1), ("itself, best of all trials", count)):
        found = abstention(labels[:n], rows[:n], accuracy, compared=compared)
        yield ("best trial", proof), found and found.threshold, rows[n:], labels[n:]
    # The classifiers are alike but for their noise, so new images of one are as good as new images of the best.
    test_labels, test_logits = drawn(np.random.default_rng((seed, 1)), 1, n)
    test = (test_labels, probabilities(test_logits[0], temperature))
    alone = abstention(*test, accuracy)
    yield ("best trial", "as many test images"), alone and alone.threshold, rows[n:], labels[n:]
    both = [
        abstention(labels[:n], rows[:n], accuracy, compared=2 * count),
        abstention(*test, accuracy, compared=2),
    ]
    threshold = min((one.threshold for one in both if one), default=None)
    yield ("best trial", "the better of both, at half the risk each"), threshold, rows[n:], labels[n:]
    if not joined:
        return
    members = logits[order[:JOINED]]
    candidates = known(labels[:n], members[:, :n])
    choice, checked = choose(candidates), cross_check(candidates)
    assert checked is not None
    mean = mean_of(
        np.stack([probabilities(one[n:], t) for one, t in zip(members, choice.temperatures, strict=True)]),
        choice.picks,
    )
    sets = -(-count // JOINED)
    for proof, seen, compared in (
        ("what chose its members", log_probabilities(choice.mean), 1),
        ("members chosen without the image", checked.logits, 1),
        ("the same, best of all sets of ten", checked.logits, sets),
    ):
        temperature = fit_temperature(labels[:n], seen)
        found = abstention(labels[:n], probabilities(seen, temperature), accuracy, compared=compared)
        rows = probabilities(log_probabilities(mean), temperature)
        yield ("ensemble", proof), found and found.threshold, rows, labels[n:]


def drawn(generator: np.random.Generator, count: int, n: int) -> tuple[Array, Array]:
    """Draw labels (n,) and logits (count, n, C) with an accuracy of about 0.89 each; half of the noise is shared."""
    labels = generator.integers(0, CLASSES, n)
    noise = generator.standard_normal((n, CLASSES)) + generator.standard_normal((count, n, CLASSES))
    return labels, (3 * (3 * np.eye(CLASSES)[labels] + 0.95 * noise)).astype(np.float32)


def known(labels: Array, logits: Array) -> EnsembleCandidates:
    """Return candidates with these predictions (k, n, C), all that the choice of an ensemble reads from a study."""
    found: Any = tuple(SimpleNamespace(validation=Validation(labels, one)) for one in logits)
    nothing: Any = None
    spec: Any = SimpleNamespace(metric="accuracy")
    return EnsembleCandidates(nothing, spec, nothing, found, ())


if __name__ == "__main__":
    main()

"""How often stopping a search at its frozen probe would have been right: studies simulated from recorded trials.

    python -m benchmarks.probe_stopping probe_rival [--repeats 2000]

Reads what `benchmarks.probe_rival` kept: which validation images each trial of a study classified rightly, the pruned
ones in their best epoch too. A simulated study draws its trials from these with replacement, sees one half of the
images (or fewer), and stops after K trained trials if the best does not beat the probe by more than the noise, as `hpo`
says it. The other half of the images judges: stopping was right if the best of all trials, chosen on the images seen,
is better there by less than WORTH or not at all. Prints a Markdown table over all studies, as they are and made harder
to win: then a trial keeps its own answer only on some of the images, and has that of the probe on the others.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.evaluation.best_of_many import mcnemar
from hpo.search.line_to_beat import LineToBeat

AFTER = (2, 4, 8)
"""Trained trials after which a study may stop."""

TRIALS = 20
"""Trained trials of a study that does not stop."""

SEEN = (1.0, 0.25)
"""Share of the first half of the images that the study sees."""

KEPT = (1.0, 0.5, 0.0)
"""Share of the images on which a trial differs from the probe that stay so: 0 is a study in which nothing helps."""

WORTH = 0.002
"""Gain in accuracy for which a search is worth its time."""

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Recorded:
    """The trials of one study on its validation images."""

    name: str
    probe: Right
    """(n,) whether the probe is right."""
    trained: Right
    """(T, n) whether each trained trial is."""


@dataclass
class Tally:
    """Counts over simulated studies."""

    studies: int = 0
    stopped: int = 0
    right: int = 0
    """Of those that stopped."""
    lost: float = 0.0
    """Accuracy on the images that judge, given up by those that stopped, summed."""
    wasted: int = 0
    """Studies that went on although nothing was to be gained."""

    def plus(self, other: Tally) -> Tally:
        """Return the sums of both."""
        return Tally(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="the folder that benchmarks.probe_rival wrote")
    parser.add_argument("--repeats", type=int, default=2000, help="simulated studies of each recorded one")
    parser.add_argument("--each", action="store_true", help="a table for each recorded study, too")
    options = parser.parse_args()
    studies = [read(json.loads(file.read_text())) for file in sorted(options.results.glob("*.json"))]
    for group in [studies, *([[one] for one in studies] if options.each and len(studies) > 1 else [])]:
        print(f"\n{'; '.join(study.name for study in group)}\n")
        print("| lead kept | images seen | stop after | stop | right of these | points given up | go on in vain |")
        print("|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        for kept in KEPT:
            for seen in SEEN:
                for after, tally in merged(group, kept, seen, options.repeats).items():
                    print(f"| {kept:.0%} | {seen / 2:.0%} | {after} | {' | '.join(cells(tally))} |", flush=True)


def merged(studies: Sequence[Recorded], kept: float, seen: float, repeats: int) -> dict[int, Tally]:
    """Return the counts over all studies."""
    total = {after: Tally() for after in AFTER}
    for study in studies:
        for after, tally in simulated(study, kept, seen, repeats).items():
            total[after] = total[after].plus(tally)
    return total


def read(found: dict[str, Any]) -> Recorded:
    """Return the trials of one result of `probe_rival`."""
    count = found["images"]
    right = {int(number): bits(text, count) for number, text in found["right"].items()}
    probe = right.pop(found["probe"]["trial"])
    return Recorded(f"{found['row']['data']}, {found['row']['backbone']}", probe, np.stack(list(right.values())))


def bits(text: str, count: int) -> Right:
    """Return (count,) bool from base64 of bits."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(np.bool_)


def simulated(study: Recorded, kept: float, seen: float, repeats: int) -> dict[int, Tally]:
    """Return the counts, by the number of trained trials after which a study may stop."""
    rng = np.random.default_rng(0)
    tallies = {after: Tally() for after in AFTER}
    n = len(study.probe)
    for _ in range(repeats):
        order = rng.permutation(n)
        first, judges = order[: max(10, int(seen * (n // 2)))], order[n // 2 :]
        drawn = study.trained[rng.integers(len(study.trained), size=TRIALS)]
        trials = np.where(rng.random(drawn.shape) < kept, drawn, study.probe)
        means = trials[:, first].mean(axis=1)
        truth = trials[:, judges].mean(axis=1) - study.probe[judges].mean()
        gained = float(truth[means.argmax()])
        for after, tally in tallies.items():
            best = trials[means[:after].argmax(), first]
            count(tally, beats(best, study.probe[first], after), gained)
    return tallies


def count(tally: Tally, beaten: bool, gained: float) -> None:
    """Count a study whose whole search would gain so much over the probe on the images that judge."""
    tally.studies += 1
    if beaten:
        tally.wasted += gained < WORTH
        return
    tally.stopped += 1
    tally.right += gained < WORTH
    tally.lost += max(0.0, gained)


def beats(best: Right, probe: Right, compared: int) -> bool:
    """Return whether the best trial beats the probe by more than the noise, as `hpo status` says it."""
    gained, lost = int((best & ~probe).sum()), int((probe & ~best).sum())
    gain = (gained - lost) / len(best)
    return bool(LineToBeat(0, "", 0.0, 0.0, compared, 1, gain, chance=mcnemar(gained, lost)).beaten)


def cells(tally: Tally) -> Iterator[str]:
    """Yield the cells of a row."""
    went_on = tally.studies - tally.stopped
    yield f"{tally.stopped / tally.studies:.0%}"
    yield f"{tally.right / tally.stopped:.0%}" if tally.stopped else ""
    yield f"{100 * tally.lost / tally.stopped:.2f}" if tally.stopped else ""
    yield f"{tally.wasted / went_on:.0%}" if went_on else ""


if __name__ == "__main__":
    main()

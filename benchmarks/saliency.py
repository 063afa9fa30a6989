"""Measure whether a bundle looks at the cell: the share of its saliency inside the colour-segmented cell.

    python -m benchmarks.saliency BUNDLE DATA [--per-class 40] [--split val] [--method auto] [--sheet FILE.png]

The heat maps of the model are compared with a uniform map (its share is the cell's area), the map of another image (the
share of a map that only looks at the centre), the maps without stitching, and, after Adebayo et al. (2018), maps of the
same network with a random head and with random weights throughout: a method with the same share there shows edges and
nothing learnt. Then the same with every image moved by a quarter of its side in both directions: the cell is no longer
in the centre, and the heat has to follow it. Mean and 95 % bootstrap interval over images; prints markdown.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

import hpo
from benchmarks.saliency_controls import ALL, COARSE, HEAD, MODEL, OTHER, UNIFORM, all_heats, all_shares, explainers
from benchmarks.saliency_sample import Sample, draw_sample, moved
from hpo.bundle.model import Model
from hpo.device import cores, use_threads
from hpo.explain import Heat
from hpo.explain.card import Card, draw_cards
from hpo.figures.contact_sheet import check_png, write_png

RESAMPLES = 2000
COLUMNS = (UNIFORM, MODEL, COARSE, OTHER, HEAD, ALL)
Floats = npt.NDArray[np.float64]
Shares = Mapping[str, Floats]


def main() -> None:
    """Measure and print the tables; draw a contact sheet with --sheet."""
    options = parse()
    use_threads(None)
    model = hpo.load(options.bundle, options.device)
    sample = draw_sample(model, options.data, options.split, options.per_class, options.seed)
    say(header(model, sample))
    found = explainers(model, options.method, options.seed)
    heats = all_heats(found, sample, options.seed)
    shares = all_shares(heats, sample)
    say(table("share of heat inside the cell", groups(model, sample), shares))
    say(notes(sample, heats, shares))
    if options.sheet:
        title = f"{options.bundle}: {found[MODEL].method}, share of heat on the cell"
        write_png(options.sheet, draw_cards(list(cards(model, sample, heats, shares)), title))
    aside = moved(model, sample, options.move, options.seed)
    elsewhere = all_shares(all_heats(found, aside, options.seed), aside)
    right = {"all": aside.drawn, "right": aside.drawn & aside.right, "wrong": aside.drawn & ~aside.right}
    say(table(f"images moved by {options.move:.0%} of their side", right, elsewhere))
    say(gains(aside, elsewhere))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--split", choices=["train", "val"], default="val", help="the test part is never opened")
    parser.add_argument("--method", choices=["auto", "grad-cam", "rollout"], default="auto")
    parser.add_argument("--move", type=float, default=0.25, help="fraction of an image's side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    if options.sheet:
        check_png(options.sheet)
    return options


def say(lines: Iterator[str]) -> None:
    """Print the lines without delay."""
    print("\n".join(lines), flush=True)


def header(model: Model, sample: Sample) -> Iterator[str]:
    """Yield date, machine, command and model of the run."""
    backbones = {member.config.backbone for member in model.bundle.manifest.members} or {model.config.backbone}
    yield f"date: {datetime.now(UTC).isoformat(timespec='minutes')}"
    yield f"machine: {platform.machine()}, {cores()} cores, {platform.system()}, Python {platform.python_version()}"
    yield f"command: python -m benchmarks.saliency {' '.join(sys.argv[1:])}"
    yield (
        f"model: {', '.join(sorted(backbones))}, {model.image_size} px, on {model.device}; "
        f"{sample.drawn.sum()} images drawn, and {(~sample.drawn).sum()} more of the part that it gets wrong"
    )


def groups(model: Model, sample: Sample) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the images of each row of the table."""
    of_class = {name: sample.drawn & (sample.labels == number) for number, name in enumerate(model.classes)}
    together = {"all": sample.drawn, "right": sample.drawn & sample.right, "wrong, of the whole part": ~sample.right}
    return of_class | together


def table(title: str, rows: Mapping[str, npt.NDArray[np.bool_]], shares: Shares) -> Iterator[str]:
    """Yield markdown: a row per group of images, a column per kind of map."""
    yield f"\n| {title} | n | {' | '.join(COLUMNS)} |"
    yield "|---|---:|" + "---:|" * len(COLUMNS)
    for name, members in rows.items():
        values = " | ".join(interval(shares[column][members]) for column in COLUMNS)
        yield f"| {name} | {members.sum()} | {values} |"


def gains(sample: Sample, shares: Shares) -> Iterator[str]:
    """Yield the mean difference between the model and each control, image by image."""
    yield ""
    for control in COLUMNS:
        if control != MODEL:
            yield f"- the model over {control}: {interval((shares[MODEL] - shares[control])[sample.drawn], '+.3f')}"


def notes(sample: Sample, heats: Mapping[str, Heat], shares: Shares) -> Iterator[str]:
    """Yield the gains, the similarity to the maps of random weights, and the number of empty maps."""
    yield from gains(sample, shares)
    for control in (HEAD, ALL):
        alike = [correlation(*pair) for pair in zip(heats[MODEL], heats[control], strict=True)]
        yield f"- rank correlation of its maps with those of the {control}: {interval(np.array(alike), '+.2f')}"
    empty = ", ".join(f"{name} {(~heats[name].any(axis=(1, 2))).sum()}" for name in (MODEL, COARSE, HEAD, ALL))
    yield f"- maps without any heat, of {len(sample.images)}: {empty}"


def correlation(one: Heat, other: Heat) -> float:
    """Return Spearman's rank correlation of two maps; NaN if one is empty."""
    return float(spearmanr(one.ravel(), other.ravel()).statistic) if one.any() and other.any() else float("nan")


def interval(values: Floats, form: str = ".3f") -> str:
    """Return the mean without NaN, and its 95 % percentile bootstrap interval (Efron 1979), as text."""
    values = values[~np.isnan(values)]
    if not values.size:
        return "none"
    picks = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def cards(model: Model, sample: Sample, heats: Mapping[str, Heat], shares: Shares) -> Iterator[Card]:
    """Draw two correctly classified images of each class, then up to eight wrong ones."""
    right = [np.flatnonzero(sample.right & (sample.labels == number))[:2] for number in range(len(model.classes))]
    for row in [*np.concatenate(right), *np.flatnonzero(~sample.right)[:8]]:
        label, guess = model.classes[sample.labels[row]], model.classes[sample.predicted[row]]
        text = label if label == guess else f"{guess}, but is {label}"
        on_cell = f"{shares[MODEL][row]:.2f} on the cell, which covers {shares[UNIFORM][row]:.2f}"
        yield Card(sample.images[row], heats[MODEL][row], sample.names[row], (text, on_cell))


if __name__ == "__main__":
    main()

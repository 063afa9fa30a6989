"""Whether a bundle looks at the cell: the share of its saliency inside the colour-segmented cell.

    python benchmarks/saliency.py BUNDLE DATA [--per-class 40] [--split val] [--method auto] [--sheet FILE.png]

Beside the heat maps of the model: a uniform map (its share is the cell's area), the map of another image (what is won
by looking at the centre alone), the maps as they are without stitching, and, after Adebayo et al. (2018), those of the
same network with a random head and with random weights throughout: a method that scores as well there shows edges, not
what was learnt. Mean and 95 % bootstrap interval over images; prints markdown.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import nn

import hpo
from hpo.delivery.evaluate import select
from hpo.delivery.model import Model
from hpo.delivery.networks import Network
from hpo.explain import Heat, Saliency, cell_mask, mass_inside
from hpo.explain.card import Card
from hpo.explain.sheet import check_png, draw_sheet, write_png
from hpo.search.device import cores, use_threads

RESAMPLES = 2000
MODEL, UNIFORM, OTHER, COARSE = "the model", "uniform map", "another image's map", "without stitching"
HEAD, ALL = "random head", "random network"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Images of the data and what the model takes them for."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    names: list[str]
    drawn: npt.NDArray[np.bool_]
    """Those drawn for their class; the others are here because they are taken for a wrong one."""


def main() -> None:
    """Measure and print; draw with --sheet."""
    options = parse()
    if options.sheet:
        check_png(options.sheet)
    use_threads(None)
    model = hpo.load(options.bundle, options.device)
    sample = draw_sample(model, options)
    masks = np.stack([cell_mask(image) for image in sample.images])
    heats = all_heats(model, sample, options)
    shares = all_shares(heats, masks)
    print("\n".join(header(options, model, sample)))
    print("\n".join(table(model, sample, shares)))
    print("\n".join(notes(sample, heats, shares)))
    if options.sheet:
        write_png(draw_sheet(list(cards(model, sample, heats, shares)), f"{options.bundle}: share of heat on the cell"),
                  options.sheet)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--split", choices=["train", "val"], default="val", help="the test part stays closed")
    parser.add_argument("--method", choices=["auto", "grad-cam", "rollout"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, metavar="FILE.png")
    return parser.parse_args()


def draw_sample(model: Model, options: argparse.Namespace) -> Sample:
    """So many images of each class, and all that the model gets wrong."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as cache:
        part = select(model.bundle.manifest, options.data, cache=Path(cache), split=options.split).part
        images, names = part.batch(np.arange(len(part))), part.names
    predicted = model.logits(images).argmax(axis=1)
    order = np.random.default_rng(options.seed).permutation(len(part))
    drawn = np.concatenate(
        [order[part.labels[order] == number][: options.per_class] for number in range(len(model.classes))]
    )
    wrong = np.setdiff1d(np.flatnonzero(predicted != part.labels), drawn)
    rows = np.concatenate([drawn, wrong])
    return Sample(
        images[rows],
        part.labels[rows],
        predicted[rows],
        [names[row] for row in rows],
        np.arange(len(rows)) < len(drawn),
    )


def all_heats(model: Model, sample: Sample, options: argparse.Namespace) -> dict[str, Heat]:
    """Heat maps of the predicted class by the model and by its controls."""
    explain = partial(Saliency.of, size=model.image_size, device=model.device, method=options.method)
    explainers = {
        MODEL: explain(model.networks),
        COARSE: explain(model.networks, fine=False),
        HEAD: explain(randomised(model.networks, options.seed, head_only=True)),
        ALL: explain(randomised(model.networks, options.seed, head_only=False)),
    }
    heats = {name: explainer(sample.images, sample.predicted.tolist()) for name, explainer in explainers.items()}
    order = np.random.default_rng(options.seed).permutation(len(sample.images))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # a permutation that leaves no image its own map
    return {**heats, OTHER: heats[MODEL][other], UNIFORM: np.ones_like(heats[MODEL])}


def randomised(networks: Sequence[Network], seed: int, *, head_only: bool) -> list[Network]:
    """Copies of `networks` whose head, or every layer, is initialised anew."""
    torch.manual_seed(seed)
    copies = [network._replace(module=copy.deepcopy(network.module)) for network in networks]
    for network in copies:
        part = network.module.get_submodule("head") if head_only else network.module
        for module in part.modules():
            _initialise(module)
    return copies


def _initialise(module: nn.Module) -> None:
    """By the module's own rule; tokens, positions and scales, which have none, as a transformer's tokens are."""
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for parameter in module.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)


def all_shares(heats: Mapping[str, Heat], masks: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """The share inside the cell of each map; NaN where a map is empty or no cell was found."""
    return {
        name: np.array(
            [mass_inside(heat, mask) if mask.any() else np.nan for heat, mask in zip(maps, masks, strict=True)]
        )
        for name, maps in heats.items()
    }


def header(options: argparse.Namespace, model: Model, sample: Sample) -> Iterator[str]:
    """When, where, how and of what."""
    backbones = {member.config.backbone for member in model.bundle.manifest.members} or {model.config.backbone}
    yield f"date: {datetime.now(UTC).isoformat(timespec='minutes')}"
    yield f"machine: {platform.machine()}, {cores()} cores, {platform.system()}, Python {platform.python_version()}"
    yield f"command: python benchmarks/saliency.py {' '.join(sys.argv[1:])}".strip()
    yield (
        f"model: {', '.join(sorted(backbones))}, {model.image_size} px, on {model.device}; "
        f"{int(sample.drawn.sum())} images drawn, and {int((~sample.drawn).sum())} more that it gets wrong"
    )


def table(model: Model, sample: Sample, shares: Mapping[str, Floats]) -> Iterator[str]:
    """Markdown: a row per class, all, right and wrong; a column per kind of map."""
    columns = (UNIFORM, MODEL, COARSE, OTHER, HEAD, ALL)
    yield "\n| share of heat inside the cell | n | " + " | ".join(columns) + " |"
    yield "|---|---:|" + "---:|" * len(columns)
    for name, rows in groups(model, sample).items():
        values = " | ".join(interval(shares[column][rows]) for column in columns)
        yield f"| {name} | {int(rows.sum())} | {values} |"


def groups(model: Model, sample: Sample) -> dict[str, npt.NDArray[np.bool_]]:
    """Which images each row of the table is about."""
    right = sample.predicted == sample.labels
    of_class = {name: sample.drawn & (sample.labels == number) for number, name in enumerate(model.classes)}
    return {**of_class, "all": sample.drawn, "right": sample.drawn & right, "wrong (of all the part)": ~right}


def notes(sample: Sample, heats: Mapping[str, Heat], shares: Mapping[str, Floats]) -> Iterator[str]:
    """What the model gains over the controls, image by image, and how alike the maps are."""
    yield ""
    for control in (UNIFORM, OTHER, COARSE, HEAD, ALL):
        yield f"- the model over {control}: {interval((shares[MODEL] - shares[control])[sample.drawn], '+.3f')}"
    for control in (HEAD, ALL):
        alike = [
            spearmanr(a.ravel(), b.ravel()).statistic
            for a, b in zip(heats[MODEL][sample.drawn], heats[control][sample.drawn], strict=True)
            if a.any() and b.any()
        ]
        yield f"- rank correlation of its maps with those of the {control}: {interval(np.array(alike), '+.2f')}"
    for name in (MODEL, COARSE, HEAD, ALL):
        yield f"- maps without any heat, {name}: {int((~heats[name].any(axis=(1, 2))).sum())} of {len(sample.images)}"


def interval(values: Floats, form: str = ".3f") -> str:
    """Mean of the values that are numbers, and its 95 % percentile bootstrap interval (Efron 1979)."""
    values = values[~np.isnan(values)]
    if not values.size:
        return "none"
    picks = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def cards(model: Model, sample: Sample, heats: Mapping[str, Heat], shares: Mapping[str, Floats]) -> Iterator[Card]:
    """Two right ones of each class, then up to eight wrong ones."""
    right = sample.predicted == sample.labels
    rows = [
        row for number in range(len(model.classes)) for row in np.flatnonzero(right & (sample.labels == number))[:2]
    ]
    for row in [*rows, *np.flatnonzero(~right)[:8]]:
        label, guess = model.classes[sample.labels[row]], model.classes[sample.predicted[row]]
        said = label if label == guess else f"{guess}, but is {label}"
        on_cell = f"{shares[MODEL][row]:.2f} on the cell, which covers {shares[UNIFORM][row]:.2f}"
        yield Card(sample.images[row], heats[MODEL][row], sample.names[row], (said, on_cell))


if __name__ == "__main__":
    main()

"""Print the parameters of every preset, all and trained in each phase: `python scripts/sizes.py [--classes 8]`.

The networks are built without memory for their weights, so that even the largest are fast; nothing is downloaded.
"""

from __future__ import annotations

import argparse

import torch

from hpo.models import build_model
from hpo.models.built_model import count_parameters
from search_spaces import SearchSpace, TrialConfig, catalog


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Parameters of every preset, in all and trained in each phase.")
    parser.add_argument("--classes", type=int, default=8)
    classes = parser.parse_args().classes
    print(f"| preset | backbone | px | parameters | trained, phase by phase | all as float32 |\n|{'---|' * 6}")
    for space in catalog():
        for config in recipes(space):
            print(row(space.name, config, classes))


def recipes(space: SearchSpace) -> list[TrialConfig]:
    """Return the first point of a space for each of its backbones."""
    first = TrialConfig.from_dict({**space.fixed, **(space.points[0] if space.points else {})})
    variants = space.dimensions.get("backbone", ())
    if "backbone" not in space.fixed and not variants:
        return []
    backbones = [name for variant in variants for name in variant.choices] or [first.backbone]
    return [first.replace(backbone=name) for name in backbones]


def row(name: str, config: TrialConfig, classes: int) -> str:
    """Return one line of the table."""
    sizes = [parameters(phase, classes) for phase in config.phase_configs()]
    everything, trained = sizes[0][0], " → ".join(f"{size[1]:,}" for size in sizes)
    memory = f"{everything * 4 / 2**30:.2f} GiB" if everything > 2**26 else f"{everything * 4 / 2**20:.1f} MiB"
    return f"| {name} | {config.backbone} | {config.image_size} | {everything:,} | {trained} | {memory} |"


def parameters(config: TrialConfig, classes: int) -> tuple[int, int]:
    """Return the numbers of all parameters and of those that train."""
    with torch.device("meta"):
        return count_parameters(build_model(config, classes, initialise=False).model)


if __name__ == "__main__":
    main()

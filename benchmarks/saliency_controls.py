"""The heat maps of `benchmarks.saliency`: those of a model, and those of its controls."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.saliency_sample import Sample
from hpo.bundle.model import Model, Network
from hpo.explain import Heat, Method, Saliency, mass_inside

MODEL, UNIFORM, OTHER, COARSE = "the model", "uniform map", "another image's map", "without stitching"
HEAD, ALL = "random head", "random network"

Explainers = Mapping[str, Saliency]
Floats = npt.NDArray[np.float64]


def explainers(model: Model, method: Method, seed: int) -> Explainers:
    """Return the saliency methods of the model and of its controls, by kind of map."""

    def explain(networks: Sequence[Network], *, fine: bool = True) -> Saliency:
        return Saliency.of(networks, model.image_size, model.device, method, fine=fine)

    return {
        MODEL: explain(model.networks),
        COARSE: explain(model.networks, fine=False),
        HEAD: explain(randomised(model.networks, seed, head_only=True)),
        ALL: explain(randomised(model.networks, seed, head_only=False)),
    }


def randomised(networks: Sequence[Network], seed: int, *, head_only: bool) -> list[Network]:
    """Copy `networks` and initialise the head, or every layer, again (Adebayo et al. 2018)."""
    torch.manual_seed(seed)
    copies = [network._replace(module=copy.deepcopy(network.module)) for network in networks]
    for network in copies:
        part = network.module.get_submodule("head") if head_only else network.module
        for module in part.modules():
            _initialise(module)
    return copies


def _initialise(module: nn.Module) -> None:
    """Initialise by the module's own rule; parameters without one (positions, scales) like a transformer's tokens."""
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for parameter in module.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)


def all_heats(found: Explainers, sample: Sample, seed: int) -> dict[str, Heat]:
    """Return the heat maps (n, S, S) of the classes that the model predicts, by kind."""
    heats = {name: explain(sample.images, sample.predicted.tolist()) for name, explain in found.items()}
    order = np.random.default_rng(seed).permutation(len(sample.images))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # no image keeps its own map
    return {**heats, OTHER: heats[MODEL][other], UNIFORM: np.ones_like(heats[MODEL])}


def all_shares(heats: Mapping[str, Heat], sample: Sample) -> dict[str, Floats]:
    """Return the share (n,) of each map inside the cell; NaN if a map is empty or no cell was found."""
    return {
        name: np.array([_share(*one) for one in zip(maps, sample.masks, strict=True)]) for name, maps in heats.items()
    }


def _share(heat: Heat, mask: npt.NDArray[np.bool_]) -> float:
    return mass_inside(heat, mask) if mask.any() else float("nan")

"""The networks of a bundle, each with what an image goes through before it: one, or the members of an ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from hpo.delivery.manifest import Triple
from hpo.errors import BundleError, ModelError
from hpo.training.model import build_model
from search_spaces import TrialConfig

if TYPE_CHECKING:
    from hpo.delivery.bundle import Bundle

Tensors = Mapping[str, torch.Tensor]


class Network(NamedTuple):
    """A network in evaluation mode, and how it is fed and weighed."""

    module: torch.nn.Module
    """(b, 3, S, S) normalised float32 -> (b, C) logits."""
    mean: Triple
    std: Triple
    weight: float
    """Share of the ensemble's probabilities; 1 of a single model."""


def networks_of(bundle: Bundle) -> tuple[Network, ...]:
    """The bundle's networks with their weights, on the CPU; BundleError where these do not fit the timm here."""
    manifest = bundle.manifest
    tensors = _tensors(bundle)
    if not manifest.members:
        steps = manifest.preprocessing
        return (Network(_network(bundle, manifest.config, tensors), steps.mean, steps.std, 1.0),)
    return tuple(
        Network(_network(bundle, member.config, _of_member(tensors, i)), member.mean, member.std, member.weight)
        for i, member in enumerate(manifest.members)
    )


def pack_members(members: Iterable[bytes]) -> bytes:
    """The weights of several models, safetensors each and taken one by one, as one."""
    packed = {
        f"{_prefix(number)}{name}": tensor
        for number, model in enumerate(members)
        for name, tensor in safetensors.torch.load(model).items()
    }
    return safetensors.torch.save(packed)


def _of_member(tensors: Tensors, number: int) -> Tensors:
    prefix = _prefix(number)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _prefix(number: int) -> str:
    return f"members.{number}."


def _tensors(bundle: Bundle) -> Tensors:
    try:
        tensors: Tensors = safetensors.torch.load(bundle.model)
    except SafetensorError as error:
        raise BundleError(_misfit(bundle, bundle.manifest.config, error)) from None
    refuse_not_finite(tensors, str(bundle.model_file), "export another trial")
    return tensors


def refuse_not_finite(tensors: Tensors, source: str, way_out: str) -> None:
    """BundleError where a weight is NaN or infinite: such a network answers the same for every image."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{source}: {name} holds NaN or infinite values; {way_out}")


def _network(bundle: Bundle, config: TrialConfig, tensors: Tensors) -> torch.nn.Module:
    try:
        network = build_model(config, len(bundle.manifest.classes), initialise=False).model
    except ModelError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(_misfit(bundle, config, error)) from None
    return network.eval()


def _misfit(bundle: Bundle, config: TrialConfig, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return (
        f"{bundle.model_file} does not fit {config.backbone} of timm here ({reason}); "
        "install the versions that config.json names"
    )

"""Adapt a bundle to new images without labels: the statistics of its BatchNorm layers are re-estimated on some of them.

The result is a bundle of its own with provenance: how many images of how many, their digest, and how far they count.
The weights stay as they are. What was measured or fitted with the statistics of before is not handed on as if it were
of the new model: validation predictions, and the scores of validation and test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from hpo.augmentation.background import with_background
from hpo.bundle.bundle import Bundle, Extras, check_out, read_bundle, write_bundle
from hpo.bundle.manifest import Adaptation, Manifest
from hpo.bundle.model import Model, Network, networks_of, pack_members
from hpo.data import PathList, SampledImages, sample_images
from hpo.data.dataset import Images, Unreadable
from hpo.data.digests import of_lines
from hpo.errors import BundleError
from hpo.evaluation.calibration import Probabilities
from hpo.models.adapted_statistics import PRIOR, StatisticsChange, adapt_statistics, normalised_by_statistics
from hpo.models.compute_format import ComputeFormat, Normaliser

MOST = 256
"""Images that are used at most; 32 are enough for most of the gain."""

BATCH = 64


@dataclass(frozen=True)
class AdaptOptions:
    """Options of an adaptation."""

    most: int = MOST
    prior: float = PRIOR
    device: str = "cpu"
    force: bool = False


@dataclass(frozen=True)
class Adapted:
    """The result of an adaptation."""

    manifest: Manifest
    changes: tuple[StatisticsChange, ...]
    """One for each network."""
    images: int
    relabelled: int
    """Images of those used that get another label than before."""
    confidence: tuple[float, float]
    """Mean probability of the label on the images used, before and after."""
    unreadable: tuple[Unreadable, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "adapted": self.manifest.adapted.model_dump(mode="json") if self.manifest.adapted else None,
            "changes": [asdict(change) for change in self.changes],
            "images": self.images,
            "relabelled": self.relabelled,
            "confidence": {"before": self.confidence[0], "after": self.confidence[1]},
            "unreadable": len(self.unreadable),
        }


def adapt(
    bundle: Bundle,
    sources: Sequence[Path | PathList],
    out: Path,
    options: AdaptOptions | None = None,
    on_image: Callable[[int], None] = lambda done: None,
) -> Adapted:
    """Write `bundle` with statistics adapted to images of `sources` to `out`; they are found as `iter_images` does.

    The images count as ones that took part in making the new model. Raises BundleError for a bundle without BatchNorm
    statistics, for one that is adapted already, and where `out` may not be written; DataError where there is no image.
    """
    options = options or AdaptOptions()
    check_out(out, force=options.force)
    networks = _adaptable(bundle)
    size, white = bundle.manifest.preprocessing.image_size, bundle.manifest.data.white
    sample = sample_images(sources, size, options.most, white, on_image)
    changes = tuple(_adapt_network(network, sample.pixels, options) for network in networks)
    manifest = bundle.manifest.model_copy(update={"adapted": _provenance(sources, sample, options)})
    metrics = {"validation": None, "test": None, "test_openings": bundle.metrics.get("test_openings", [])}
    known = bundle.known.with_train(sample.digests) if bundle.known is not None else None
    extras = Extras(known=known)
    write_bundle(out, manifest, _weights(bundle, networks), metrics, extras=extras, force=options.force)
    before, after = (_predicted(one, sample.pixels, options.device) for one in (bundle, read_bundle(out)))
    return Adapted(
        manifest, changes, len(sample.names),
        relabelled=int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
        confidence=(float(before.max(axis=1).mean()), float(after.max(axis=1).mean())), unreadable=sample.unreadable,
    )  # fmt: skip


def _adaptable(bundle: Bundle) -> tuple[Network, ...]:
    """Return the bundle's networks; BundleError where one has no statistics, or they are adapted already."""
    if (known := bundle.manifest.adapted) is not None:
        raise BundleError(
            f"{bundle.path} is adapted already, to {known.images:,} images; adapt the bundle that it was made from"
        )
    networks = networks_of(bundle)
    configs = [member.config for member in bundle.manifest.members] or [bundle.manifest.config]
    for network, config in zip(networks, configs, strict=True):
        if not normalised_by_statistics(network.module):
            kind = f" with {config.normalisation} normalisation" if config.normalisation != "native" else ""
            raise BundleError(
                f"{bundle.path}: {config.backbone}{kind} has no BatchNorm, so there are no statistics to adapt; "
                "it predicts new images as it is"
            )
    return networks


def _adapt_network(network: Network, images: Images, options: AdaptOptions) -> StatisticsChange:
    device, compute_format = torch.device(options.device), ComputeFormat("fp32")
    normalise = Normaliser(network.mean, network.std, device, compute_format)
    compute_format.place(network.module, device)

    def batches() -> Iterator[torch.Tensor]:
        for some in _in_batches(images):
            yield normalise(torch.from_numpy(with_background(some, network.background)).to(device))

    return adapt_statistics(network.module, batches(), len(images), prior=options.prior)


def _provenance(sources: Sequence[Path | PathList], sample: SampledImages, options: AdaptOptions) -> Adaptation:
    names = tuple("-" if isinstance(source, PathList) else source.name for source in sources)
    digest = of_lines(sorted(seen for _, seen in sample.digests))
    return Adaptation(images=len(sample.names), found=sample.found, digest=digest, sources=names, prior=options.prior)


def _weights(bundle: Bundle, networks: Sequence[Network]) -> bytes:
    """Return the safetensors of the adapted networks, in the layout of the bundle."""
    packed = [
        safetensors.torch.save({name: value.cpu().contiguous() for name, value in one.module.state_dict().items()})
        for one in networks
    ]
    return pack_members(packed) if bundle.manifest.members else packed[0]


def _predicted(bundle: Bundle, images: Images, device: str) -> Probabilities:
    model = Model(bundle, device)
    return model.probabilities_of(_in_batches(images))


def _in_batches(images: Images) -> list[Images]:
    return np.array_split(images, -(-len(images) // BATCH))

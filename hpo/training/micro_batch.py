"""Micro-batches: how many images go through the network at a time, found by trying and stored for later runs."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from hpo.errors import InfeasibleError
from hpo.models.backbone import network_name
from hpo.models.classifier import Classifier, blocks
from hpo.models.compute_format import ComputeFormat
from hpo.models.memory import free_memory, largest_piece, piece_count, total_memory
from hpo.training.tuning import device_name, get_cached, set_cached
from search_spaces import TrialConfig

log = logging.getLogger(__name__)

MORE = 1.25
"""Least ratio of free memory, now over when a micro-batch was found, at which a larger one is tried."""


@dataclass(frozen=True)
class Workload:
    """Everything that decides how much memory an image takes and how much there is."""

    backbone: str
    image_size: int
    trained: str
    """Part of the backbone that trains, in words, and whether it sees several views of an image."""
    compute_format: ComputeFormat
    device: torch.device
    machine: str
    """The device and its memory, in words."""

    @property
    def key(self) -> str:
        """Return the key in the autotune cache."""
        # The batch size is not in it, since it does not change how many images fit.
        layout = "channels last" if self.compute_format.channels_last else "channels first"
        form = f"{self.compute_format.precision}, {layout}"
        return " | ".join(["micro-batch", self.backbone, f"{self.image_size} px", self.trained, form, self.machine])

    def __str__(self) -> str:
        return f"{self.backbone} at {self.image_size} px on {self.machine}"


def workload(config: TrialConfig, model: Classifier, compute_format: ComputeFormat, *, on_features: bool) -> Workload:
    """Return the workload of a step of `model`; `on_features` means that only its head computes."""
    device = next(model.parameters()).device
    trained = "head on features" if on_features else trained_part(model)
    trained += ", with views" if config.augmix_consistency else ""
    machine = f"{device_name(device)} with {total_memory(device) / 2**30:.1f} GiB"
    return Workload(network_name(config), config.image_size, trained, compute_format, device, machine)


def trained_part(model: Classifier) -> str:
    """Return in words how many of the backbone's blocks train and, if they are not the last ones, how many keep all."""
    # These, and not the unfreeze depth itself, decide which activations are kept: gradients go down to the lowest
    # block that trains, through all above it.
    parameters = dict(model.backbone.named_parameters())
    groups = blocks(model.backbone)
    trained = [i for i, names in enumerate(groups) if any(parameters[name].requires_grad for name in names)]
    text = f"{len(trained)} of {len(groups)} blocks"
    reached = len(groups) - min(trained, default=len(groups))
    return text if reached == len(trained) else f"{text}, gradients through {reached}"


class MicroBatch:
    """Images at a time for one run: the stored size of similar runs, halved until a step fits.

    The cache holds the size and how many bytes were free at the first step of the run that found it. If clearly more
    are free in a later run (another process has ended, there is no moving average), that run takes proportionally more
    images, since the memory of an image is constant. So one measurement under load does not slow down all later runs.
    """

    def __init__(self, work: Workload, cache: Path | None) -> None:
        self._work = work
        self._cache = cache
        self._size: int | None = None
        self._written: int | None = None
        self._resumed = False
        self._free = 0

    @property
    def size(self) -> int | None:
        """Images at a time; None means that every batch goes through whole."""
        return self._size

    def resume(self, size: int | None) -> None:
        """Use the size of the interrupted run in place of the stored one, so that the run continues as it began."""
        self._size = self._written = size
        self._resumed = True

    def begin_step(self) -> None:
        """Prepare for a step: before the first one, read the stored size."""
        if self._free:
            return
        # Only now, before the first step, is everything allocated that stays in memory.
        self._free = max(1, free_memory(self._work.device))
        known = get_cached(self._cache, self._work.key) if self._cache is not None else None
        if known is not None and not self._resumed:
            self._size = self._written = images_that_fit(known["images"], known["free"], self._free)

    def record_success(self) -> None:
        """Record that a step fitted: store its size if it is new."""
        if self._size == self._written:
            return
        self._written = self._size
        if self._cache is not None:
            set_cached(self._cache, self._work.key, {"images": self._size, "free": self._free})

    def pieces(self, images: int, fewest: int) -> int:
        """Return the number of pieces that a batch of `images` is cut into, each of `fewest` images at least."""
        return piece_count(images, self._size, fewest)

    def halve(self, images: int, fewest: int, reason: str) -> None:
        """Halve the size after a batch of `images` did not fit; `reason` is the first line of the error.

        Raises InfeasibleError if the pieces cannot be smaller.
        """
        largest = largest_piece(images, self._size, fewest)
        half = math.ceil(largest / 2)
        if largest_piece(images, half, fewest) == largest:
            raise InfeasibleError(
                f"{self._work}: a step does not fit into the memory, not even with {_images(largest)}: {reason}"
            )
        self._size = half
        log.warning("%s: out of memory with %s at a time; continuing with %d", self._work, _images(largest), half)


def images_that_fit(images: int, free_then: int, free_now: int) -> int:
    """Return how many images fit with `free_now` free bytes, given that `images` fit with `free_then`."""
    return images * free_now // free_then if free_now > MORE * free_then else images


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"

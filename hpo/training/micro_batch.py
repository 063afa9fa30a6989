"""How many images go through the network at a time, found by failing and remembered for the runs to come."""

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
from hpo.training.tuning import device_name, recall, remember
from search_spaces import TrialConfig

log = logging.getLogger(__name__)

MORE = 1.25
"""How many times more memory must be free than when a micro-batch was found, before a larger one is tried."""


@dataclass(frozen=True)
class Workload:
    """What decides how much memory an image takes, and how much there is."""

    backbone: str
    image_size: int
    trained: str
    """Which part of the backbone trains, in words, and on how many views of an image."""
    compute_format: ComputeFormat
    device: torch.device
    machine: str
    """The device and its memory, in words."""

    @property
    def key(self) -> str:
        """Of what is remembered about it. The batch size is not in it: it does not change how many images fit."""
        layout = "channels last" if self.compute_format.channels_last else "channels first"
        form = f"{self.compute_format.precision}, {layout}"
        return " | ".join(["micro-batch", self.backbone, f"{self.image_size} px", self.trained, form, self.machine])

    def __str__(self) -> str:
        return f"{self.backbone} at {self.image_size} px on {self.machine}"


def workload(config: TrialConfig, model: Classifier, compute_format: ComputeFormat, *, on_features: bool) -> Workload:
    """The workload of a step of `model`; `on_features` when its head alone computes."""
    device = next(model.parameters()).device
    trained = "head on features" if on_features else trained_part(model)
    trained += ", with views" if config.augmix_consistency else ""
    machine = f"{device_name(device)} with {total_memory(device) / 2**30:.1f} GiB"
    return Workload(network_name(config), config.image_size, trained, compute_format, device, machine)


def trained_part(model: Classifier) -> str:
    """How many of the backbone's blocks train: this, and not the depth itself, tells which activations are kept."""
    parameters = dict(model.backbone.named_parameters())
    groups = blocks(model.backbone)
    trained = sum(any(parameters[name].requires_grad for name in names) for names in groups)
    return f"{trained} of {len(groups)} blocks"


class MicroBatch:
    """Images at a time for one run: what is remembered of others like it, then less and less until it fits.

    With its size is remembered how many bytes were free at the first step of the run that found it. Where a later run
    finds clearly more (another process is gone, there is no moving average), it takes as many more images, since what
    one of them takes stays the same. So a bad moment does not slow a backbone down for ever.
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
        """Images at a time; None takes every batch whole."""
        return self._size

    def resume(self, size: int | None) -> None:
        """Go on with the size of an interrupted run, whatever is remembered: it shall go on as it began."""
        self._size = self._written = size
        self._resumed = True

    def begin(self) -> None:
        """Before each step; at the first, when all that stays in memory is there, take what is remembered."""
        if self._free:
            return
        self._free = max(1, free_memory(self._work.device))
        known = recall(self._cache, self._work.key) if self._cache is not None else None
        if known is not None and not self._resumed:
            self._size = self._written = fitting(known["images"], known["free"], self._free)

    def succeeded(self) -> None:
        """After each step that fitted: remember its size, where it is new."""
        if self._size == self._written:
            return
        self._written = self._size
        if self._cache is not None:
            remember(self._cache, self._work.key, {"images": self._size, "free": self._free})

    def pieces(self, images: int, fewest: int) -> int:
        """Pieces that a batch of `images` is cut into, none of less than `fewest` images."""
        return piece_count(images, self._size, fewest)

    def halve(self, images: int, fewest: int, reason: str) -> None:
        """Take half as many images, since a batch of `images` did not fit; `reason` is the error's first line.

        Raises InfeasibleError where its pieces cannot be smaller than they are.
        """
        largest = largest_piece(images, self._size, fewest)
        half = math.ceil(largest / 2)
        if largest_piece(images, half, fewest) == largest:
            raise InfeasibleError(
                f"{self._work}: a step does not fit into the memory, not even with {_images(largest)}: {reason}"
            )
        self._size = half
        log.warning("%s: out of memory with %s at a time; going on with %d", self._work, _images(largest), half)


def fitting(images: int, free_then: int, free_now: int) -> int:
    """Images that fit into a run that begins with `free_now` bytes, `images` fitting into one with `free_then`."""
    return images * free_now // free_then if free_now > MORE * free_then else images


def _images(count: int) -> str:
    return f"{count} image{'s' if count > 1 else ''}"

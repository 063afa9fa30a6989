"""What was found out about this machine, remembered in `<cache>/speed.json`.

Several workers may write at once: each replaces the whole file atomically, and an entry that is lost in such a race is
only found out again.

Which precision and memory format: measured on this machine for this backbone, for a second or two, and remembered.

bf16 is not always the faster one: on a CPU it slows the backward pass of depthwise convolutions. fp16 is offered only
where the device has no bf16: it is no faster, and large activations overflow in it. Of two formats about as fast the
one that comes first is taken, so that noise does not decide what a trial computes in.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hpo.files import write_file
from hpo.interruption import ShouldStop, never, until_stopped
from hpo.models.backbone import network_name
from hpo.models.classifier import Classifier, largest_unfreeze_depth
from hpo.models.compute_format import ComputeFormat
from hpo.models.memory import run_with_fewer
from hpo.seeds import seeded
from search_spaces import TrialConfig

log = logging.getLogger(__name__)

NAME = "speed.json"


def recall(cache: Path, key: str) -> Any:
    """The value under `key`; None where there is none or the file cannot be read."""
    return _entries(cache).get(key)


def remember(cache: Path, key: str, value: Any) -> None:
    """Put a JSON-ready value under `key`. Where that cannot be written, a warning says so and nothing else happens."""
    content = json.dumps({**_entries(cache), key: value}, indent=1, sort_keys=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_file(cache / NAME, content)
    except OSError as error:
        log.warning("%s is not remembered: %s cannot be written: %s", key, cache / NAME, error.strerror)


def get_or_set(cache: Path, key: str, value: Any) -> Any:
    """`value`, remembered under `key`; or what another process has put there meanwhile, so that all go the same way."""
    known = recall(cache, key)
    if known is not None:
        return known
    remember(cache, key, value)
    return value


def _entries(cache: Path) -> dict[str, Any]:
    try:
        entries = json.loads((cache / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


GAIN = 1.1
"""How many times faster than those before it a format must be to be taken."""

STEP_SECONDS = 0.3
"""A measured step is made smaller until it takes about this long."""

REPEATS = 3


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or what the CPU can do and with how many threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def choose_format(
    config: TrialConfig, model: Classifier, device: torch.device, cache: Path | None, should_stop: ShouldStop = never
) -> ComputeFormat:
    """The fastest format for a training step of `model`; a given `config.precision` is obeyed.

    Without a cache nothing is measured: float32 on a CPU, bfloat16 on a GPU, channels last. TrainingInterrupted when
    asked to stop between two measured steps; nothing is remembered then.
    """
    if cache is None:
        default = offered(device)[-1] if device.type == "cuda" else "fp32"
        return ComputeFormat(default if config.precision == "auto" else config.precision)
    key = _key(config, device)
    known = recall(cache, key)
    if known is not None:
        return ComputeFormat.from_dict(known)
    chosen = fastest(config, model, device, should_stop)
    # Of two workers that measured at once the second takes the first one's: a trial that moves goes on as it began.
    return ComputeFormat.from_dict(get_or_set(cache, key, chosen.to_dict()))


def fastest(
    config: TrialConfig, model: Classifier, device: torch.device, should_stop: ShouldStop = never
) -> ComputeFormat:
    """Measure a few training steps in each format; `model` and all generators are left as they are."""
    with seeded(0, device):
        images = torch.rand(max(2, config.batch_size), 3, config.image_size, config.image_size, device=device)
        images = images[: _small_enough(copy.deepcopy(model).to(device), images, should_stop)]

        def costs_of(count: int) -> dict[ComputeFormat, float]:
            few = images[:count]
            return {option: _cost(option, model, few, should_stop) for option in _options(config.precision, device)}

        costs = run_with_fewer(costs_of, len(images), 2, device)
    chosen = _clearly_fastest(costs)
    seconds = ", ".join(
        f"{option.precision}{' channels last' if option.channels_last else ''} {cost * 1000:.0f} ms"
        for option, cost in costs.items()
    )
    log.info("a step of %s: %s; trained in %s", network_name(config), seconds, chosen.precision)
    return chosen


def offered(device: torch.device) -> tuple[str, ...]:
    """The precisions that `auto` chooses from on a device, the plainest first."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", "fp16"
    return "fp32", "bf16"


def _options(precision: str, device: torch.device) -> Iterator[ComputeFormat]:
    """The formats to measure, in the order in which they are taken where they are as fast."""
    for name in offered(device) if precision == "auto" else [precision]:
        yield ComputeFormat(name, channels_last=True)
        yield ComputeFormat(name, channels_last=False)


def _clearly_fastest(costs: Mapping[ComputeFormat, float]) -> ComputeFormat:
    """The first format, or a later one that is GAIN times as fast as the one chosen before it."""
    first, *others = costs
    chosen = first
    for option in others:
        if costs[option] * GAIN < costs[chosen]:
            chosen = option
    return chosen


def _cost(option: ComputeFormat, model: Classifier, images: torch.Tensor, should_stop: ShouldStop) -> float:
    """Seconds of a step."""
    device = images.device
    network = option.place(copy.deepcopy(model), device).train()
    batch = images.to(option.dtype).contiguous(memory_format=option.memory_format)
    scaling = _Scaling(option, network, device)
    repeats = until_stopped(range(REPEATS), should_stop)
    return min(_timed(lambda: _step(option, network, batch, scaling), device) for _ in repeats)


def _small_enough(network: Classifier, images: torch.Tensor, should_stop: ShouldStop) -> int:
    """How many of `images` a step takes about STEP_SECONDS for; two at least, for the sake of BatchNorm."""
    few = images[: min(4, len(images))]
    step = ComputeFormat(channels_last=False)
    scaling = _Scaling(step, network, images.device)
    repeats = until_stopped(range(2), should_stop)
    seconds = min(_timed(lambda: _step(step, network.train(), few, scaling), images.device) for _ in repeats)
    return max(2, min(len(images), int(len(few) * STEP_SECONDS / seconds)))


class _Scaling:
    """Loss scaling as in training: fp16 pays for a pass over all gradients in each step, the others for nothing."""

    def __init__(self, option: ComputeFormat, network: Classifier, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=option.precision == "fp16")
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.SGD(trained, lr=0.0)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of `loss`, scaled up, then down again."""
        torch.autograd.backward(self._scaler.scale(loss))
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimiser)
            self._scaler.update()


def _step(option: ComputeFormat, network: Classifier, batch: torch.Tensor, scaling: _Scaling) -> None:
    with option.autocast(batch.device):
        logits = network(batch)
    scaling.backward(logits.float().square().mean())
    network.zero_grad(set_to_none=True)


def _timed(action: Callable[[], None], device: torch.device) -> float:
    """Seconds that `action` takes, the device's part included."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _key(config: TrialConfig, device: torch.device) -> str:
    """What decides which format is faster. Batch size and depth change the speed, but hardly the order, and a search
    that measured each of their combinations would spend seconds on every trial."""
    return " | ".join(
        [
            network_name(config),
            f"{config.image_size} px",
            "frozen" if largest_unfreeze_depth(config) == 0 else "trained",
            config.precision if config.precision != "auto" else f"auto of {' and '.join(offered(device))}",
            device_name(device),
            f"torch {torch.__version__}",
        ]
    )

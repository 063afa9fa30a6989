"""Tuning of the compute format: precision and memory format are measured once for a backbone, and stored.

bf16 is not always faster: on a CPU it slows the backward pass of depthwise convolutions. fp16 is tried only if the
device has no bf16: it is no faster, and large activations overflow in it. Of two formats about equally fast the first
is taken, so that noise does not decide.

Results are stored in the autotune cache `<cache>/speed.json`. Several workers may write at once: each replaces the
whole file atomically, and an entry lost in such a race is measured again.
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
from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat
from hpo.models.memory import run_with_fewer
from hpo.seeds import seeded
from search_spaces import TrialConfig

log = logging.getLogger(__name__)

NAME = "speed.json"
"""File of the autotune cache in its folder."""

GAIN = 1.1
"""Factor by which a format must be faster than those before it to be taken."""

STEP_SECONDS = 0.3
"""Approximate duration of a measured step; its batch is made smaller to reach it."""

REPEATS = 3
"""Measured steps of a format; the fastest counts."""


def device_name(device: torch.device) -> str:
    """Return the device in words: the GPU's name, or the CPU's instruction set and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'' if threads == 1 else 's'}"


def choose_format(
    config: TrialConfig, model: Classifier, device: torch.device, cache: Path | None, should_stop: ShouldStop = never
) -> ComputeFormat:
    """Return the fastest format for a training step of `model`; a precision that `config` sets is kept.

    Without a cache nothing is measured: the format is float32 on a CPU, bfloat16 on a GPU, channels last. Raises
    TrainingInterrupted when stopped between two measured steps; then nothing is stored.
    """
    if cache is None:
        default = offered(device)[-1] if device.type == "cuda" else "fp32"
        return ComputeFormat(default if config.precision == "auto" else config.precision)
    key = _key(config, device)
    known = get_cached(cache, key)
    if known is not None:
        return ComputeFormat.from_dict(known)
    chosen = measure_fastest(config, model, device, should_stop)
    # Of two workers that measure at once the second takes the first one's result, so both compute alike.
    return ComputeFormat.from_dict(get_or_set(cache, key, chosen.to_dict()))


def measure_fastest(
    config: TrialConfig, model: Classifier, device: torch.device, should_stop: ShouldStop = never
) -> ComputeFormat:
    """Measure a few training steps in each format; `model` and all generators stay unchanged."""
    with seeded(0, device):
        images = torch.rand(max(2, config.batch_size), 3, config.image_size, config.image_size, device=device)
        images = images[: _measurable_count(copy.deepcopy(model).to(device), images, should_stop)]

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
    """Return the precisions that `auto` chooses from on a device, fp32 first."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", "fp16"
    return "fp32", "bf16"


def _options(precision: str, device: torch.device) -> Iterator[ComputeFormat]:
    """Yield the formats to measure; of equally fast formats the first is taken."""
    for name in offered(device) if precision == "auto" else [precision]:
        yield ComputeFormat(name, channels_last=True)
        yield ComputeFormat(name, channels_last=False)


def _clearly_fastest(costs: Mapping[ComputeFormat, float]) -> ComputeFormat:
    """Return the first format, or a later one that is GAIN times as fast as the one chosen before it."""
    first, *others = costs
    chosen = first
    for option in others:
        if costs[option] * GAIN < costs[chosen]:
            chosen = option
    return chosen


def _cost(option: ComputeFormat, model: Classifier, images: torch.Tensor, should_stop: ShouldStop) -> float:
    """Return the seconds of the fastest of REPEATS steps."""
    device = images.device
    network = option.place(copy.deepcopy(model), device).train()
    batch = images.to(option.dtype).contiguous(memory_format=option.memory_format)
    scaling = _Scaling(option, network, device)
    repeats = until_stopped(range(REPEATS), should_stop)
    return min(_seconds_of(lambda: _step(option, network, batch, scaling), device) for _ in repeats)


def _measurable_count(network: Classifier, images: torch.Tensor, should_stop: ShouldStop) -> int:
    """Return for how many of `images` a step takes about STEP_SECONDS; at least two, which BatchNorm needs."""
    few = images[: min(4, len(images))]
    step = ComputeFormat(channels_last=False)
    scaling = _Scaling(step, network, images.device)
    repeats = until_stopped(range(2), should_stop)
    seconds = min(_seconds_of(lambda: _step(step, network.train(), few, scaling), images.device) for _ in repeats)
    return max(2, min(len(images), int(len(few) * STEP_SECONDS / seconds)))


class _Scaling:
    """Loss scaling as in training: fp16 takes a pass over all gradients in each step, other precisions none."""

    def __init__(self, option: ComputeFormat, network: Classifier, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=option.precision == "fp16")
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.SGD(trained, lr=0.0)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients of `loss`, scaled up, then down again."""
        torch.autograd.backward(self._scaler.scale(loss))
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimiser)
            self._scaler.update()


def _step(option: ComputeFormat, network: Classifier, batch: torch.Tensor, scaling: _Scaling) -> None:
    with option.autocast(batch.device):
        logits = network(batch)
    scaling.backward(logits.float().square().mean())
    network.zero_grad(set_to_none=True)


def _seconds_of(action: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that `action` takes, including work on the device."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _key(config: TrialConfig, device: torch.device) -> str:
    """Return the key of the measurement in the autotune cache."""
    # Batch size and unfreeze depth are left out: they change the speed, but hardly the order of the formats, and a
    # search that measured each of their combinations would spend seconds on every trial.
    return " | ".join(
        [
            network_name(config),
            f"{config.image_size} px",
            "frozen" if config.deepest_phase().unfreeze_depth == 0 else "trained",
            config.precision if config.precision != "auto" else f"auto of {' and '.join(offered(device))}",
            device_name(device),
            f"torch {torch.__version__}",
        ]
    )


def get_cached(cache: Path, key: str) -> Any:
    """Return the cache's value under `key`; None if there is none or the file cannot be read."""
    return _entries(cache).get(key)


def set_cached(cache: Path, key: str, value: Any) -> None:
    """Store a JSON-ready value under `key`; if the file cannot be written, only log a warning."""
    content = json.dumps({**_entries(cache), key: value}, indent=1, sort_keys=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_file(cache / NAME, content)
    except OSError as error:
        log.warning("%s is not stored: %s cannot be written: %s", key, cache / NAME, error.strerror)


def get_or_set(cache: Path, key: str, value: Any) -> Any:
    """Return the value under `key`, which another process may have stored meanwhile, or store `value` and return it."""
    known = get_cached(cache, key)
    if known is not None:
        return known
    set_cached(cache, key, value)
    return value


def _entries(cache: Path) -> dict[str, Any]:
    try:
        entries = json.loads((cache / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}

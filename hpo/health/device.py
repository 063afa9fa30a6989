"""The devices: whether torch sees them, computes on them, and how much of their memory is free."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from hpo.errors import UsageError
from hpo.health.check import Check, amiss, well
from storage import format_size

LOW = 10**9
"""Bytes of free memory below which hardly a backbone trains."""
_SIDE = 64


def check_devices(name: str) -> Iterator[Check]:
    """A line for each device that `name` (auto, cpu, cuda, cuda:N) stands for."""
    import torch

    from hpo.search.device import resolve_device

    count = torch.cuda.device_count()
    try:
        resolved = resolve_device(name)
    except UsageError as error:
        yield amiss("device", error)
        return
    if resolved == "cpu":
        yield _unused_gpu() if name == "auto" and shutil.which("nvidia-smi") else _check(resolved)
        return
    every = [f"cuda:{number}" for number in range(count)] if name in ("auto", "cuda") else [resolved]
    yield from map(_check, every)


def _unused_gpu() -> Check:
    return amiss(
        "device", "this machine has an NVIDIA driver, but torch sees no GPU",
        "install a CUDA build of torch and torchvision that fits the driver, or give --device cpu",
    )  # fmt: skip


def _check(device: str) -> Check:
    import torch

    try:
        ones = torch.ones(_SIDE, _SIDE, device=device)
        right = bool((ones @ ones == _SIDE).all())
        free, total, name = _memory(device)
    except RuntimeError as error:  # what CUDA and the allocators raise
        said = str(error).strip().splitlines()[0]
        return amiss("device", f"{device} does not compute: {said}", "see nvidia-smi; free its memory, or reset it")
    detail = f"{device} ({name}) computes, {format_size(free)} of {format_size(total)} free"
    if not right:
        return amiss("device", f"{device} ({name}) computes wrong results", "take it out of service")
    return well("device", detail) if free >= LOW else amiss("device", detail, "end what else uses its memory")


def _memory(device: str) -> tuple[int, int, str]:
    """Free and all bytes, and what it is."""
    if device == "cpu":
        import psutil

        from hpo.cores import cores

        memory = psutil.virtual_memory()
        return memory.available, memory.total, f"{cores()} cores"
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return free, total, torch.cuda.get_device_name(device)

"""Which device a worker trains on, and how many CPU threads it takes."""

from __future__ import annotations

import os

from hpo.errors import UsageError


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(name: str, worker: int = 0) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` to a device that is there; worker i takes GPU i modulo their number."""
    import torch

    if name == "cpu":
        return name
    count = torch.cuda.device_count()
    if name == "auto":
        return f"cuda:{worker % count}" if count else "cpu"
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise UsageError(f"device is {name!r}, but must be auto, cpu, cuda or cuda:N")
    if int(index or 0) >= count:
        raise UsageError(f"device is {name!r}, but torch sees {count} CUDA devices; use --device cpu or auto")
    return f"cuda:{index or worker % count}"


def use_threads(count: int | None) -> None:
    """Let torch compute with `count` CPU threads; None takes the cores of this process."""
    import torch

    torch.set_num_threads(count or cores())

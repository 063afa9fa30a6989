"""Which device a worker trains on, and how many CPU threads it takes."""

from __future__ import annotations

import random

from hpo.cores import cores
from hpo.errors import UsageError


def resolve_device(name: str, worker: int | None = None) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` to a device that is there; UsageError for any other.

    Of several GPUs that nobody named, worker i of a team takes number i; a worker on its own takes the freest.
    """
    import torch

    if name == "cpu":
        return name
    count = torch.cuda.device_count()
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cuda") or (index and not index.isdigit()) or (index and kind == "auto"):
        raise UsageError(f"device is {name!r}, but must be auto, cpu, cuda or cuda:N")
    if name == "auto" and not count:
        return "cpu"
    if int(index or 0) >= count:
        raise UsageError(f"device is {name!r}, but torch sees {count} CUDA devices; use --device cpu or auto")
    if index:
        return name
    return f"cuda:{freest(count) if worker is None else worker % count}"


def freest(count: int) -> int:
    """The GPU with the most free memory, in whole GiB; of equals any, so that workers which start together spread."""
    import torch

    return max(range(count), key=lambda i: (torch.cuda.mem_get_info(i)[0] >> 30, random.random()))  # noqa: S311


def devices(name: str) -> int:
    """How many devices `name` stands for on this machine, at least 1."""
    import torch

    return max(1, torch.cuda.device_count()) if name in ("auto", "cuda") else 1


def use_threads(count: int | None) -> None:
    """Let torch compute with `count` CPU threads; None takes the cores of this process."""
    import torch

    torch.set_num_threads(count or cores())


def bound_threads() -> None:
    """Keep torch from more CPU threads than this process has cores: of a container's limit torch knows nothing."""
    import torch

    if torch.get_num_threads() > cores():
        use_threads(None)


def on_gpu(name: str) -> bool:
    """Whether `name` stands for a GPU on this machine. Opens none; UsageError for a name that stands for nothing."""
    import torch

    if name == "auto":
        return torch.cuda.device_count() > 0
    return resolve_device(name, worker=0) != "cpu"

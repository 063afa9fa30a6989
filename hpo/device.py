"""The device that a worker trains on, and the CPU cores and threads that its process may use.

A container's limit (`docker --cpus`, Kubernetes limits) is a quota of time, which the affinity does not show: with more
threads than that, all of them are paused for a part of every period. The lowest limit of the process's control group
and the groups above it counts (kernel documentation: cgroup-v2, `cpu.max`; for version 1 sched-bwc,
`cpu.cfs_quota_us`).
"""

from __future__ import annotations

import os
import random
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hpo.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

PROCESS = Path("/proc/self")


def resolve_device(name: str, worker: int | None = None) -> str:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`; raise UsageError for any other name or a missing GPU.

    If several GPUs are possible, local worker i takes GPU i modulo their number; a single worker takes the GPU with
    the most free memory.
    """
    import torch

    if name == "cpu":
        return name
    count = torch.cuda.device_count()
    index = name.partition(":")[2]
    if not re.fullmatch(r"auto:?|cuda(:\d*)?", name):
        raise UsageError(f"device is {name!r}, but must be auto, cpu, cuda or cuda:N")
    if name == "auto" and not count:
        return "cpu"
    if int(index or 0) >= count:
        raise UsageError(f"device is {name!r}, but torch sees {count} CUDA devices; use --device cpu or auto")
    if index:
        return name
    return f"cuda:{freest_gpu(count) if worker is None else worker % count}"


def freest_gpu(count: int) -> int:
    """Return the number of the GPU with the most free memory, in whole GiB."""
    # Ties are broken at random, so that workers which start together spread over the GPUs.
    import torch

    return max(range(count), key=lambda i: (torch.cuda.mem_get_info(i)[0] >> 30, random.random()))  # noqa: S311


def device_count(name: str) -> int:
    """Return how many devices of this machine `name` stands for, at least 1."""
    import torch

    return max(1, torch.cuda.device_count()) if name in ("auto", "cuda") else 1


def use_threads(count: int | None) -> None:
    """Make torch compute with `count` CPU threads; None takes the cores of this process."""
    import torch

    torch.set_num_threads(count or cores())


def limit_threads() -> None:
    """Limit torch's CPU threads to the cores of this process."""
    # torch does not take a container's limit into account.
    import torch

    if torch.get_num_threads() > cores():
        use_threads(None)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy's products of matrices use one thread within the block.

    In several, small products are slower, and on a machine where others compute far slower: threads wait for each
    other, busily.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, NumPy and scikit-learn compute in one thread within the block (see `one_blas_thread`)."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def side_by_side(work: Callable[[T], R], tasks: Iterable[T]) -> Generator[R, None, None]:
    """Yield the results of `work` on the CPU for independent tasks, in their order.

    As many are worked on at once as torch has threads, each in one thread: nothing waits for another, and the results
    do not depend on the number of threads. Close the iterator if it is not used up.
    """
    import torch

    threads = torch.get_num_threads()
    with one_thread():
        if threads == 1:
            yield from map(work, tasks)
            return
        yield from in_threads(work, tasks, threads, ahead=threads, name="compute")


def in_threads(
    work: Callable[[T], R], tasks: Iterable[T], threads: int, *, ahead: int, name: str
) -> Generator[R, None, None]:
    """Yield the results of `work` in the order of the tasks, of which at most `ahead` + 1 are taken before their turn.

    `name` is that of the threads. What has not begun when the iterator is closed is cancelled.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def on_gpu(name: str) -> bool:
    """Return whether `name` stands for a GPU on this machine, without opening one; UsageError for an unknown name."""
    import torch

    if name == "auto":
        return torch.cuda.device_count() > 0
    return resolve_device(name, worker=0) != "cpu"


def cores(process: Path = PROCESS) -> int:
    """Return the cores of the affinity, or fewer if a control group grants less time: rounded up, at least 1.

    `process` is a folder like /proc/self. Files that cannot be read set no limit.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *quotas(process)]))


def quotas(process: Path = PROCESS) -> Iterator[int]:
    """Yield the limits in cores, rounded up, of all control groups that `process` is in."""
    for folder, version in _groups(process):
        limit = _limit_2(folder) if version == 2 else _limit_1(folder)
        if limit is not None:
            yield limit


def _groups(process: Path) -> Iterator[tuple[Path, int]]:
    """Yield (folder, version) of each control group for CPU time that the process is in, and of those above it."""
    paths = {version: path for version, path in map(_membership, _lines(process / "cgroup")) if version}
    for version, root, mount in _mounts(process):
        if version not in paths:
            continue
        inside = Path(paths[version])
        # In a container the path may lie above the mounted folder: then the mount itself is the group.
        below = inside.relative_to(root).parts if inside.is_relative_to(root) and ".." not in inside.parts else ()
        yield mount, version
        for depth in range(1, len(below) + 1):
            yield mount.joinpath(*below[:depth]), version


def _membership(line: str) -> tuple[int, str]:
    """Return (version, path) of a line of /proc/self/cgroup; version 0 if it is not about CPU time."""
    number, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if number == "0" and not controllers:
        return 2, path
    return (1, path) if "cpu" in controllers.split(",") else (0, "")


def _mounts(process: Path) -> Iterator[tuple[int, str, Path]]:
    """Yield (version, root, mount point) of each file system of control groups for CPU time in mountinfo."""
    for line in _lines(process / "mountinfo"):
        here, dash, kind = line.partition(" - ")
        fields, types = here.split(), kind.split()
        if not dash or len(fields) < 5 or not types:
            continue
        mounted = Path(_unescaped(fields[4]))
        if types[0] == "cgroup2":
            yield 2, _unescaped(fields[3]), mounted
        elif types[0] == "cgroup" and "cpu" in types[-1].split(","):
            yield 1, _unescaped(fields[3]), mounted


def _unescaped(text: str) -> str:
    """Return `text` with mountinfo's octal escapes, such as `\\040` for a blank, replaced."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _limit_2(folder: Path) -> int | None:
    quota, *period = next(iter(_lines(folder / "cpu.max")), "max").split() or ["max"]
    return _rounded_up(quota, period[0] if period else "100000")


def _limit_1(folder: Path) -> int | None:
    quota = next(iter(_lines(folder / "cpu.cfs_quota_us")), "-1")
    return _rounded_up(quota, next(iter(_lines(folder / "cpu.cfs_period_us")), "100000"))


def _rounded_up(quota: str, period: str) -> int | None:
    """Return cores, at least 1; None for no limit and for values other than two positive numbers."""
    try:
        time, span = int(quota), int(period)
    except ValueError:
        return None
    return max(1, -(-time // span)) if time > 0 and span > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

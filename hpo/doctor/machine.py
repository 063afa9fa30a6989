"""The checks of this machine: Python and libraries, torch, devices, and the folders that hpo writes to."""

from __future__ import annotations

import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from hpo.doctor.check import Check, failed, passed
from hpo.errors import UsageError
from hpo.files import write_new_file
from storage import StorageError, format_size, is_url, open_objects

_SHOWN = ("torch", "torchvision", "timm", "optuna", "sqlalchemy")

_ASKING = ("hpo", "torchvision", "optuna-dashboard")
"""Distributions whose requirements are checked; the others pin nothing that matters here."""

LOW_MEMORY = 10**9
"""Bytes of free memory below which hardly any backbone trains."""

_SIDE = 64

LOW_DISK = 10**9
"""Bytes; a study with a few checkpoints of a mid-sized backbone takes about as much."""

_PROBE = b"hpo doctor looks whether it may write here\n"


def check_python() -> Check:
    """Report the version of Python. It always passes, because `pip` refuses versions that hpo does not run on."""
    return passed("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def check_versions() -> Check:
    """Check the installed versions against the required ones."""
    wrong = [text for name in _ASKING for text in unmet_requirements(name)]
    if wrong:
        return failed("libraries", ", ".join(wrong), "install again with `pip install -c constraints.txt .`")
    return passed("libraries", ", ".join(f"{name} {version(name)}" for name in _SHOWN))


def unmet_requirements(name: str) -> list[str]:
    """Describe the requirements of the distribution `name` that are not met."""
    try:
        asked = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return [f"{name} is not installed"] if name != "hpo" else []  # hpo may run from its sources
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{name} needs {one}, {found}" for one in needed if (found := _mismatch(one))]


def _mismatch(requirement: Requirement) -> str:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "which is not installed"
    return "" if requirement.specifier.contains(found, prereleases=True) else f"but {found} is installed"


def check_torch() -> Check:
    """Check that torch imports together with torchvision and timm."""
    try:
        torch = import_module("torch")
        import_module("torchvision")
        import_module("timm")
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        return failed(
            "torch", f"torch, torchvision or timm does not import: {reason}",
            "take torch and torchvision from one package index: a CPU build of one does not go with a CUDA build "
            "of the other",
        )  # fmt: skip
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    return passed("torch", f"imports with torchvision and timm, {built}")


def check_devices(name: str) -> Iterator[Check]:
    """Check each device that `name` (auto, cpu, cuda, cuda:N) stands for."""
    import torch

    from hpo.device import resolve_device

    count = torch.cuda.device_count()
    try:
        resolved = resolve_device(name)
    except UsageError as error:
        yield failed("device", error)
        return
    if resolved == "cpu":
        yield _unused_gpu() if name == "auto" and shutil.which("nvidia-smi") else _check_device(resolved)
        return
    every = [f"cuda:{number}" for number in range(count)] if name in ("auto", "cuda") else [resolved]
    yield from map(_check_device, every)


def _unused_gpu() -> Check:
    return failed(
        "device", "this machine has an NVIDIA driver, but torch sees no GPU",
        "install a CUDA build of torch and torchvision that fits the driver, or give --device cpu",
    )  # fmt: skip


def _check_device(device: str) -> Check:
    import torch

    try:
        ones = torch.ones(_SIDE, _SIDE, device=device)
        right = bool((ones @ ones == _SIDE).all())
        free, total, name = _memory(device)
    except RuntimeError as error:  # CUDA and the allocators raise this
        reason = str(error).strip().splitlines()[0]
        return failed("device", f"{device} does not compute: {reason}", "see nvidia-smi; free its memory, or reset it")
    detail = f"{device} ({name}) computes, {format_size(free)} of {format_size(total)} free"
    if not right:
        return failed("device", f"{device} ({name}) computes wrong results", "take it out of service")
    return passed("device", detail) if free >= LOW_MEMORY else failed("device", detail, "end what else uses its memory")


def _memory(device: str) -> tuple[int, int, str]:
    """Return the free and total bytes of memory, and a description of the device."""
    if device == "cpu":
        import psutil

        from hpo.device import cores

        memory = psutil.virtual_memory()
        return memory.available, memory.total, f"{cores()} cores"
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return free, total, torch.cuda.get_device_name(device)


def check_location(what: str, option: str, location: Path | str) -> Check:
    """Check that `location`, given with `option`, can be written: a folder, or an s3:// URL."""
    return _check_s3(what, str(location)) if is_url(location) else _check_folder(what, option, Path(location))


def _check_folder(what: str, option: str, folder: Path) -> Check:
    tried = folder = folder.absolute()
    try:
        tried = next(parent for parent in (folder, *folder.parents) if parent.exists())
        seconds = _write_synced(tried / f".hpo-doctor-{secrets.token_hex(4)}")
    except OSError as error:
        return failed(
            what, f"{tried} cannot be written: {error.strerror}",
            f"give write permission or make room there, or name another folder with {option}",
        )  # fmt: skip
    free = shutil.disk_usage(tried).free
    missing = "" if tried == folder else " (not there yet; its parent was tried)"
    detail = f"{folder}{missing}: {format_size(free)} free, written to the disk in {1000 * seconds:.0f} ms"
    if free < LOW_DISK:
        return failed(what, detail, f"make room there, or name another folder with {option}")
    return passed(what, detail)


def _write_synced(probe: Path) -> float:
    """Write a small file to the disk and remove it. Return the seconds that the write took."""
    start = time.perf_counter()
    try:
        write_new_file(probe, [_PROBE])
        return time.perf_counter() - start
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _check_s3(what: str, url: str) -> Check:
    key = f".hpo-doctor-{secrets.token_hex(4)}"
    start = time.perf_counter()
    try:
        objects = open_objects(url)
        objects.put(key, _PROBE)
        same = objects.get(key) == _PROBE
        objects.delete([key])
    except StorageError as error:
        return failed(what, error)
    except FileNotFoundError:
        same = False
    if not same:
        return failed(what, f"{url} does not give back what was just written", "check what serves it: it is no S3")
    return passed(what, f"{url}: written, read and removed in {1000 * (time.perf_counter() - start):.0f} ms")

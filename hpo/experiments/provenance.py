"""Provenance of a comparison or an ablation, shown beside every table: command, date, machine, data, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpo.data import Dataset
from hpo.device import cores
from hpo.private_paths import public_command, public_path
from hpo.search.trial_record import versions


@dataclass(frozen=True)
class Provenance:
    """Everything that is needed to judge the figures and to reproduce them."""

    command: str
    date: str
    """UTC, ISO 8601."""
    machine: str
    device: str | None
    """Product name of the device that measured; None if the trials measured themselves, on any machine."""
    threads: int | None
    seed: int
    study: str | None
    data: Mapping[str, Any]
    """path, fingerprint, split, counts, classes; where findings were applied, `changes` with counts and a `line`."""
    versions: Mapping[str, str]
    load: float | None = None
    """Processes that were ready to run in the last minute, divided by the cores; includes those of this program."""

    @property
    def busy(self) -> bool:
        """Whether other processes used the machine, so that speeds are lower than possible."""
        return self.device is not None and self.load is not None and self.load > 1.5

    @property
    def line(self) -> str:
        """The line under a table."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.data["counts"].items())
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        measured = f"; {self.device}, {threads}" if self.device else ""
        changes = f"; {self.data['changes']['line']}" if self.data.get("changes") else ""
        return f"{self.data['path']}: {counts} ({self.data['split']}){changes}{measured}; {self.date[:10]}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def provenance_of(
    command: str, path: Path, dataset: Dataset, *, seed: int, study: str | None, device: str | None = None
) -> Provenance:
    """Return the provenance of figures on `dataset`, which lies at `path`.

    `device` is given if this process measures.
    """
    return Provenance(
        command=public_command(command),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}, {cores()} cores",
        device=_product_name(device) if device else None,
        threads=_thread_count() if device else None,
        seed=seed,
        study=study,
        data=_describe_data(path, dataset),
        versions=versions(),
        load=os.getloadavg()[0] / cores(),
    )


def _describe_data(path: Path, dataset: Dataset) -> dict[str, Any]:
    """Return the properties of the data set that the figures depend on."""
    counts = {"train": len(dataset.train), "val": len(dataset.val), "test": dataset.test_count}
    return {
        "path": public_path(path),
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "counts": counts,
        "classes": list(dataset.classes),
        **({"changes": {**changes.counts(), "line": changes.line()}} if (changes := dataset.changes) else {}),
    }


def _thread_count() -> int:
    import torch

    return torch.get_num_threads()


def _product_name(device: str) -> str:
    """Return the product name of `cpu` or `cuda:N`, or the architecture if the machine does not give it."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    models = [line for line in _cpuinfo_lines() if line.startswith("model name")]
    return models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine()


def _cpuinfo_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []

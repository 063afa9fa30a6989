"""Under which circumstances figures came to be: command, date, machine, versions; they stand beside every table."""

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
    """What somebody needs to judge the figures, and to make them again."""

    command: str
    date: str
    """UTC, ISO 8601."""
    machine: str
    device: str | None
    """What measured, as a person calls it; None where the runs measured themselves, wherever they ran."""
    threads: int | None
    seed: int
    study: str | None
    data: Mapping[str, Any]
    """path, fingerprint, split, counts, classes."""
    versions: Mapping[str, str]
    load: float | None = None
    """Processes that wanted a core in the last minute, over the cores; the own ones among them."""

    @property
    def busy(self) -> bool:
        """Whether others were at work on the machine, so that speeds are lower than they would be."""
        return self.device is not None and self.load is not None and self.load > 1.5

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @property
    def line(self) -> str:
        """In one line, under a table."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.data["counts"].items())
        measured = f"; {self.device}, {self.threads} threads" if self.device else ""
        return f"{self.data['path']}: {counts} ({self.data['split']}){measured}; {self.date[:10]}"


def provenance_of(
    command: str, *, seed: int, study: str | None, data: Mapping[str, Any], device: str | None = None
) -> Provenance:
    """Those of this process, now; `device` is what measures, where this process does."""
    return Provenance(
        command=public_command(command),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}, {cores()} cores",
        device=device_name(device) if device else None,
        threads=_threads() if device else None,
        seed=seed,
        study=study,
        data=data,
        versions=versions(),
        load=os.getloadavg()[0] / cores(),
    )


def described(path: Path, dataset: Dataset) -> dict[str, Any]:
    """The data set, in what decides the figures."""
    counts = {"train": len(dataset.train), "val": len(dataset.val), "test": dataset.test_count}
    return {
        "path": public_path(path),
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "counts": counts,
        "classes": list(dataset.classes),
    }


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def device_name(device: str) -> str:
    """The product behind `cpu` or `cuda:N`, as far as the machine tells."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    models = [line for line in _processors() if line.startswith("model name")]
    return models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine()


def _processors() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []

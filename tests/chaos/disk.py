"""SmallDisk: a file system of its own for the artifacts, which a campaign fills up and makes room on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BALLAST = "ballast"


class SmallDisk:
    """A mounted tmpfs; `artifacts` is the folder on it that the workers use."""

    def __init__(self, mounted: Path) -> None:
        self._ballast = mounted / _BALLAST
        self._mounted = mounted
        self.artifacts = mounted / "artifacts"
        self.artifacts.mkdir()

    def fill(self) -> None:
        """Leave not one block free; what the workers free meanwhile is taken at the next call."""
        with self._ballast.open("ab") as file:
            while free := self._free():
                with suppress(OSError):  # a worker was quicker
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def _free(self) -> int:
        """Bytes."""
        status = os.statvfs(self._mounted)
        return status.f_bavail * status.f_frsize


def scratch() -> str | None:
    """Where files lie that need not outlive the machine: in its memory, if it offers that."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def small_disk(folder: Path, megabytes: int = 256) -> Iterator[SmallDisk | None]:
    """A disk mounted at `folder`, which must be empty; None where nothing may be mounted, as without root."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield SmallDisk(folder) if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)

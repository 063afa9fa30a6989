"""SmallDisk: a separate file system for the artifacts, which a campaign fills and empties."""

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
        """Fill every free block; blocks that the workers free later are filled at the next call."""
        with self._ballast.open("ab") as file:
            while free := self._free():
                with suppress(OSError):  # a worker has used the space first
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)

    def empty(self) -> None:
        """Free the filled space."""
        self._ballast.unlink(missing_ok=True)

    def _free(self) -> int:
        """Return the number of free bytes."""
        status = os.statvfs(self._mounted)
        return status.f_bavail * status.f_frsize


def scratch() -> str | None:
    """Return a folder in memory for temporary files; None if the machine has none."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def small_disk(folder: Path, megabytes: int = 256) -> Iterator[SmallDisk | None]:
    """Mount a disk at `folder`, which must be empty; yield None if mounting is not allowed, as without root."""
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

"""Worker: a process that may hold leases, and where its number means something."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

LEASE_SECONDS = 120.0
"""How long a lease lasts unless told otherwise: the time for which a dead worker's trial waits for another."""


def this_place() -> str:
    """This boot of this machine, and this namespace of processes: within it a pid that is not there is dead.

    Containers may share a host name, and hosts one too; neither is enough to call a process dead.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: nobody is called dead
        return ""


@dataclass(frozen=True)
class Worker:
    """A process that may hold leases."""

    device: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    """Unlike any other's, so that a process with the same pid later is not taken for this one."""
    place: str = field(default_factory=this_place)
    """Within which its pid means something."""
    seconds: float = LEASE_SECONDS
    """How long its leases last without a renewal."""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended for certain: False for one of another place, where that cannot be known.

        Not to be asked of this process itself: its number, in another worker, was given anew, as containers do.
        """
        return bool(self.place) and self.place == this_place() and (self.pid == os.getpid() or not is_alive(self.pid))


def is_alive(pid: int) -> bool:
    """Whether there is a process with this number here, now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Worker: a process that may hold leases, and the pid namespace in which its pid is valid."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

LEASE_SECONDS = 120.0
"""Default duration of a lease: the time after which the trial of a dead worker can be claimed."""


def this_place() -> str:
    """Return the boot of this machine and the pid namespace: within both, a pid without a process is dead.

    Containers and hosts may share a host name, so the host name does not tell whether a process is dead.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # Not Linux: liveness cannot be checked, so no worker is declared dead.
        return ""


@dataclass(frozen=True)
class Worker:
    """A process that may hold leases."""

    device: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    """Unique, so that a later process with the same pid is not taken for this one."""
    place: str = field(default_factory=this_place)
    """Where its pid is valid, as `this_place` returns it."""
    seconds: float = LEASE_SECONDS
    """Duration of its leases without a renewal, in seconds."""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    @property
    def is_gone(self) -> bool:
        """Whether its process has certainly ended: False for another place, where that cannot be checked.

        A worker with the pid of this process has ended: its pid was reused, as in a new container.
        """
        return bool(self.place) and self.place == this_place() and (self.pid == os.getpid() or not is_alive(self.pid))


def is_alive(pid: int) -> bool:
    """Return whether a process with this pid exists here now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Worker: a process that may hold leases, and where its number means something."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 120.0
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
    seconds: float = SECONDS
    """How long its leases last without a renewal."""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

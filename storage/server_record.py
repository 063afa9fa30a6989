"""ServerRecord: where the server on a data folder was started, in the file `hpo.server` among the data.

The server and all its processes inherit that file open and locked, so the kernel itself says whether one of them still
lives. Such a lock is seen from every container of the same host, and from other hosts where the file system passes
locks on; process numbers, shared memory and sockets are not. PostgreSQL's own interlock rests on those.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from storage.workers import this_place

FILE = "hpo.server"

# File systems that one machine alone can have mounted. Any other may be shared with a host whose locks are not seen.
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "ramfs", "overlay", "apfs"})


@dataclass(frozen=True)
class ServerRecord:
    """What the file says of the server that was started last."""

    host: str
    machine: str
    """Content of /etc/machine-id; empty where there is none."""
    place: str
    """Boot of the machine and namespace of processes, as `this_place` gives them."""
    token: str
    """Drawn at each start and handed to the server, which repeats it to its clients."""
    inode: int
    """Number of the file itself: in a copy of the folder it differs."""

    @classmethod
    def of(cls, data: Path) -> ServerRecord | None:
        """The record among `data`; None where there is none, as of a version before there were any."""
        try:
            return cls(**json.loads((data / FILE).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def is_of_here(self) -> bool:
        """Whether the server was started among the processes that this one sees."""
        return (self.host, self.place) == (socket.gethostname(), "") if not self.place else self.place == this_place()

    def is_copy(self, data: Path) -> bool:
        """Whether `data` were copied from the folder that the server was started on. A folder that was moved is not."""
        return (data / FILE).stat().st_ino != self.inode

    def is_over(self, data: Path) -> bool:
        """Whether that server has certainly ended, given that its lock was found free.

        The lock of a process is seen where the kernel is the same, and on the file system of one machine. A server of
        this machine from before it was started anew has ended too. Of another host on a shared folder nothing is known.
        """
        boot = this_place().partition("/")[0]
        same_kernel = bool(boot) and self.place.partition("/")[0] == boot
        here = _this_machine()
        return same_kernel or _is_local(data) or (bool(here[1]) and (self.host, self.machine) == here)


def is_locked(data: Path) -> bool:
    """Whether any process of a server on `data` lives, wherever it runs. Raises OSError where there are no locks."""
    try:
        with (data / FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def new_record(data: Path) -> Iterator[int]:
    """Write the record of a server that is started inside the block; the descriptor that it has to inherit.

    Raises BlockingIOError when another server holds it.
    """
    descriptor = os.open(data / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        host, machine = _this_machine()
        record = ServerRecord(host, machine, this_place(), secrets.token_hex(8), os.fstat(descriptor).st_ino)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(record)).encode(), 0)
        os.fsync(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)  # the lock stays with those who inherited it


def _this_machine() -> tuple[str, str]:
    """Name and id of this machine: containers have names of their own, images of one installation share the id."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
    except OSError:
        machine = ""
    return socket.gethostname(), machine


def _is_local(path: Path) -> bool:
    resolved = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    return bool(mounts) and max(mounts, key=lambda part: len(part.mountpoint)).fstype in _LOCAL

"""Who serves a data folder, and whether another server may be started on it.

ServerRecord is the file `hpo.server` among the data, which says where their server was started. The server and all its
processes inherit that file open and locked, so the kernel itself says whether one of them still lives. Such a lock is
seen from every container of the same host, and from other hosts where the file system passes locks on; process numbers,
shared memory and sockets are not. PostgreSQL's own interlock rests on those.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from storage.errors import DatabaseUnavailableError
from storage.workers import this_place

FILE = "hpo.server"

PID_FILE = "postmaster.pid"

_SHUT_DOWN = 1  # DB_SHUTDOWNED of PostgreSQL's pg_control.h

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


def pid_file(data: Path) -> list[str]:
    """Lines of the server's own file: its id first, the data second, its socket folder fifth, its status eighth."""
    try:
        return (data / PID_FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def is_of(data: Path, lines: list[str]) -> bool:
    """Whether the server's own file, which a copy of the folder holds too, speaks of this folder."""
    return len(lines) > 1 and is_same(lines[1], data)


def is_same(path: str, folder: Path) -> bool:
    """Whether `path` leads to `folder`."""
    try:
        return Path(path).samefile(folder)
    except OSError:
        return False


def check_startable(data: Path, *, shared: bool) -> None:
    """Raise DatabaseUnavailableError unless it is certain that no server runs on `data`, and that they are whole.

    For data whose lock was found free. `shared` says whether other processes may use the folder: it counts only where
    the lock does not prove that the server has ended.
    """
    record, lines = ServerRecord.of(data), pid_file(data)
    elsewhere = bool(lines) and not is_of(data, lines)  # the pid file names another folder: the data are a copy
    if record is None:  # last served by a version of hpo that kept no record
        if lines and shared:
            raise in_use(data)
        if elsewhere:
            raise _torn(data, f"{data / PID_FILE}")
    elif record.is_copy(data):
        if elsewhere or not _was_shut_down(data):
            raise _torn(data, f"{data / FILE} and {PID_FILE}")
    elif not record.is_of_here and not record.is_over(data):
        _refuse_unknown(data, record, lines, shared=shared)


def _refuse_unknown(data: Path, record: ServerRecord, lines: list[str], *, shared: bool) -> None:
    """Raise unless the data were shut down: whether their server on another host has ended cannot be known."""
    if shared:
        raise in_use(data)
    if lines:
        raise lasting(
            f"{data} was last in use by host {record.host}, and whether its PostgreSQL has ended cannot be seen "
            "from here; give --storage a URL, or, when certainly nothing runs on it there, remove "
            f"{data / PID_FILE}"
        )


def in_use(data: Path) -> DatabaseUnavailableError:
    """The error of data whose server lives and cannot be reached from here."""
    record, lines = ServerRecord.of(data), pid_file(data)
    host = f" ({record.host})" if record is not None else ""
    path = f", as {lines[1]}" if len(lines) > 1 and not is_of(data, lines) else ""
    return DatabaseUnavailableError(
        f"{data} is in use by another container or host{host}{path}, and its PostgreSQL cannot be reached from here; "
        "give --storage a URL, or try again once that use has ended"
    )


def lasting(message: str) -> DatabaseUnavailableError:
    """An error that does not pass by itself, so that nothing is asked again."""
    error = DatabaseUnavailableError(message)
    error.passes = False
    return error


def _torn(data: Path, files: str) -> DatabaseUnavailableError:
    return lasting(
        f"{data} is a copy of a folder whose PostgreSQL ran, or was killed, so its parts may not fit together; once "
        "nothing uses the original run `hpo studies` on the original, which ends it in order, and copy it again, or, "
        f"where there is no better copy, remove {files}"
    )


def _was_shut_down(data: Path) -> bool:
    """Whether the data are those of a server that ended in order, by PostgreSQL's `ControlFileData`."""
    control = data / "global" / "pg_control"
    return control.exists() and struct.unpack_from("=QIIi", control.read_bytes())[3] == _SHUT_DOWN


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

"""ServerRecord: which server uses a data folder, and whether another server may be started on it.

The record is the file `hpo.server` among the data. The server and all its processes inherit that file open and locked,
so the kernel tells whether one of them still runs. Such a lock is visible in every container of the same host, and on
other hosts if the file system passes locks on. PostgreSQL's own interlock rests on pids, shared memory and sockets,
which are not visible there.
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

# File systems that only one machine can mount. Any other may be shared with a host whose locks are not visible.
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "ramfs", "overlay", "apfs"})


@dataclass(frozen=True)
class ServerRecord:
    """The record of the server that was started last."""

    host: str
    machine: str
    """Content of /etc/machine-id; empty if there is none."""
    place: str
    """Boot and pid namespace, as `this_place` returns them."""
    token: str
    """Random text of each start, given to the server, which shows it to its clients."""
    inode: int
    """Inode of the file itself: it differs in a copy of the folder."""

    @classmethod
    def of(cls, data: Path) -> ServerRecord | None:
        """Read the record among `data`; None if there is none, as in data of earlier versions."""
        try:
            return cls(**json.loads((data / FILE).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    @property
    def is_visible_here(self) -> bool:
        """Whether the server was started in the pid namespace of this process."""
        return (self.host, self.place) == (socket.gethostname(), "") if not self.place else self.place == this_place()

    def is_copy(self, data: Path) -> bool:
        """Return whether `data` were copied from the folder of the server. A moved folder is not a copy."""
        return (data / FILE).stat().st_ino != self.inode

    def has_ended(self, data: Path) -> bool:
        """Return whether the server has certainly ended, if its lock is free.

        The lock is reliable under the same kernel and on a file system of one machine. A server from before a restart
        of this machine has ended too. For another host on a shared folder this cannot be known.
        """
        boot = this_place().partition("/")[0]
        same_kernel = bool(boot) and self.place.partition("/")[0] == boot
        here = _this_machine()
        return same_kernel or _is_local(data) or (bool(here[1]) and (self.host, self.machine) == here)


def is_locked(data: Path) -> bool:
    """Return whether any process of a server on `data` runs, on any host. Raises OSError without support of locks."""
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
    """Write the record of a server that the block starts; yield the descriptor that the server has to inherit.

    Raises BlockingIOError when another server holds the lock.
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
        os.close(descriptor)  # the processes that inherited the file keep the lock


def pid_file(data: Path) -> list[str]:
    """Return the lines of the server's pid file: pid first, data second, socket folder fifth, status eighth."""
    try:
        return (data / PID_FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def is_pid_file_of(data: Path, lines: list[str]) -> bool:
    """Return whether the pid file names this folder: in a copy of the folder it names the original."""
    return len(lines) > 1 and is_same(lines[1], data)


def is_same(path: str, folder: Path) -> bool:
    """Return whether `path` leads to `folder`."""
    try:
        return Path(path).samefile(folder)
    except OSError:
        return False


def check_startable(data: Path, *, shared: bool) -> None:
    """Raise DatabaseUnavailableError unless it is certain that no server runs on `data`, and that they are complete.

    The lock of the data must be free. `shared`: whether other processes may use the folder; it counts only if the lock
    does not prove that the server has ended.
    """
    record, lines = ServerRecord.of(data), pid_file(data)
    elsewhere = bool(lines) and not is_pid_file_of(
        data, lines
    )  # the pid file names another folder: the data are a copy
    if record is None:  # last served by a version of hpo that kept no record
        if lines and shared:
            raise in_use_error(data)
        if elsewhere:
            raise _torn_error(data, f"{data / PID_FILE}")
    elif record.is_copy(data):
        if elsewhere or not _was_shut_down(data):
            raise _torn_error(data, f"{data / FILE} and {PID_FILE}")
    elif not record.is_visible_here and not record.has_ended(data):
        _refuse_unknown(data, record, lines, shared=shared)


def _refuse_unknown(data: Path, record: ServerRecord, lines: list[str], *, shared: bool) -> None:
    """Raise unless the data were shut down: whether their server on another host has ended cannot be known."""
    if shared:
        raise in_use_error(data)
    if lines:
        raise lasting_error(
            f"{data} was last in use by host {record.host}, and whether its PostgreSQL has ended cannot be seen "
            "from here; give --storage a URL, or, when certainly nothing runs on it there, remove "
            f"{data / PID_FILE}"
        )


def in_use_error(data: Path) -> DatabaseUnavailableError:
    """Return the error for data whose server runs and cannot be reached from here."""
    record, lines = ServerRecord.of(data), pid_file(data)
    host = f" ({record.host})" if record is not None else ""
    path = f", as {lines[1]}" if len(lines) > 1 and not is_pid_file_of(data, lines) else ""
    return DatabaseUnavailableError(
        f"{data} is in use by another container or host{host}{path}, and its PostgreSQL cannot be reached from here; "
        "give --storage a URL, or try again once that use has ended"
    )


def lasting_error(message: str) -> DatabaseUnavailableError:
    """Return an error that does not pass by itself, so that it is not retried."""
    error = DatabaseUnavailableError(message)
    error.passes = False
    return error


def _torn_error(data: Path, files: str) -> DatabaseUnavailableError:
    return lasting_error(
        f"{data} is a copy of a folder whose PostgreSQL ran, or was killed, so its parts may not fit together; once "
        "nothing uses the original run `hpo studies` on the original, which ends it in order, and copy it again, or, "
        f"where there is no better copy, remove {files}"
    )


def _was_shut_down(data: Path) -> bool:
    """Return whether the server of the data was shut down properly, by PostgreSQL's `ControlFileData`."""
    control = data / "global" / "pg_control"
    return control.exists() and struct.unpack_from("=QIIi", control.read_bytes())[3] == _SHUT_DOWN


def _this_machine() -> tuple[str, str]:
    """Return host name and machine id: containers differ in the first, machines of one disk image share the second."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
    except OSError:
        machine = ""
    return socket.gethostname(), machine


def _is_local(path: Path) -> bool:
    resolved = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    return bool(mounts) and max(mounts, key=lambda part: len(part.mountpoint)).fstype in _LOCAL

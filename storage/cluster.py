"""Cluster: one folder of PostgreSQL data, and the server on it.

`get_server` of the wheel is not used: as root it opens the permissions of every parent folder; it passes paths through
a shell; it counts its users in a list that is wrong after a SIGKILL; and it takes any process with the recorded pid for
the server.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import socket
import struct
import tempfile
import time
from pathlib import Path

import psutil

from storage.errors import DatabaseUnavailableError
from storage.postgres_binaries import VERSION, ServerAccount, failure_reason, owner_name, run_program
from storage.server_record import (
    FILE,
    ServerRecord,
    check_startable,
    in_use_error,
    is_locked,
    is_pid_file_of,
    is_same,
    lasting_error,
    new_record,
    pid_file,
)
from storage.synced_files import sync_folder

_log = logging.getLogger(__name__)

PORT = 5432
"""Part of the socket file's name; no TCP port is opened."""

USER = "hpo"
"""The only database user; the system's user is mapped to it."""

_SOCKET_PATH_LIMIT = 103  # bytes; with the final NUL it is 104 on macOS, 108 on Linux

_PLAIN_PATH = re.compile(r"[\w./+@%:=~-]+", re.ASCII)

_POLL = 0.05  # seconds

_FOREIGN_TIMEOUT = 5.0
"""Seconds to wait for an answer of a server of another container or host, which cannot be restarted from here."""

_LEAST_ROOM = 2**20  # bytes

_LEAST_SHARED = 16 * 2**20  # bytes; Docker gives a container 64 MiB

_VANISHING = 1.0
"""Seconds for which a server may run without its socket, as while it stops."""

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # PostgreSQL's protocol, «Message Formats»

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "log_checkpoints": "off",
    "timezone": "UTC",
    # A backend whose client was killed during a statement ends, and releases its locks.
    "client_connection_check_interval": "5s",
}


class Cluster:
    """The data in `folder`. The caller of its methods holds the lock of the embedded server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._account = ServerAccount.of(folder)

    def initialise(self) -> None:
        """Create the data unless they exist: built beside and renamed, so that a kill leaves no part of them."""
        if self.folder.exists() and self._check_data():
            return
        draft = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._account.chown(draft)
        try:
            self._initdb(draft)
            draft.rename(self.folder)
            sync_folder(self.folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _check_data(self) -> bool:
        """Return whether there are data. Raises DatabaseUnavailableError for incomplete data and another version's."""
        self._check_owner()
        version, control = self.folder / "PG_VERSION", self.folder / "global" / "pg_control"
        if version.exists():
            _check_version(self.folder, version.read_text().strip())
        if any(self.folder.iterdir()) and not (version.exists() and control.exists()):
            missing = control if version.exists() else version
            raise lasting_error(
                f"{self.folder} is a part of a database only (no {missing.name}), as of a copy that was broken off; "
                "complete it, or move it away and start anew"
            )
        return version.exists()

    def _check_owner(self) -> None:
        owner, me = self.folder.stat().st_uid, os.geteuid()
        if not self._account.is_other and owner != me:
            raise lasting_error(
                f"{self.folder} belongs to user {owner_name(owner)}, and PostgreSQL runs as the owner of its data; "
                f"work as that user, give the folder to yours (sudo chown -R {owner_name(me)} "
                f"{shlex.quote(str(self.folder.parent))}), or give --storage a URL"
            )

    def _make_private(self) -> None:
        """Make the data private to the account, as PostgreSQL requires: `cp -r` by root gives them to root, open."""
        status = self.folder.stat()
        if status.st_uid != self._account.uid:
            _log.warning("%s is given to user %s, who runs PostgreSQL", self.folder, owner_name(self._account.uid))
            self._account.chown_all(self.folder)
        if (mode := status.st_mode & 0o777) not in (0o700, 0o750):
            _log.warning(
                "%s was open to others (mode %o), which PostgreSQL refuses; it is closed now", self.folder, mode
            )
            self.folder.chmod(0o700)

    def socket_folder(self) -> Path | None:
        """Return the socket folder of this folder's own server; None unless it is ready and answers."""
        lines = pid_file(self.folder)
        if len(lines) < 8 or lines[7].strip() != "ready" or not is_pid_file_of(self.folder, lines):
            return None
        return Path(lines[4]) if _answers(Path(lines[4])) else None

    def start(self, timeout: float, *, shared: bool) -> Path:
        """Start the server, or wait for one that is starting or busy; return its socket folder.

        `shared`: whether processes other than the one that is just joining use the folder. Raises
        DatabaseUnavailableError after `timeout` seconds, and, without any change, when a server that cannot be reached
        from here may be running.
        """
        begun = time.monotonic()
        while (folder := self.socket_folder()) is None:
            waited = time.monotonic() - begun
            if not self._is_alive():
                if waited > timeout:
                    raise self._timeout_error(timeout)
                check_startable(self.folder, shared=shared)
                self._launch(timeout)
            elif self._was_moved() and not shared:
                self.stop(timeout)
            else:
                # Wait for a starting server, and for the end of a killed one: two servers on one folder would ruin it.
                self._check_reachable(waited)
                if waited > timeout:
                    raise self._timeout_error(timeout)
            time.sleep(_POLL)
        return folder

    def check_serves(self, data_directory: str, token: str | None) -> None:
        """Raise DatabaseUnavailableError unless the server with this data directory and token is that of this folder.

        The token is None for a server that an earlier version of hpo started.
        """
        record = ServerRecord.of(self.folder)
        expected = record.token if record is not None and not record.is_copy(self.folder) else None
        if not is_same(data_directory, self.folder) or (token is not None and token != expected):
            raise lasting_error(
                f"the PostgreSQL that answers serves {data_directory}, not {self.folder}: that folder was copied, "
                "moved or replaced meanwhile; end what still uses it, then try again"
            )

    def stop(self, timeout: float) -> bool:
        """Stop the server; return whether one was running. Open transactions are rolled back."""
        lines = pid_file(self.folder)
        # In another pid namespace the same pid belongs to another program.
        if len(lines) < 5 or lines[0] not in [str(process.pid) for process in self._processes()]:
            return False
        order = ("pg_ctl", "-D", ".", "-w", "-t", f"{timeout:.0f}", "stop", "-m")
        if not self._run(*order, "fast")[0]:
            self._run(*order, "immediate")
        sockets = Path(lines[4])
        if sockets != self.folder and sockets.is_dir() and not any(sockets.iterdir()):
            sockets.rmdir()
        return True

    def _initdb(self, draft: Path) -> None:
        options = (
            "--username", USER, "--encoding=UTF8", "--no-locale", "--auth-local=peer", "--auth-host=reject",
            f"--set=dynamic_shared_memory_type={_kind_of_memory()}",
        )  # fmt: skip
        done, output = run_program("initdb", "-D", ".", *options, within=draft, account=self._account)
        if not done:
            raise DatabaseUnavailableError(f"{self.folder} cannot hold a database: {failure_reason(output)}")
        names = "".join(f'owner "{name}" {USER}\n' for name in self._account.clients)
        (draft / "pg_ident.conf").write_text(names)
        (draft / "pg_hba.conf").write_text("local all all peer map=owner\n")

    def _is_alive(self) -> bool:
        """Return whether any process of a server on this folder runs, by its lock or by the list of processes."""
        return is_locked(self.folder) or bool(self._processes())

    def _was_moved(self) -> bool:
        """Return whether a visible server was started under a path that does not lead to this folder any more."""
        lines = pid_file(self.folder)
        return bool(lines) and not is_pid_file_of(self.folder, lines) and bool(self._processes())

    def _check_reachable(self, waited: float) -> None:
        """Raise when a running server cannot be reached from here, or is another host's and does not answer."""
        lines = pid_file(self.folder)
        ready = len(lines) > 7 and lines[7].strip() == "ready"
        hidden = ready and not (is_pid_file_of(self.folder, lines) and _socket(Path(lines[4])).exists())
        if waited > (_VANISHING if hidden else _FOREIGN_TIMEOUT) and (hidden or not self._processes()):
            raise in_use_error(self.folder)

    def _timeout_error(self, timeout: float) -> DatabaseUnavailableError:
        return DatabaseUnavailableError(
            f"PostgreSQL in {self.folder} does not answer after {timeout:g} s; "
            f"see {self.folder / 'server.log'}, or end its processes and try again"
        )

    def _launch(self, timeout: float) -> None:
        self._make_private()
        sockets = self._choose_socket_folder()
        if _answers(sockets):
            raise in_use_error(self.folder)
        try:
            with new_record(self.folder) as held:
                self._account.chown(self.folder / FILE)
                record = ServerRecord.of(self.folder)
                assert record is not None
                # No server runs, but its pid may be another process's by now, or a zombie's: PostgreSQL would refuse.
                for lock in (self.folder / "postmaster.pid", sockets / f"{_socket(sockets).name}.lock"):
                    lock.unlink(missing_ok=True)
                self._run_server(sockets, record.token, held, timeout)
        except BlockingIOError as error:
            raise in_use_error(self.folder) from error

    def _run_server(self, sockets: Path, token: str, held: int, timeout: float) -> None:
        own = {"unix_socket_directories": str(sockets), "dynamic_shared_memory_type": _kind_of_memory()}
        settings = {**_SETTINGS, **own, "hpo.server": token}
        options = " ".join(shlex.quote(f"--{name}={value}") for name, value in settings.items())
        log = self.folder / "server.log"
        written = log.stat().st_size if log.exists() else 0
        order = ("pg_ctl", "-D", ".", "-l", log.name, "-w", "-t", f"{timeout:.0f}", "-o", options, "start")
        done, output = self._run(*order, reach=(sockets,), inherits=(held,))
        if not done:
            logged = log.read_bytes()[written:].decode(errors="replace") if log.exists() else ""
            raise DatabaseUnavailableError(
                f"PostgreSQL in {self.folder} does not start: {self._cause(logged + output)}"
            )

    def _cause(self, output: str) -> str:
        """Return why a program failed; on a full disk its output may be missing."""
        return failure_reason(
            "No space left on device" if shutil.disk_usage(self.folder).free < _LEAST_ROOM else output
        )

    def _choose_socket_folder(self) -> Path:
        """Return the data folder, or a private one with a short name if the path is not valid for a socket."""
        if _fits(self.folder):
            return self.folder
        # Another container may have another folder at this path, or this one may have replaced it: hence the inode.
        key = f"{self.folder.stat().st_ino} {self.folder}"
        name = f"hpo-{hashlib.sha256(os.fsencode(key)).hexdigest()[:12]}"
        # The folder of a login session comes last: it is removed with the session, while a run under nohup goes on.
        roots = (tempfile.gettempdir(), "/tmp", os.environ.get("XDG_RUNTIME_DIR"))  # noqa: S108 - made private
        candidates = [Path(root, name) for root in roots if root and os.access(root, os.W_OK | os.X_OK)]
        folder = next((candidate for candidate in candidates if _fits(candidate)), None)
        if folder is None:
            raise lasting_error(
                f"the path of {self.folder} cannot be a socket's (at most {_SOCKET_PATH_LIMIT} plain characters), and "
                "no temporary folder can take its place; set TMPDIR to a short path, or work in another folder"
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid == os.geteuid():
            self._account.chown(folder)
        status = folder.lstat()
        if folder.is_symlink() or status.st_uid != self._account.uid or status.st_mode & 0o077:
            raise DatabaseUnavailableError(f"{folder} must be a private folder of ours, but is not; remove it")
        return folder

    def _processes(self) -> list[psutil.Process]:
        """Return the running processes of a server on this folder, which is the working folder of each."""
        return [process for process in psutil.process_iter(["name"]) if _serves(process, self.folder)]

    def _run(
        self, program: str, *arguments: str, reach: tuple[Path, ...] = (), inherits: tuple[int, ...] = ()
    ) -> tuple[bool, str]:
        return run_program(
            program, *arguments, within=self.folder, account=self._account, reach=reach, inherits=inherits
        )


def _serves(process: psutil.Process, folder: Path) -> bool:
    if process.info["name"] not in ("postgres", "pg_ctl"):
        return False
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # The link leads to the folder even if its path leads to another one here, or nowhere.
        link = Path(f"/proc/{process.pid}/cwd")
        return (link if psutil.LINUX else Path(process.cwd())).samefile(folder)
    except (psutil.Error, OSError):
        return False


def _socket(folder: Path) -> Path:
    return folder / f".s.PGSQL.{PORT}"


def _kind_of_memory() -> str:
    """Return the setting of PostgreSQL's shared memory: its own files if /dev/shm is small."""
    if not psutil.LINUX:
        return "posix"
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 - only its size is read
    except OSError:
        return "mmap"
    roomy = status.f_bavail * status.f_frsize >= _LEAST_SHARED and not status.f_flag & os.ST_RDONLY
    return "posix" if roomy else "mmap"


def _check_version(folder: Path, found: str) -> None:
    if found != VERSION:
        raise DatabaseUnavailableError(
            f"{folder} was written by PostgreSQL {found}, but this is {VERSION}; "
            "move that folder away, or install the version of hpo that made it"
        )


def _fits(folder: Path) -> bool:
    path = str(_socket(folder))
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and _PLAIN_PATH.fullmatch(path) is not None


def _answers(folder: Path) -> bool:
    """Return whether a server answers a request for SSL; one that was just killed may still accept connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(2.0)
        try:
            client.connect(str(_socket(folder)))
            client.sendall(_SSL_REQUEST)
            return client.recv(1) in (b"N", b"S")
        except OSError:
            return False

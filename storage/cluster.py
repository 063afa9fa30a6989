"""Cluster: one folder of PostgreSQL data, and the server on it.

The wheel's own `get_server` is not used: to run as root it opens the permissions of every parent folder, it passes
paths through a shell, counts its users in a list that a SIGKILL leaves wrong, and takes any process that has the
recorded id for the server.
"""

from __future__ import annotations

import hashlib
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
from storage.programs import VERSION, reason, run_program
from storage.server_account import ServerAccount

PORT = 5432
"""Names the socket file; no TCP port is opened."""
USER = "hpo"
"""The one database user, whom the system's user is mapped to."""

_SOCKET_PATH_LIMIT = 103  # bytes; with the final NUL it is 104 on macOS, 108 on Linux
_PLAIN_PATH = re.compile(r"[\w./+@%:=~-]+", re.ASCII)
_POLL = 0.05  # seconds
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
    # A backend whose client was killed in mid-statement ends, and drops its locks.
    "client_connection_check_interval": "5s",
}


class Cluster:
    """The data in `folder`. Its methods are called under the lock of the embedded server, never two at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._account = ServerAccount.of(folder)

    def initialise(self) -> None:
        """Create the data unless it is there: built beside and renamed, so that a kill leaves nothing half made."""
        version = self.folder / "PG_VERSION"
        if version.exists():
            _check_version(self.folder, version.read_text().strip())
            return
        draft = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._account.owns(draft)
        try:
            self._initdb(draft)
            draft.rename(self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def socket_folder(self) -> Path | None:
        """Where the server listens, once it is ready and answers there; None while it does not."""
        lines = self._pid_file()
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        return Path(lines[4]) if _answers(Path(lines[4])) else None

    def start(self, timeout: float) -> Path:
        """Start the server, or wait for one that is starting; its socket folder, within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (folder := self.socket_folder()) is None:
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"PostgreSQL in {self.folder} does not answer after {timeout:g} s; "
                    f"see {self.folder / 'server.log'}, or end its processes and try again"
                )
            # A server that is starting, or what is left of a killed one, is given time: two on one folder ruin it.
            if not self._processes():
                self._launch(timeout)
            time.sleep(_POLL)
        return folder

    def stop(self, timeout: float) -> bool:
        """Stop the server; True when one was running. Open sessions end, their transactions are rolled back."""
        lines = self._pid_file()
        if len(lines) < 5 or not self._processes():
            return False
        order = ("pg_ctl", "-D", ".", "-w", "-t", f"{timeout:.0f}", "stop", "-m")
        if not self._run(*order, "fast")[0]:
            self._run(*order, "immediate")
        sockets = Path(lines[4])
        if sockets != self.folder and sockets.is_dir() and not any(sockets.iterdir()):
            sockets.rmdir()
        return True

    def _initdb(self, draft: Path) -> None:
        options = ("--username", USER, "--encoding=UTF8", "--no-locale", "--auth-local=peer", "--auth-host=reject")
        done, output = run_program("initdb", "-D", ".", *options, within=draft, account=self._account)
        if not done:
            raise DatabaseUnavailableError(f"{self.folder} cannot hold a database: {reason(output)}")
        names = "".join(f'owner "{name}" {USER}\n' for name in self._account.clients)
        (draft / "pg_ident.conf").write_text(names)
        (draft / "pg_hba.conf").write_text("local all all peer map=owner\n")

    def _launch(self, timeout: float) -> None:
        sockets = self._choose_socket_folder()
        # No process is left, but its number may be another program's by now, or a zombie's: PostgreSQL would refuse.
        for lock in (self.folder / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock"):
            lock.unlink(missing_ok=True)
        settings = {**_SETTINGS, "unix_socket_directories": str(sockets)}
        options = " ".join(shlex.quote(f"--{name}={value}") for name, value in settings.items())
        log = self.folder / "server.log"
        written = log.stat().st_size if log.exists() else 0
        order = ("pg_ctl", "-D", ".", "-l", log.name, "-w", "-t", f"{timeout:.0f}", "-o", options, "start")
        done, output = self._run(*order, reach=(sockets,))
        if not done:
            said = log.read_bytes()[written:].decode(errors="replace") if log.exists() else ""
            raise DatabaseUnavailableError(f"PostgreSQL in {self.folder} does not start: {reason(said + output)}")

    def _choose_socket_folder(self) -> Path:
        """The data folder, or a private one with a short and plain name where that path cannot be a socket's."""
        if _fits(self.folder):
            return self.folder
        name = f"hpo-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]}"
        roots = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")  # noqa: S108 - made private
        folder = next(Path(root, name) for root in roots if root and Path(root).is_dir() and _fits(Path(root, name)))
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid == os.geteuid():
            self._account.owns(folder)
        status = folder.lstat()
        if folder.is_symlink() or status.st_uid != self._account.uid or status.st_mode & 0o077:
            raise DatabaseUnavailableError(f"{folder} must be a private folder of ours, but is not; remove it")
        return folder

    def _processes(self) -> list[psutil.Process]:
        """Living processes of a server on this folder, which is the working folder of each."""
        return [process for process in psutil.process_iter(["name"]) if _serves(process, self.folder)]

    def _pid_file(self) -> list[str]:
        """Lines of the server's own record: its id first, its socket folder fifth, its status eighth."""
        try:
            return (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _run(self, program: str, *arguments: str, reach: tuple[Path, ...] = ()) -> tuple[bool, str]:
        return run_program(program, *arguments, within=self.folder, account=self._account, reach=reach)


def _serves(process: psutil.Process, folder: Path) -> bool:
    if process.info["name"] not in ("postgres", "pg_ctl"):
        return False
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).samefile(folder)
    except (psutil.Error, OSError):
        return False


def _check_version(folder: Path, found: str) -> None:
    if found != VERSION:
        raise DatabaseUnavailableError(
            f"{folder} was written by PostgreSQL {found}, but this is {VERSION}; "
            "move that folder away, or install the version of hpo that made it"
        )


def _fits(folder: Path) -> bool:
    path = str(folder / f".s.PGSQL.{PORT}")
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and _PLAIN_PATH.fullmatch(path) is not None


def _answers(folder: Path) -> bool:
    """Whether a server replies to a request for SSL; a mere connection is taken even by one that was just killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(2.0)
        try:
            client.connect(str(folder / f".s.PGSQL.{PORT}"))
            client.sendall(_SSL_REQUEST)
            return client.recv(1) in (b"N", b"S")
        except OSError:
            return False

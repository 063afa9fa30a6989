"""Server: a real PostgreSQL on 127.0.0.1 that a campaign can restart, and whose sessions it can end."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from storage.postgres_binaries import ServerAccount, run_program
from tests.chaos.sql import Sql

Mode = Literal["fast", "immediate"]


class Server:
    """The PostgreSQL of the wheel under `folder`. Its superuser is `chaos`; TCP connections need no password."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._account = ServerAccount.of(self._data)
        self.port = free_port()
        self._data.mkdir(mode=0o700)
        self._account.chown(folder)
        self._account.chown(self._data)
        self._run("initdb", "-U", "chaos", "--auth-host=trust", "--auth-local=trust", "--no-locale", "-E", "UTF8", "-N")
        self.start()

    def url(self, database: str, port: int | None = None) -> str:
        """Return the URL of `database` on this server, or through a proxy that listens on `port`."""
        return f"postgresql://chaos@127.0.0.1:{port or self.port}/{database}?sslmode=disable&gssencmode=disable"

    def start(self) -> None:
        # Data need not survive a loss of power. Commits survive the death of every process without fsync too.
        options = f"-h 127.0.0.1 -p {self.port} -k . -c fsync=off -c full_page_writes=off -c max_connections=300"
        self._run("pg_ctl", "-l", "server.log", "-o", options, "-w", "start")

    def restart(self, mode: Mode) -> None:
        """Restart with the same port and settings; `immediate` ends the sessions as in a crash."""
        self._run("pg_ctl", "-w", "-m", mode, "-l", "server.log", "restart")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def terminate_backends(self, database: str, count: int | None = None) -> int:
        """End `count` sessions of `database`, those in a transaction first; return their number."""
        return len(
            self.sql("postgres")(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s ORDER BY xact_start NULLS LAST, state_change DESC LIMIT %s",
                database,
                count,
            )
        )

    def sql(self, database: str) -> Sql:
        """Return a caller of statements that bypasses any proxy."""
        return Sql(self.url(database))

    def create_database(self, name: str, template: str = "template1") -> None:
        self.sql("postgres")(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")

    def drop_database(self, name: str) -> None:
        self.sql("postgres")(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, program: str, *arguments: str) -> None:
        done, output = run_program(program, "-D", ".", *arguments, within=self._data, account=self._account)
        if not done:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {output}")


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server for the duration of the block."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-chaos-pg-"))
    try:
        server = Server(folder)
        yield server
    finally:
        with suppress(RuntimeError, UnboundLocalError):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

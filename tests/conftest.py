"""Real surroundings for the tests that ask for them.

A PostgreSQL for each test process and a database for each test, a server with passwords, a full disk, an S3 server.
"""

from __future__ import annotations

import gc
import logging
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy

from storage import Database, EmbeddedServer, open_database
from storage.postgres_binaries import ServerAccount, run_program
from tests.reused_databases import ReusedDatabases

_LEAST_OF_SLOW = 10.0  # seconds


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark the tests that use PostgreSQL; once others have chosen and shuffled the tests, let the longest begin first.

    Else a test process may begin with the longest one when the other has nothing left to do.
    """
    for item in items:
        if "postgres_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)
    yield
    items.sort(key=_seconds, reverse=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exempt what is loaded by now, half a million objects, from the garbage collections during the tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Let the end of the process collect them, as some libraries check that nothing of theirs is left."""
    gc.unfreeze()


def _seconds(item: pytest.Item) -> float:
    """Return about how long the test takes as its mark `slow(seconds)` says; 0 without the mark."""
    marks = item.iter_markers("slow")
    return max((float(mark.args[0]) if mark.args else _LEAST_OF_SLOW for mark in marks), default=0.0)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Yield a server of the wheel's PostgreSQL, as the URL of its `postgres` database."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-"))  # short: a socket's path has little room
    folder.chmod(0o755)
    server = EmbeddedServer.join(folder)
    url = server.url.render_as_string(hide_password=False)
    # The data live as long as the tests: nothing needs to survive a loss of power.
    off = [f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "full_page_writes")]
    _administer(url, *off, "SELECT pg_reload_conf()")
    yield url
    server.leave()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def databases_of_tests(postgres_url: str) -> Iterator[ReusedDatabases]:
    databases = ReusedDatabases(postgres_url)
    yield databases
    databases.close()


@pytest.fixture
def empty_url(databases_of_tests: ReusedDatabases) -> Iterator[str]:
    """Yield the URL of a database without a single table."""
    with databases_of_tests.without_tables() as url:
        yield url


@pytest.fixture
def database_url(databases_of_tests: ReusedDatabases) -> Iterator[str]:
    """Yield the URL of a database with optuna's tables and nothing in them."""
    with databases_of_tests.one() as url:
        yield url


@pytest.fixture
def other_database_url(databases_of_tests: ReusedDatabases) -> Iterator[str]:
    """Yield the URL of another such database on the same server."""
    with databases_of_tests.one() as url:
        yield url


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """Yield an open database with optuna's tables and nothing in them."""
    with open_database(database_url, home=tmp_path / "unused") as database:
        yield database


def _administer(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@dataclass(frozen=True)
class TcpServer:
    """A PostgreSQL on 127.0.0.1 that asks for passwords: superuser `admin`, password `Secret-1`."""

    port: int
    socket_folder: Path

    def url(self, *, user: str = "admin", password: str = "Secret-1", database: str = "postgres") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def administer(self, *statements: str) -> None:
        connection = psycopg2.connect(host=str(self.socket_folder), port=self.port, user="admin", dbname="postgres")
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)
        connection.close()


@pytest.fixture(scope="session")
def tcp_server() -> Iterator[TcpServer]:
    folder = Path(tempfile.mkdtemp(prefix="hpo-tcp-"))
    account = ServerAccount.of(folder / "data")
    data = folder / "data"
    data.mkdir(mode=0o700)
    account.chown(folder)
    account.chown(data)
    (data.parent / "password").write_text("Secret-1\n")
    (data.parent / "password").chmod(0o644)

    def run(program: str, *arguments: str) -> None:
        done, output = run_program(program, "-D", ".", *arguments, within=data, account=account)
        assert done, output

    run("initdb", "-U", "admin", "--pwfile=../password", "--auth-host=scram-sha-256", "--auth-local=trust", "-N")
    port = free_port()
    run("pg_ctl", "-l", "log", "-o", f"-h 127.0.0.1 -p {port} -k {data} -c fsync=off", "-w", "start")
    yield TcpServer(port, data)
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of one megabyte."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture(scope="session")
def s3_client() -> Iterator[Any]:
    """Yield boto3's client of a server that speaks S3."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: no S3 server").ThreadedMotoServer(port=0)
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it would tell of every request
    server.start()
    host, port = server.get_host_and_port()
    account = {"aws_access_key_id": "key", "aws_secret_access_key": "Secret-1", "region_name": "us-east-1"}
    yield boto3.client("s3", endpoint_url=f"http://{host}:{port}", **account)
    server.stop()


@pytest.fixture
def s3_root(s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a place in a new bucket; the environment says how it is reached."""
    names = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "Secret-1", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**names, "AWS_ENDPOINT_URL_S3": s3_client.meta.endpoint_url}.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/artifacts"


@dataclass(frozen=True)
class Shown:
    """What a command wrote to its terminal, byte for byte but for line ends, and its exit code."""

    text: str
    code: int


@pytest.fixture
def in_terminal() -> Callable[..., Shown]:
    """Run `hpo` with stdout and stderr on one real terminal of `columns`, and stdout in the file `out` where given."""

    def run(*arguments: object, columns: int = 80, out: Path | None = None, **variables: str) -> Shown:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, columns))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HPO_") and key != "COLUMNS"}
        environment = {**clean, "TERM": "xterm", "OMP_NUM_THREADS": "1", **variables}
        environment.pop("COLUMNS", None)  # it would count for more than the terminal's own width
        command = [sys.executable, "-m", "hpo", *map(str, arguments)]
        stdout = out.open("wb") if out else theirs
        with subprocess.Popen(command, stdin=theirs, stdout=stdout, stderr=theirs, env=environment) as process:
            os.close(theirs)
            got = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        return Shown(got.decode(variables.get("PYTHONIOENCODING", "utf-8")).replace("\r\n", "\n"), process.returncode)

    return run


def _read(terminal: int) -> bytes:
    """Return the next bytes; none once all that write to the terminal have closed it, which Linux tells by EIO."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""

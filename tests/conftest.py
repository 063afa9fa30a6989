"""A real PostgreSQL for every test that asks for one: one server for each test process, one database for each test."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import URL, make_url

from storage import Database, EmbeddedServer, open_database

_TEMPLATE = "with_tables"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgres_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server of the wheel's PostgreSQL, as the URL of its `postgres` database."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-"))  # short: a socket's path has little room
    folder.chmod(0o755)
    server = EmbeddedServer.join(folder)
    url = server.url.render_as_string(hide_password=False)
    # The data live as long as the tests: nothing needs to survive a loss of power.
    _administer(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()", f"CREATE DATABASE {_TEMPLATE}")
    with Database(server.url.set(database=_TEMPLATE)) as template:
        template.initialise()
    yield url
    server.leave()
    shutil.rmtree(folder)


@pytest.fixture
def empty_url(postgres_url: str) -> Iterator[str]:
    """The URL of a database without a single table."""
    yield from _fresh(postgres_url, "template0")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """The URL of a database with optuna's tables and nothing in them."""
    yield from _fresh(postgres_url, _TEMPLATE)


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An open database with optuna's tables and nothing in them."""
    with open_database(database_url, home=tmp_path / "unused") as database:
        yield database


def _fresh(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _named(server, name).render_as_string(hide_password=False)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _named(server: str, name: str) -> URL:
    return make_url(server).set(database=name)


def _administer(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)

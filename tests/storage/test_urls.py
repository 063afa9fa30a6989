from __future__ import annotations

import pytest

from storage import DatabaseUnavailableError
from storage.urls import parse_url, passwords, place, safe_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_postgresql_is_one(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:p%40ss@host:6543/cells?sslmode=require")
    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database) == ("me", "p@ss", "host", 6543, "cells")
    assert url.query == {"sslmode": "require"}


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///hpo.db",
        "mysql://me:Secret-1@host/db",
        "postgresql+asyncpg://me:Secret-1@host/db",
        "redis://:Secret-1@host",
        "Secret-1",
        "",
        "postgresql:me:Secret-1@host/db",
        "postgresql://me:Secret-1@host:port/db",
        "postgresql://me:Sec/ret-1@host:5432x/db",
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_the_rule_and_no_password(text: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="must be PostgreSQL, as postgresql://") as caught:
        parse_url(text)
    assert "\n" not in str(caught.value)
    assert "ret-1" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    ["postgresql://me:Secret-1@host/db", "postgresql://me@host/db?password=Secret-1", "postgresql://me:Secret-1@/"],
)
def test_no_view_of_a_url_shows_its_password(text: str) -> None:
    url = parse_url(text)
    assert url.password == "Secret-1"
    for view in (safe_url(url), str(url), repr(url), place(url)):
        assert "Secret" not in view


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me@host:6543/cells", "host:6543/cells"),
        ("postgresql://host", "host"),
        ("postgresql:///cells?host=/run/pg", "/run/pg/cells"),
        ("postgresql:///cells", "the local socket/cells"),
    ],
)
def test_a_message_names_the_server_and_the_database(text: str, shown: str) -> None:
    assert place(parse_url(text)) == shown


def test_a_password_in_the_query_is_masked_too() -> None:
    url = parse_url("postgresql://me:Secret-1@host/db?sslmode=require&sslpassword=Secret-2&Password=Secret-3")
    shown = safe_url(url)
    assert "Secret" not in shown
    assert shown.startswith("postgresql+psycopg2://me:***@host/db?")
    assert "sslmode=require" in shown
    assert "sslpassword=masked" in shown
    assert sorted(passwords(url)) == ["Secret-1", "Secret-2", "Secret-3"]

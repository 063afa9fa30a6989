from __future__ import annotations

import traceback

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn
from sqlalchemy import URL

from storage import DatabaseUnavailableError, give_password
from storage.connections import Connector
from storage.urls import parse_url, passwords, place, safe_url
from tests.conftest import TcpServer

PARTS = st.text(st.sampled_from("@/?#:% '\"=&,;[]\\ZQX79äé漢"), min_size=1, max_size=16)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_of_the_scheme_is_accepted(scheme: str) -> None:
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
def test_anything_else_is_refused_in_one_line_with_the_rule_and_without_a_password(text: str) -> None:
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
    url = parse_url("postgresql://me@host/db?sslmode=require&sslpassword=Secret-2&password=Secret-1")
    shown = safe_url(url)
    assert "Secret" not in shown
    assert shown.startswith("postgresql+psycopg2://me:***@host/db?")
    assert "sslmode=require" in shown
    assert "sslpassword=masked" in shown
    assert sorted(passwords(url)) == ["Secret-1", "Secret-2"]


def pieces(*secrets: str) -> set[str]:
    """Return every run of four characters in one of them, except those of punctuation only."""
    found = {text[start : start + 4] for text in secrets for start in range(len(text) - 3)}
    return {piece for piece in found if any(character.isalnum() for character in piece)}


def views(text: str) -> str:
    """Return all text that is shown of a URL: the message of its refusal, or its masked forms."""
    try:
        url = parse_url(text)
    except DatabaseUnavailableError as error:
        return "".join(traceback.format_exception(error)).partition("DatabaseUnavailableError")[2]
    return " ".join((safe_url(url), str(url), repr(url), place(url)))


@given(
    password=PARTS,
    shape=st.sampled_from(
        [
            "{}@h/db",
            "u:{}@h/db",
            "u:{}@h:5432/db?sslmode=require",
            "u:{}@/db",
            "h/db?user=u&password={}",
            "/db?password={}&host=h",
        ]
    ),
)
def test_no_part_of_a_raw_password_is_ever_shown(password: str, shape: str) -> None:
    if shape.startswith("{}"):
        shape = f"u:{shape}"
    seen = views(f"postgresql://{shape.format(password)}")
    assert not [piece for piece in pieces(password) if piece in seen]


@given(password=PARTS)
def test_an_encoded_password_and_one_from_a_file_arrive_unchanged(password: str) -> None:
    text = URL.create("postgresql", "u", password, "h", database="db").render_as_string(hide_password=False)
    for url in (parse_url(text), parse_url(give_password("postgres://u@h/db", password))):
        assert (url.username, url.password, url.host, url.database) == ("u", password, "h", "db")
        seen = " ".join((safe_url(url), str(url), repr(url), place(url)))
        assert not [piece for piece in pieces(password) if piece in seen]


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("postgresql://u@h/db", "u"),
        ("postgresql://h/db?user=u", "u"),
        ("postgresql://h/db", None),
        ("postgresql:///db", None),
        ("postgresql:///?service=foo", None),
        ("postgresql://a:1,b:2/db?user=u", "u"),
        ("host=h dbname=db user=u", "u"),
        ("host=h dbname=db", None),
        ("service=foo", None),
    ],
)
def test_a_password_from_a_file_arrives_with_every_form_of_url(text: str, user: str | None) -> None:
    url = parse_url(give_password(text, "Secret-1"))
    given = {**url.translate_connect_args(username="user"), **url.query}
    assert (given["password"], given.get("user")) == ("Secret-1", user)
    assert give_password(give_password(text, "Secret-1"), "other") == give_password(text, "Secret-1")
    assert "Secret" not in " ".join((safe_url(url), str(url), repr(url), place(url)))


@pytest.mark.parametrize("text", ["password=Secret-1 host=h", "postgresql://h/db?password=Secret-1"])
def test_a_password_without_a_user_reaches_the_workers(text: str) -> None:
    url = parse_url(text)
    assert url.password == "Secret-1"
    assert parse_url(url.render_as_string(hide_password=False)) == url


@pytest.mark.parametrize(
    "query",
    [
        "user=u&password=top&secr=word", "user=u&password=top&secr", "password=top&=secr", "password=top&secr=",
        "password=top&user=u&user=secr", "password=top&password=secr", "Password=secr", "ssl=secr",
        "host%3Dh%20user=secr",
    ],
)  # fmt: skip
def test_a_query_with_unknown_options_is_refused_and_not_shown(query: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match=r"percent-encode .*&.*%26.*HPO_STORAGE_PASSWORD_FILE") as caught:
        parse_url(f"postgresql://h/db?{query}")
    assert "secr" not in str(caught.value)
    assert "top" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    ["target_session_attrs=read-write", "options=-csearch_path%3Dhpo", "options=-csearch_path=hpo", "keepalives=1"],
)
def test_options_of_the_client_are_kept(option: str) -> None:
    assert dict(parse_url(f"postgresql://u:p@h/db?{option}").query) == {
        option.partition("=")[0]: option.partition("=")[2].replace("%3D", "=")
    }


@pytest.mark.parametrize(
    "password", ["top?se@cret", "se@cr/et", "top#secret", "50%cret", "a@b@secret", "se/cret", "%zz"]
)
def test_a_raw_password_that_is_ambiguous_is_refused_with_the_way_out(password: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match=r"percent-encode.*HPO_STORAGE_PASSWORD_FILE"):
        parse_url(f"postgresql://u:{password}@h/db")


@pytest.mark.parametrize("around", ["{} ", " {}", "{}\n", "\t{}\r\n"])
def test_blanks_and_line_ends_around_a_url_are_ignored(around: str) -> None:
    assert parse_url(around.format("postgresql://u:p@h:6543/db")) == parse_url("postgresql://u:p@h:6543/db")


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("postgresql://u:p@a:1,b:2/db", "a,b", "1,2", "a:1,b:2/db"),
        ("postgresql://u:p@a,b/db", "a,b", None, "a,b/db"),
        ("postgresql://u:p@a:1,b/db?target_session_attrs=read-write", "a,b", "1,", "a:1,b/db"),
        ("postgresql://u:p@/db?host=a:1&host=b:2", "a,b", "1,2", "a:1,b:2/db"),
        ("postgresql://u:p@/db?host=a&host=b", "a,b", None, "a,b/db"),
        ("postgresql://u:p@/db?host=a,b&port=1,2", "a,b", "1,2", "a:1,b:2/db"),
        ("host=a,b port=1,2 dbname=db user=u password=p", "a,b", "1,2", "a:1,b:2/db"),
        ("postgresql://u:p@%2Frun%2Fpg/db", "/run/pg", None, "/run/pg/db"),
        ("postgresql://u:p@[::1]:6543/db", "::1", "6543", "::1:6543/db"),
    ],
)
def test_hosts_are_given_in_libpqs_form(text: str, host: str, port: str | None, shown: str) -> None:
    url = parse_url(text)
    given = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    assert (given["host"], given.get("port") and str(given["port"])) == (host, port)
    assert (given["user"], given["password"], given["dbname"]) == ("u", "p", "db")
    assert place(url) == shown
    dsn = psycopg2.extensions.make_dsn(**given)
    assert parse_dsn(dsn)["host"] == host
    assert parse_url(url.render_as_string(hide_password=False)) == url, "as workers are given it"


@pytest.mark.parametrize("text", ["host=h password='se cret' nonsense=1", "password=secret host", "secret=cret x=y"])
def test_an_invalid_connection_string_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="must be PostgreSQL") as caught:
        parse_url(text)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["postgresql://u:se%00cret@h/db", "postgresql://u:se%0Acret@h/db"])
def test_characters_that_libpq_cannot_be_given_are_refused(text: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="a line break or a NUL") as caught:
        parse_url(text)
    assert "cret" not in str(caught.value)


@pytest.mark.postgres
@pytest.mark.parametrize(
    "form",
    [
        "postgresql://admin:Secret-1@127.0.0.1:1,127.0.0.1:{port}/postgres",
        "postgresql://admin:Secret-1@/postgres?host=127.0.0.1:1&host=127.0.0.1:{port}",
        "host=127.0.0.1,127.0.0.1 port=1,{port} user=admin password=Secret-1 dbname=postgres",
        " postgres://admin:Secret-1@127.0.0.1:{port}/postgres\n",
    ],
)
def test_every_form_connects(tcp_server: TcpServer, form: str) -> None:
    engine = Connector(parse_url(form.format(port=tcp_server.port)), start_timeout=0).engine()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT current_user").scalar_one() == "admin"
    engine.dispose()


@pytest.mark.parametrize("text", ["postgresql://top@h/db?user=secr", "postgresql://u:top@h/db?password=secr"])
def test_a_user_or_password_in_two_places_is_refused(text: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="give no option twice") as caught:
        parse_url(text)
    assert "secr" not in str(caught.value)

"""Real faults of a real server, each as the one line that the user sees."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors
from sqlalchemy import event, make_url

from storage import Database, DatabaseUnavailableError, open_database
from storage.connections import unavailable

pytestmark = pytest.mark.postgres


def use(url: str) -> None:
    with open_database(url, home=Path("unused"), start_timeout=0) as database:
        database.initialise()


def refusal(url: str) -> str:
    """Return the message that the user reads; neither it nor a chained error may hold the password."""
    with pytest.raises(DatabaseUnavailableError) as caught:
        use(url)
    chain, error = [], caught.value
    while error is not None:
        chain.append(f"{error!r} {error}")
        error = error.__cause__  # type: ignore[assignment]
    assert "Secret" not in " ".join(chain)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_password(tcp_server: Any) -> None:
    assert "wrong user or password" in refusal(tcp_server.url(password="Secret-2"))


def test_no_password(tcp_server: Any) -> None:
    assert "wrong user or password" in refusal(f"postgresql://admin@127.0.0.1:{tcp_server.port}/postgres")


def test_unknown_user(tcp_server: Any) -> None:
    # The server does not tell whether the user or the password is wrong.
    assert "wrong user or password" in refusal(tcp_server.url(user="nobody-here"))


def test_unknown_database(tcp_server: Any) -> None:
    message = refusal(tcp_server.url(database="nothing"))
    assert f"127.0.0.1:{tcp_server.port}/nothing: no such database there" in message


def test_a_user_that_may_not_log_in(tcp_server: Any) -> None:
    tcp_server.administer("DROP ROLE IF EXISTS shut", "CREATE ROLE shut PASSWORD 'Secret-3'")
    assert "may not log in" in refusal(tcp_server.url(user="shut", password="Secret-3"))


def test_a_user_that_may_not_connect_or_create(tcp_server: Any) -> None:
    tcp_server.administer(
        "DROP DATABASE IF EXISTS guarded",
        "DROP ROLE IF EXISTS guest",
        "CREATE ROLE guest LOGIN PASSWORD 'Secret-3'",
        "CREATE DATABASE guarded",
    )
    url = tcp_server.url(user="guest", password="Secret-3", database="guarded")
    assert "lacks a permission; grant it CONNECT, and CREATE on the schema" in refusal(url)
    tcp_server.administer("REVOKE CONNECT ON DATABASE guarded FROM PUBLIC")
    assert "lacks a permission" in refusal(url)


def test_a_database_that_can_only_be_read(tcp_server: Any) -> None:
    tcp_server.administer(
        "DROP DATABASE IF EXISTS replica",
        "CREATE DATABASE replica",
        "ALTER DATABASE replica SET default_transaction_read_only = on",
    )
    url = tcp_server.url(database="replica")
    assert "can only be read, as a replica; give --storage the primary's URL" in refusal(url)
    with (
        open_database(url, home=Path("unused")) as database,
        database.engine.connect() as connection,
        pytest.raises(DatabaseUnavailableError, match="can only be read"),
    ):
        connection.exec_driver_sql("CREATE TABLE t ()")


def test_too_many_connections(tcp_server: Any) -> None:
    tcp_server.administer("DROP ROLE IF EXISTS crowd", "CREATE ROLE crowd LOGIN PASSWORD 'Secret-3' CONNECTION LIMIT 1")
    url = tcp_server.url(user="crowd", password="Secret-3")
    with open_database(url, home=Path("unused")):
        assert "all its connections are taken" in refusal(url)


def test_an_empty_database_holds_no_studies_yet(empty_url: str) -> None:
    with (
        open_database(empty_url, home=Path("unused")) as database,
        pytest.raises(DatabaseUnavailableError, match="holds no studies yet; make one with `hpo run`"),
    ):
        _ = database.storage


def test_connection_refused(unused_port: int) -> None:
    assert "no server listens there" in refusal(f"postgresql://me:Secret-1@127.0.0.1:{unused_port}/db")


def test_no_such_socket(tmp_path: Path) -> None:
    assert "no server listens there" in refusal(f"postgresql://me:Secret-1@/db?host={tmp_path}")


def test_no_such_host() -> None:
    assert "no such host" in refusal("postgresql://me:Secret-1@no-such-host.invalid/db")


def test_an_option_that_does_not_exist() -> None:
    assert "none that the client of PostgreSQL does not know" in refusal(
        "postgresql://me:Secret-1@127.0.0.1/db?colour=red"
    )


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Yield a program on a port of this host that is not PostgreSQL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


def test_a_server_of_another_kind() -> None:
    with listener(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        message = refusal(f"postgresql://me:Secret-1@127.0.0.1:{port}/db?sslmode=disable")
    assert "what listens there is not PostgreSQL" in message


def test_a_server_that_never_answers() -> None:
    asked = threading.Event()
    with listener(lambda _: asked.wait(20) and None) as port:
        message = refusal(f"postgresql://me:Secret-1@127.0.0.1:{port}/db?connect_timeout=2")
        asked.set()
    assert "no answer in time" in message


def test_a_statement_that_takes_too_long(empty_url: str) -> None:
    with open_database(empty_url, home=Path("unused")) as database, database.engine.connect() as connection:
        connection.exec_driver_sql("SET statement_timeout = '50ms'")
        with pytest.raises(DatabaseUnavailableError, match="a statement took too long"):
            connection.exec_driver_sql("SELECT pg_sleep(20)")


def test_an_error_in_a_statement_is_not_a_fault_of_the_database(empty_url: str) -> None:
    from sqlalchemy.exc import ProgrammingError

    with (
        open_database(empty_url, home=Path("unused")) as database,
        database.engine.connect() as connection,
        pytest.raises(ProgrammingError),
    ):
        connection.exec_driver_sql("SELEKT 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('FATAL:  sorry, too many clients already', "all its connections are taken"),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "are taken"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me", database "db", no encryption', "pg_hba.conf"),
        ("FATAL:  the database system is starting up", "starting or stopping; try again"),
        ("server does not support SSL, but SSL was required", "no secure connection"),
        ("could not connect: No route to host", "cannot be reached"),
        ('could not extend file "base/5/16384": No space left on device', "disk is full"),
        ("canceling statement due to lock timeout", "held a lock too long"),
        ("SSL SYSCALL error: EOF detected", "the connection was cut"),
        ("cannot execute SELECT FOR UPDATE during recovery", "can only be read"),
        ("deadlock detected", "other sessions were in the way"),
        ("could not serialize access due to concurrent update", "other sessions were in the way"),
        ("something new\nDETAIL: Secret-1", "something new; check --storage and the server"),
        ('bad password "Secret-1"', 'bad password "***"'),
        ("bad key Secret-2", "bad key ***"),
    ],
)  # fmt: skip
def test_faults_that_cannot_be_caused_here_are_translated_by_their_messages(text: str, expected: str) -> None:
    error = unavailable(
        psycopg2.OperationalError(text), make_url("postgresql://me:Secret-1@host/db?sslpassword=Secret-2")
    )
    assert expected in str(error)
    assert "Secret" not in str(error)


def test_a_full_disk_of_the_server_is_translated() -> None:
    assert issubclass(errors.DiskFull, psycopg2.OperationalError)
    assert issubclass(errors.QueryCanceled, psycopg2.OperationalError)
    assert issubclass(errors.LockNotAvailable, psycopg2.OperationalError)


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_within_a_statement_is_no_fault_of_the_database(database: Database, signal: BaseException) -> None:
    """SQLAlchemy takes it for a lost connection, and a command would end with 2 and advice on --storage."""

    def interrupt(*_: object) -> None:
        raise signal

    event.listen(database.engine, "do_execute", interrupt)
    with pytest.raises(type(signal)), database.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")

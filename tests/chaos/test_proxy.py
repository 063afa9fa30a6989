"""The network that a campaign cuts, tested with a real PostgreSQL: a proxy that does not cut proves nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg2
import pytest

from tests.chaos.proxy import Proxy, Where
from tests.conftest import TcpServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def proxy(tcp_server: TcpServer) -> Iterator[Proxy]:
    proxy = Proxy(tcp_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], psycopg2.extensions.connection]]:
    opened: list[psycopg2.extensions.connection] = []

    def connect() -> psycopg2.extensions.connection:
        url = f"host=127.0.0.1 port={proxy.port} user=admin password=Secret-1 dbname=postgres sslmode=disable"
        opened.append(psycopg2.connect(url))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def _one(connection: psycopg2.extensions.connection, statement: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


@pytest.fixture
def table(tcp_server: TcpServer) -> Iterator[str]:
    tcp_server.administer("CREATE TABLE cut_here (number int)")
    yield "cut_here"
    tcp_server.administer("DROP TABLE cut_here")


def test_an_uncut_connection_passes_everything(connect: Callable[[], psycopg2.extensions.connection]) -> None:
    text = "long" * 100_000
    assert _one(connect(), f"SELECT '{text}'") == text


@pytest.mark.parametrize(("where", "written"), [("before", 0), ("after", 1)])
def test_a_commit_is_cut_before_it_arrives_or_before_its_answer_arrives(
    proxy: Proxy, connect: Callable[[], psycopg2.extensions.connection], table: str, where: Where, written: int
) -> None:
    connection = connect()
    _one(connection, f"INSERT INTO {table} VALUES (1)")
    cut = proxy.cut_at(b"COMMIT", where)
    with pytest.raises(psycopg2.OperationalError):
        connection.commit()
    assert cut.struck.wait(5)
    fresh = connect()
    # A server that commits while its client goes away may answer a moment later than the client notices.
    assert _one(fresh, f"SELECT count(*) FROM {table}") == written
    fresh.commit()  # only one connection was cut


def test_all_connections_are_cut_at_once(proxy: Proxy, connect: Callable[[], psycopg2.extensions.connection]) -> None:
    connections = [connect(), connect()]
    assert proxy.cut_all() == 2
    for connection in connections:
        with pytest.raises(psycopg2.OperationalError):
            _one(connection, "SELECT 1")


def test_connections_are_refused_for_a_while(
    proxy: Proxy, connect: Callable[[], psycopg2.extensions.connection]
) -> None:
    proxy.refuse()
    with pytest.raises(psycopg2.OperationalError, match="Connection refused"):
        connect()
    proxy.admit()
    assert _one(connect(), "SELECT 1") == 1


def test_a_silent_network_passes_nothing_and_its_connections_are_cut_at_its_end(
    proxy: Proxy, connect: Callable[[], psycopg2.extensions.connection]
) -> None:
    connection = connect()
    proxy.fall_silent()
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(_one(connection, "SELECT 1"))
        except psycopg2.OperationalError as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    proxy.speak()
    asking.join(10)
    assert isinstance(answers[0], psycopg2.OperationalError)
    assert _one(connect(), "SELECT 1") == 1

"""Proxy: a network between the workers and a server that can be cut, also in the middle of a COMMIT or an upload.

It parses what the clients send, as messages of PostgreSQL's protocol («Message Flow», «Message Formats») or as HTTP
requests. So it can cut a connection before a certain statement or request reaches the server, or after that and before
the answer comes back.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Where = Literal["before", "after"]
Reader = Callable[[socket.socket], Iterator[tuple[bytes, bytes]]]
"""Reads from a client in pieces; with each comes the statement that begins in it, empty if none does."""

_PROTOCOL = 196608  # 3.0; a start-up message with another number is a request before the real one (TLS, a cancellation)
_CHUNK = 65536


@dataclass
class Cut:
    """Cut the connection on which the next statement, or request, that begins with `statement` passes."""

    statement: bytes
    where: Where
    struck: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Listens on `port` and passes everything on to `target`, a port of 127.0.0.1."""

    def __init__(self, target: int, reader: Reader | None = None) -> None:
        self._target = target
        self.reader = reader or postgres_messages
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._cut: Cut | None = None
        self._silent = threading.Event()
        self._listener = _listening(0)
        self.port = int(self._listener.getsockname()[1])
        self._start()

    def cut_all(self) -> int:
        """Cut every connection now; return their number."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()
        return len(links)

    def refuse(self) -> None:
        """Cut every connection, and refuse new ones until `admit`."""
        _hang_up(self._listener)
        self._listening.join()
        self.cut_all()

    def admit(self) -> None:
        """Accept connections again; do nothing if they are accepted already."""
        if not self._listening.is_alive():
            self._listener = _listening(self.port)
            self._start()

    def cut_at(self, statement: bytes, where: Where) -> Cut:
        """Cut the connection on which the next such statement passes; a later order replaces an earlier one."""
        self._cut = Cut(statement, where)
        return self._cut

    def disarm(self) -> None:
        """Let every statement pass again."""
        self._cut = None

    def fall_silent(self) -> None:
        """Keep the connections and accept new ones, but pass nothing on."""
        self._silent.set()

    def speak(self) -> None:
        """Pass data on again; the connections that were silent are cut."""
        self._silent.clear()  # first, so that a connection made in between is not silent
        self.cut_all()

    def close(self) -> None:
        self.refuse()

    def is_silent(self) -> bool:
        return self._silent.is_set()

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)

    def taken(self, statement: bytes) -> Cut | None:
        """Return and remove the order to cut at this statement; None if there is none."""
        with self._lock:
            cut = self._cut
            if cut is None or not statement.lstrip().upper().startswith(cut.statement.upper()):
                return None
            self._cut = None
            return cut

    def _start(self) -> None:
        self._listening = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._listening.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                self._join(self._listener.accept()[0])

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:  # the server restarts: the client sees a refused connection
            _abort(client)
            return
        server.settimeout(None)
        link = _Link(self, client, server)
        with self._lock:
            self._links.add(link)
        link.start()


class _Link:
    """One connection, with a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._answer_dies: Cut | None = None

    def start(self) -> None:
        for way in (self._ask, self._answer):
            threading.Thread(target=self._run, args=(way,), name=way.__name__, daemon=True).start()

    def close(self) -> None:
        _abort(self._client)
        _abort(self._server)
        self._proxy.forget(self)

    def _run(self, way: object) -> None:
        with suppress(OSError):
            way()  # type: ignore[operator]
        self.close()

    def _ask(self) -> None:
        for message, statement in self._proxy.reader(self._client):
            if self._proxy.is_silent():
                continue
            cut = self._proxy.taken(statement) if statement else None
            if cut is not None and cut.where == "before":
                cut.struck.set()
                return
            self._answer_dies = cut or self._answer_dies
            self._server.sendall(message)

    def _answer(self) -> None:
        while data := self._server.recv(_CHUNK):
            if self._answer_dies is not None and not _is_continue(data):
                self._answer_dies.struck.set()
                return
            if not self._proxy.is_silent():
                self._client.sendall(data)


def _is_continue(data: bytes) -> bool:
    """Return whether an HTTP server only asks for the body of a request: it has not executed it yet."""
    return data.startswith(b"HTTP/1.1 100 ") and data.find(b"\r\n\r\n") == len(data) - 4


def http_pieces(client: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Read what a client of an HTTP server sends; each request begins a new piece."""
    while data := client.recv(_CHUNK):
        yield data, data


def postgres_messages(client: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Read whole messages of a PostgreSQL client: start-up messages have no type byte, later ones have one."""
    kind = 0
    while kind != _PROTOCOL:
        length = _exactly(client, 4)
        rest = _exactly(client, struct.unpack("!i", length)[0] - 4)
        kind = struct.unpack("!i", rest[:4])[0]
        yield length + rest, b""
    while True:
        head = _exactly(client, 5)
        body = _exactly(client, struct.unpack("!i", head[1:])[0] - 4)
        yield head + body, body if head[:1] == b"Q" else b""


def _exactly(source: socket.socket, count: int) -> bytes:
    """Read `count` bytes; raises OSError when the connection ends before."""
    parts = bytearray()
    while len(parts) < count:
        data = source.recv(min(_CHUNK, count - len(parts)))
        if not data:
            raise ConnectionAbortedError
        parts += data
    return bytes(parts)


def _listening(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


def _hang_up(listener: socket.socket) -> None:
    """Close a socket on which a thread may be waiting; `close` alone would not wake it."""
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _abort(connection: socket.socket) -> None:
    """Close with a reset, as a broken network does, not with an orderly shutdown."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

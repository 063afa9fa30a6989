"""`hpo dashboard`: serve optuna-dashboard over the studies of a database.

The server is ours: threaded, without a line per request, stopped by a signal, with no password in its arguments.
"""

from __future__ import annotations

import re
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingMixIn
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import click

from hpo.cli.connect import STARTING, connected
from hpo.cli.options import debug_option, storage_options
from hpo.errors import UsageError
from hpo.search.signals import handle_signals

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from storage import Database


_SAFE = ("GET", "HEAD", "OPTIONS")

_STYLE = b"<style>main p.MuiTypography-root { white-space: pre-wrap !important; overflow-wrap: anywhere; }</style>"


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        """Log nothing: a line per request hides what matters."""


class DashboardServer(ThreadingMixIn, WSGIServer):
    """One thread per request; `run` serves until a signal."""

    daemon_threads = True

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP, then close the socket."""

        def stop(_: int, __: FrameType | None) -> None:
            # shutdown() waits for serve_forever, which runs in this thread
            threading.Thread(target=self.shutdown, daemon=True).start()

        with handle_signals(stop, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            try:
                self.serve_forever(poll_interval=0.2)
            finally:
                self.server_close()


def make_dashboard(db: Database, host: str, port: int, allowed: Sequence[str] = ()) -> DashboardServer:
    """Return a server bound to `host:port` (0 takes a free port) over the studies of `db`; UsageError for a used port.

    It answers requests for an IP address, localhost, `host`, this machine's own name and the `allowed` names only.
    """
    from optuna_dashboard import wsgi

    names = {host, socket.gethostname(), socket.getfqdn()}
    ours = frozenset(name.lower() for name in allowed)
    application = _guarded(_with_wrapped_text(wsgi(db.storage)), ours.union(map(str.lower, names)), ours)
    try:
        return make_server(host, port, application, server_class=DashboardServer, handler_class=_Quiet)
    except OSError as error:
        raise UsageError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port") from None


def _guarded(application: WSGIApplication, names: frozenset[str], allowed: frozenset[str]) -> WSGIApplication:
    """Return `application` behind a check of the Host and Origin of each request, since there is no login.

    A page of another site can make its own name point to this machine (DNS rebinding); so a request must name a host
    of this server. An IP address cannot be made to point elsewhere. A request that changes something must come from a
    page of this server.
    """

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        name = _name(f"//{host}")
        reason = ""
        if host and not (_is_address(name) or name in names or name == "localhost" or name.endswith(".localhost")):
            reason = f"this dashboard does not go by the name {name}: open it by its address, or add "
            reason += f"--allow-host {shlex.quote(name)} to the command that started it"
        elif origin is not None and environ["REQUEST_METHOD"] not in _SAFE and not _is_own_page(origin, host, allowed):
            reason = f"a page of {origin} may not change anything here"
        if not reason:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{reason}\n".encode(errors="replace")]

    return answer


def _is_own_page(origin: str, host: str, allowed: frozenset[str]) -> bool:
    """Return whether a page of `origin` is of this server: of the host that was asked, or of an allowed one."""
    return _name(origin) in allowed or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


def _name(url: str) -> str:
    """Return the host of a URL in lower case, without port, brackets and a trailing dot; empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _with_wrapped_text(application: WSGIApplication) -> WSGIApplication:
    """Return `application` with long texts wrapped: a configuration of one line made a page 7,000 pixels wide."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/dashboard"):
            return application(environ, start_response)
        headers_sent: list[tuple[str, list[tuple[str, str]]]] = []

        def note(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
            headers_sent.append((status, headers))
            return lambda _: None

        body = b"".join(application(environ, note)).replace(b"</head>", _STYLE + b"</head>", 1)
        status, headers = headers_sent[-1]
        others = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*others, ("Content-Length", str(len(body)))])
        return [body]

    return answer


_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")


class _Port(click.Option):
    """An option whose variable Kubernetes may have set: in the pods beside a Service called `hpo`."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the variable's value; None for `tcp://10.0.0.7:8080`, which describes the Service."""
        value = super().resolve_envvar_value(ctx)
        return None if value and _KUBERNETES.match(value) else value


@click.command("dashboard")
@storage_options
@click.option("--host", envvar="HPO_HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    cls=_Port,
    envvar="HPO_PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--allow-host", envvar="HPO_ALLOW_HOST", multiple=True, metavar="NAME",
    help="A further name that browsers may call it by, as that of a proxy.  Repeatable.",
)  # fmt: skip
@debug_option
def dashboard_command(storage: str | None, home: Path, host: str, port: int, allow_host: tuple[str, ...]) -> None:
    """Serve optuna-dashboard until Ctrl-C.

    It has no login: everyone who reaches it can delete studies. It listens on this machine only, unless --host names
    another address, and answers only to IP addresses, localhost, the --host, this machine's name and the names of
    --allow-host.
    """
    with connected(storage, home, initialise=True, create=False, start_timeout=STARTING) as db:
        server = make_dashboard(db, host, port, allow_host)
        address = f"http://{host}:{server.server_port}"
        click.echo(f"optuna-dashboard on {address}; Ctrl-C ends it")
        if host not in ("127.0.0.1", "localhost"):
            click.echo(
                f"anyone who reaches {host}:{server.server_port} can delete studies: there is no login",
                err=True,
            )
        server.run()

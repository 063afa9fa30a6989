"""optuna-dashboard as a server of our own: threaded, quiet, stopped by a signal, no password in its arguments."""

from __future__ import annotations

import signal
import threading
from socketserver import ThreadingMixIn
from types import FrameType
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hpo.errors import UsageError
from hpo.search.signals import handled

if TYPE_CHECKING:
    from storage import Database


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        """Say nothing: a line per request hides what matters."""


class DashboardServer(ThreadingMixIn, WSGIServer):
    """One thread per request; `run` serves until a signal."""

    daemon_threads = True

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP, then close the socket."""

        def stop(_: int, __: FrameType | None) -> None:
            # shutdown() waits for serve_forever, which this very thread runs
            threading.Thread(target=self.shutdown, daemon=True).start()

        with handled(stop, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            try:
                self.serve_forever(poll_interval=0.2)
            finally:
                self.server_close()


def make_dashboard(db: Database, host: str, port: int) -> DashboardServer:
    """A server bound to `host:port` (0 takes a free port) over the studies of `db`; UsageError where it is taken."""
    from optuna_dashboard import wsgi

    application = wsgi(db.storage)
    try:
        return make_server(host, port, application, server_class=DashboardServer, handler_class=_Quiet)
    except OSError as error:
        raise UsageError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another --port") from None

"""`hpo dashboard`: optuna-dashboard over the studies of a database."""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli.connect import STARTING, connected
from hpo.cli.options import debug_option, storage_options

_LOOPBACK = ("127.0.0.1", "localhost")


@click.command("dashboard")
@storage_options
@click.option("--host", envvar="HPO_HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    envvar="HPO_PORT",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@debug_option
def dashboard_command(storage: str | None, home: Path, host: str, port: int) -> None:
    """Serve optuna-dashboard until Ctrl-C.

    It has no login: who reaches it can delete studies. It listens on this machine only, unless --host says else.
    """
    with connected(storage, home, initialise=True, create=False, patience=STARTING) as db:
        from hpo.dashboard import make_dashboard

        server = make_dashboard(db, host, port)
        address = f"http://{host}:{server.server_port}"
        click.echo(f"optuna-dashboard on {address}; Ctrl-C ends it")
        if host not in _LOOPBACK:
            click.echo(
                f"anyone who reaches {host}:{server.server_port} can delete studies: there is no login",
                err=True,
            )
        server.run()

"""`hpo dashboard`: optuna-dashboard over the studies of a database."""

from __future__ import annotations

import re
from pathlib import Path

import click

from hpo.cli.connect import STARTING, connected
from hpo.cli.options import debug_option, storage_options

_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")


class _Port(click.Option):
    """An option whose variable Kubernetes may have set: in the pods beside a Service called `hpo`."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value; None for `tcp://10.0.0.7:8080`, which tells of the Service and is no setting."""
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

    It has no login: who reaches it can delete studies. It listens on this machine only, unless --host says else, and
    answers only to IP addresses, localhost, the --host, this machine's name and what --allow-host names.
    """
    with connected(storage, home, initialise=True, create=False, patience=STARTING) as db:
        from hpo.dashboard import make_dashboard

        server = make_dashboard(db, host, port, allow_host)
        address = f"http://{host}:{server.server_port}"
        click.echo(f"optuna-dashboard on {address}; Ctrl-C ends it")
        if host not in ("127.0.0.1", "localhost"):
            click.echo(
                f"anyone who reaches {host}:{server.server_port} can delete studies: there is no login",
                err=True,
            )
        server.run()

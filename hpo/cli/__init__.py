"""The command line. `hpo --help` imports only click; the module of a command is imported when the command is named."""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import IO, Any

import click

from hpo import __version__
from hpo.cli.config_file import default_map
from hpo.cli.terminal import prepare_streams
from hpo.search.signals import handle_signals

COMMANDS = {
    "run": ("hpo.cli.run:run_command", "Search: create the study, start workers, watch, sum up."),
    "init": ("hpo.cli.run:init_command", "Create a study, once, however many call it."),
    "worker": ("hpo.cli.worker:worker_command", "Take trials of a study until its budget ends."),
    "status": ("hpo.cli.status:status_command", "Show how a study stands; --watch, --json."),
    "studies": ("hpo.cli.studies:studies_command", "List the studies of a database; --json."),
    "trials": ("hpo.cli.studies:trials_command", "All trials of a study, as a table; --csv, --json."),
    "enqueue": ("hpo.cli.studies:enqueue_command", "Have a study try values of your own next."),
    "pause": ("hpo.cli.control:pause_command", "Let all workers requeue their trials and wait."),
    "stop": ("hpo.cli.control:stop_command", "Let all workers requeue their trials and leave."),
    "resume": ("hpo.cli.control:resume_command", "Let the workers go on after a pause or a stop."),
    "reap": ("hpo.cli.control:reap_command", "Requeue the trials of workers that are gone."),
    "gc": ("hpo.cli.gc:gc_command", "Free the checkpoints that no kept trial needs."),
    "delete": ("hpo.cli.studies:delete_command", "Delete a study with its trials, checkpoints and logs."),
    "data": ("hpo.cli.data:data_command", "Look for junk, copies, wrong labels and leaks in DATA."),
    "doctor": ("hpo.cli.doctor:doctor_command", "Check database, disk, device and libraries; say the fix."),
    "dashboard": ("hpo.cli.dashboard:dashboard_command", "Serve optuna-dashboard on 127.0.0.1."),
    "spaces": ("hpo.cli.spaces:spaces_command", "List and explain the search spaces."),
    "show": ("hpo.cli.show:show_command", "Draw what a choice does: `hpo show augmentation`."),
    "export-best": ("hpo.cli.export_best:export_best_command", "Write the best trial as a bundle."),
    "retrain": ("hpo.cli.delivery:retrain_command", "Train a bundle on train + val; prove it on test."),
    "evaluate": ("hpo.cli.delivery:evaluate_command", "Measure a bundle on labelled images."),
    "predict": ("hpo.cli.delivery:predict_command", "Classify images with a bundle."),
    "interpolate": ("hpo.cli.interpolate:interpolate_command", "A bundle between its original and its tuned weights."),
    "adapt": ("hpo.cli.adapt:adapt_command", "Adapt a bundle to unlabelled images of another look."),
    "ensemble": ("hpo.cli.ensemble:ensemble_command", "Join a study's best trials into one bundle."),
    "compare": ("hpo.cli.compare:compare_command", "Presets, bundles and trials in one table."),
    "ablate": ("hpo.cli.ablate:ablate_command", "What each part of a bundle's configuration is worth."),
    "explain": ("hpo.cli.explain:explain_command", "Where in an image a bundle looks."),
    "report": ("hpo.cli.report:report_command", "A study or a bundle as one HTML page."),
    "make-cells": ("hpo.cli.show:make_cells_command", "Draw synthetic blood cells to try things on."),
}
USER_MISTAKE = 2
INTERRUPTED = 130


class Commands(click.Group):
    """A group that imports a command's module when it is named, and prints known errors in one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Let the streams accept every character before the first one is written, that of --help included."""
        prepare_streams()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the options before the command; a wrong one is an error of one line."""
        with _one_line():
            return super().make_context(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return the command; None where there is no such command."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, so that help imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a known error becomes one line on stderr, unless --debug asks for the traceback."""
        try:
            with _unwinding(), _one_line():
                ctx.default_map = default_map(self, ctx)
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click prints usage and sets the code
        except KeyboardInterrupt:
            click.echo("hpo: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno not in _ENVIRONMENT or ctx.meta.get("hpo.debug"):
                raise
            click.echo(f"hpo: {error.filename or 'writing'}: {_ENVIRONMENT[error.errno]}", err=True)
            ctx.exit(USER_MISTAKE)
        except _known_errors() as error:  # evaluated only when something was raised: storage is heavy to import
            if ctx.meta.get("hpo.debug"):
                raise
            click.echo(f"hpo: {error}", err=True)
            ctx.exit(USER_MISTAKE)


_ENVIRONMENT = {
    errno.ENOENT: "no such file or folder, and none can be made there; name another place",
    errno.ENOSPC: "no space left on the disk; free some, or name another folder (--home, --artifacts, --out)",
    errno.EROFS: "the file system is read-only; name another folder (--home, --artifacts, --out)",
    errno.EACCES: "permission denied; name another folder, or change its owner",
    errno.ENOTDIR: "a file stands where a folder is meant; name another folder (--home, --artifacts, --out)",
    errno.EISDIR: "a folder stands where a file is meant; name another one",
    errno.EEXIST: "a file stands where a folder is meant; name another folder (--home, --artifacts, --out)",
    errno.ENAMETOOLONG: "the name is too long for the file system; give a shorter one",
    errno.EDQUOT: "the disk quota is used up; free some, or name another folder (--home, --artifacts, --out)",
}


class WrongOptionError(click.ClickException):
    """A mistake on the command line, in one line like every other error."""

    exit_code = USER_MISTAKE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line on stderr."""
        click.echo(f"hpo: {self.message}", file=file, err=file is None)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn click's usage errors, of four lines each, into errors of one line; help for missing arguments stays."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        text = re.sub(r"^Invalid value for '([^']+)'", r"\1", error.format_message().rstrip("."))
        command = error.ctx.command_path if error.ctx else "hpo"
        text = text if text[:2].isupper() else f"{text[:1].lower()}{text[1:]}"  # DATA stays as it is
        raise WrongOptionError(f"{text} (see `{command} --help`)") from None


_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)  # the last two are Slurm's notices


@contextmanager
def _unwinding() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and similar signals: files are removed, connections closed, as on Ctrl-C."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with handle_signals(leave, _ENDS):
        yield


def _known_errors() -> tuple[type[BaseException], ...]:
    from hpo.errors import HpoError
    from search_spaces import SpaceError
    from storage import StorageError

    return (HpoError, SpaceError, StorageError)


@click.command("hpo", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hpo")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Turn a folder of labelled images into the best fine-tuned classifier that a budget can buy.

    Start with `hpo run DATA --study NAME`; options may also stand in hpo.toml or in HPO_… variables.
    """
    if debug:
        ctx.meta["hpo.debug"] = True


if __name__ == "__main__":
    sys.exit(main())

"""The options that commands share, each declared once: name, environment variable, default, help.

Precedence is click's own: option, environment (`HPO_…`), `hpo.toml` (as click's default map), default.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")

SAMPLERS = ("tpe", "random")

PRUNERS = ("successive-halving", "hyperband", "median", "none")


class UserPath(click.Path):
    """A path; `~/x` is expanded as a shell would, also from hpo.toml and the environment."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert text or a path to a path."""
        return Path(str(super().convert(value, param, ctx))).expanduser()


class Location(UserPath):
    """A path, or an `s3://bucket/prefix` URL, which stays text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text or a path to a path; return a URL as it is."""
        if isinstance(value, str) and value.startswith("s3://"):
            return value
        return super().convert(value, param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes: `20GB`, `500 MB`, `1.5GiB`; a bare number is bytes."""

    name = "size"
    _UNITS: ClassVar = {
        "": 1, "b": 1,
        "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
        "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    }  # fmt: skip
    _FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Convert text or a number of bytes to a positive number of bytes."""
        match = self._FORM.fullmatch(str(value).strip().lower())
        size = int(float(match[1]) * self._UNITS.get(match[2], 0)) if match else 0
        if size < 1:
            self.fail(f"{value!r} is not a size above zero; write 20GB, 500MB or 1.5GiB", param, ctx)
        return size


class Duration(click.ParamType[timedelta]):
    """A span of time: `90s`, `30m`, `1h30m`, `2d`; a bare number is seconds."""

    name = "duration"
    LONGEST = 10 * 365 * 86_400
    _SECONDS: ClassVar = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
    _FORM = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Convert text or a number of seconds to a positive timedelta."""
        if isinstance(value, timedelta):
            return value
        match = self._FORM.fullmatch(str(value).strip().lower())
        seconds = 0.0
        if match:
            parts = zip(match.groups(default="0"), self._SECONDS.values(), strict=True)
            seconds = sum(float(number) * unit for number, unit in parts)
        if not 0 < seconds <= self.LONGEST:
            self.fail(f"{value!r} is not a time above zero and up to 10 years; write 90s, 30m, 1h30m or 2d", param, ctx)
        return timedelta(seconds=seconds)


def _merge_with_file(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Merge `--set` with the list in hpo.toml, key by key: else one option would discard the whole list of the file."""
    from_file = (ctx.default_map or {}).get(parameter.name or "", ())
    from_file = (from_file,) if isinstance(from_file, str) else tuple(from_file)
    keys = {text.partition("=")[0].strip() for text in given}
    return (*(text for text in from_file if text.partition("=")[0].strip() not in keys), *given)


def _debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["hpo.debug"] = True


data_argument = click.argument("data", envvar="HPO_DATA", type=UserPath())

debug_option = click.option(
    "--debug", envvar="HPO_DEBUG", is_flag=True, expose_value=False, callback=_debug,
    help="Show tracebacks and log in detail.",
)  # fmt: skip

storage_option = click.option(
    "--storage", envvar="HPO_STORAGE", metavar="URL", default=None,
    help="PostgreSQL URL. None starts the embedded PostgreSQL in the home folder.",
)  # fmt: skip

home_option = click.option(
    "--home", envvar="HPO_HOME", type=UserPath(), default=Path(".hpo"), show_default=True,
    help="Folder for packed images, logs and the embedded PostgreSQL.",
)  # fmt: skip

artifacts_option = click.option(
    "--artifacts", envvar="HPO_ARTIFACTS", type=Location(), default=None, metavar="PATH|URL",
    help="Folder or s3://bucket/prefix for checkpoints, shared by all workers.  [default: HOME/artifacts]",
)  # fmt: skip

keep_option = click.option(
    "--keep", envvar="HPO_KEEP", type=click.IntRange(1), default=10, show_default=True,
    help="How many of the study's best trials keep their checkpoints.",
)  # fmt: skip

quota_option = click.option(
    "--checkpoint-quota", envvar="HPO_CHECKPOINT_QUOTA", type=Size(), default=None, metavar="SIZE",
    help="Most that the study's checkpoints may take, as 20GB: the worst trials' go first.  [default: no limit]",
)  # fmt: skip

study_option = click.option(
    "--study", envvar="HPO_STUDY", required=True, help="Name of the study."
)  # fmt: skip

device_option = click.option(
    "--device", envvar="HPO_DEVICE", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)  # fmt: skip

weights_option = click.option(
    "--weights", envvar="HPO_WEIGHTS", type=UserPath(), default=None, metavar="FILE",
    help="Backbone weights: .safetensors, a tensors-only .pth, or a folder with one of them, as a bundle.",
)  # fmt: skip

threads_option = click.option(
    "--threads", envvar="HPO_THREADS", type=click.IntRange(1), default=None,
    help="CPU threads.  [default: as many as there are cores]",
)  # fmt: skip

worker_threads_option = click.option(
    "--threads", envvar="HPO_THREADS", type=click.IntRange(1), default=None,
    help="CPU threads of each worker.  [default: the cores, shared among the workers of one command]",
)  # fmt: skip


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that applies `options`, listed by --help in this order."""

    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


storage_options = together(storage_option, home_option)
"""The database: `storage`, `home`."""

space_options = together(
    click.option(
        "--space", envvar="HPO_SPACE", default="standard", show_default=True, metavar="NAME|FILE",
        help="Search space: a name that `hpo spaces` lists, or a YAML file.",
    ),
    click.option("--backbone", envvar="HPO_BACKBONE", default=None, metavar="NAME", help="A timm model."),
    weights_option,
    click.option(
        "--set", "fixed", envvar="HPO_SET", multiple=True, metavar="KEY=VALUE", callback=_merge_with_file,
        help="Fix a dimension of the space; repeatable.",
    ),
)  # fmt: skip
"""The search space: `space`, `backbone`, `weights`, `fixed`."""

study_creation_options = together(
    click.option(
        "--metric", envvar="HPO_METRIC", type=click.Choice(METRICS), default="accuracy", show_default=True,
        help="What is maximised on the validation part.",
    ),
    click.option(
        "--robustness", envvar="HPO_ROBUSTNESS", type=click.FloatRange(0, 1), default=None, metavar="W",
        help="Weight, 0 to 1, of altered validation images in the value.  [default: what the study has, else 0]",
    ),
    click.option(
        "--probe/--no-probe", envvar="HPO_PROBE", default=True, show_default=True,
        help="Begin a new study with a linear head on each frozen backbone, the line to beat; within --trials.",
    ),
    click.option(
        "--sampler", envvar="HPO_SAMPLER", type=click.Choice(SAMPLERS), default="tpe", show_default=True,
        help="How configurations are proposed.",
    ),
    click.option(
        "--pruner", envvar="HPO_PRUNER", type=click.Choice(PRUNERS), default="successive-halving", show_default=True,
        help="How lagging trials end early.",
    ),
    click.option(
        "--seed", envvar="HPO_SEED", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
        help="Seed of the study: split, proposals and training follow from it.",
    ),
    click.option(
        "--val-fraction", type=click.FloatRange(0.01, 0.5), default=0.1, show_default=True,
        help="Share for validation, where DATA brings no val part.",
    ),
    click.option(
        "--test-fraction", type=click.FloatRange(0, 0.5), default=0.1, show_default=True,
        help="Share locked away for the test, where DATA brings no test part; 0 for none.",
    ),
)  # fmt: skip
"""Settings that a study keeps: `metric`, `robustness`, `probe`, `sampler`, `pruner`, `seed`, `val_fraction`, …"""

group_by_option = click.option(
    "--group-by", envvar="HPO_GROUP_BY", default=None, metavar="REGEX|COLUMN",
    help="Images of one patient, slide or plate stay in one part: a column of the CSV, or a regular expression on "
    r"the image's path whose group names it, as 'patient_(\d+)_'.",
)  # fmt: skip

grouping_options = together(
    group_by_option,
    click.option(
        "--folds", envvar="HPO_FOLDS", type=click.IntRange(2, 10), default=None,
        help="Train each trial on this many folds of train + val; its value is the mean. For small sets.",
    ),
)  # fmt: skip
"""How images are held out: `group_by`, `folds`."""

max_unreadable_option = click.option(
    "--max-unreadable", envvar="HPO_MAX_UNREADABLE", type=click.FloatRange(0, 1), default=0.05, show_default=True,
    help="Share of images that may be unreadable before the data set is refused.",
)  # fmt: skip

budget_options = together(
    click.option(
        "--trials", envvar="HPO_TRIALS", type=click.IntRange(1), default=None,
        help="Trials of the whole study, of all its workers together.  [default: what the study has, else 50]",
    ),
    click.option(
        "--timeout", envvar="HPO_TIMEOUT", type=Duration(), default=None, metavar="TIME",
        help="Wall-clock limit from now on, as 90s, 30m, 2h.",
    ),
    click.option(
        "--until-converged/--no-until-converged", "until_converged", envvar="HPO_UNTIL_CONVERGED", default=None,
        help="End once further trials are expected to gain less than noise.  [default: as the study has it, else no]",
    ),
    click.option(
        "--confirm", envvar="HPO_CONFIRM", type=click.IntRange(0), default=None, metavar="K",
        help="The last K trials train the best K again with fresh seeds; 0 for none.  [default: what the study has, "
        "else 3, or fewer: a fifth of the trials, none under 12]",
    ),
)  # fmt: skip
"""The budget: `trials`, `timeout`, `until_converged`, `confirm`."""


SECRET = ("storage",)
"""Parameters that may hold a password: they are left out of the text of a command."""


def command_line(ctx: click.Context) -> str:
    """Return `hpo NAME …` with all that was given: on the command line, in the environment or in hpo.toml."""
    words = [word for parameter in ctx.command.params for word in _words(ctx, parameter)]
    return shlex.join(["hpo", ctx.info_name or "", *words])


def _words(ctx: click.Context, parameter: click.Parameter) -> Iterator[str]:
    name = parameter.name or ""
    value: Any = ctx.params.get(name)
    source = ctx.get_parameter_source(name)
    if name in SECRET or value is None or source in (ParameterSource.DEFAULT, None):
        return
    many = parameter.multiple or parameter.nargs != 1
    for one in value if many else [value]:
        yield from _spell(parameter, one)


def _spell(parameter: click.Parameter, value: Any) -> Iterator[str]:
    if not isinstance(parameter, click.Option):
        yield str(value)
    elif parameter.is_flag:
        yield from (parameter.opts if value else parameter.secondary_opts)[:1]
    else:
        yield from (parameter.opts[0], f"{value.total_seconds():g}s" if isinstance(value, timedelta) else str(value))

"""`hpo interpolate`: the best point between the original weights of a bundle's backbone and the tuned ones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import cache_folder
from hpo.cli.delivery import bundle_argument, copied_accesses, data_option, force_option, ledger_of, out_option
from hpo.cli.options import debug_option, device_option, home_option, threads_option, weights_option
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from hpo.delivery.interpolate import Interpolated, Tried


@click.command("interpolate")
@bundle_argument
@data_option
@out_option
@weights_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@force_option
@device_option
@threads_option
@home_option
@debug_option
def interpolate_command(
    bundle: Path | str, data: Path, out: Path | str, weights: Path | None, as_json: bool, force: bool,
    device: str, threads: int | None, home: Path,
) -> None:  # fmt: skip
    """Look for a better model between the original weights of BUNDLE's backbone and its own (WiSE-FT), and write it.

    Points of the line are measured on the validation images as they are and altered; the best is taken if it gains more
    than noise, else the bundle is written as it was. DATA are the bundle's own.
    """
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.remote import local_bundle, upload_bundle
    from hpo.cli.progress import counting
    from hpo.delivery.interpolate import InterpolateOptions, interpolate
    from hpo.device import resolve_device, use_threads

    use_threads(threads)
    cache = cache_folder(home)
    options = InterpolateOptions(cache, resolve_device(device), weights, force)
    with (
        local_bundle(bundle, cache) as source,
        upload_bundle(out, cache, force=force) as target,
        counting("images") as progress,
    ):
        found = interpolate(
            read_bundle(source), data, target, options, progress=progress,
            on_tried=lambda tried: click.echo(tried_line(tried), err=True),
        )  # fmt: skip
        copied_accesses(target, ledger_of(None, home))
    if as_json:
        click.echo(strict_json(to_json(found), indent=2))
    else:
        click.echo(interpolated_line(out, found))


def tried_line(tried: Tried) -> str:
    """Return the accuracies of one point and its gain over the tuned weights."""
    line = f"share {tried.share:g} of the tuned weights: clean {tried.clean:.4f}, altered {tried.altered:.4f}"
    return line if tried.share == 1 else f"{line}, gain {100 * tried.gain:+.2f} ± {100 * tried.error:.2f} points"


def interpolated_line(out: Path | str, found: Interpolated) -> str:
    """Return which point was written and why."""
    weight = f"altered images weigh {found.weight:g}"
    if found.share == 1:
        return f"{out}: the bundle as it was; no point of the line gains more than noise ({weight})"
    chosen = next(one for one in found.tried if one.share == found.share)
    return (
        f"{out}: {found.share:g} of the tuned weights and {1 - found.share:.1f} of the original ones: "
        f"{100 * chosen.gain:+.2f} ± {100 * chosen.error:.2f} points on the validation images that chose it ({weight})"
    )


def to_json(found: Interpolated) -> dict[str, Any]:
    """Return JSON-ready values."""
    return {"share": found.share, "weight": found.weight, "tried": [asdict(one) for one in found.tried]}

"""`hpo adapt`: a bundle whose BatchNorm statistics are those of new, unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import cache_folder
from hpo.cli.delivery import (
    bundle_argument,
    copied_accesses,
    force_option,
    image_sources,
    ledger_of,
    out_option,
)
from hpo.cli.options import UserPath, debug_option, device_option, home_option, threads_option
from hpo.hints import hint
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from hpo.bundle.adapt import Adapted


@click.command("adapt")
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=UserPath(), metavar="IMAGES...")
@out_option
@click.option(
    "--most", type=click.IntRange(2), default=256, show_default=True,
    help="Images to use at most, drawn evenly from all; 32 are enough for most of the gain.",
)  # fmt: skip
@click.option(
    "--prior", type=click.FloatRange(0), default=16, show_default=True,
    help="Images that the trained statistics count as; 0 forgets them.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@force_option
@device_option
@threads_option
@home_option
@debug_option
def adapt_command(
    bundle: Path | str, images: tuple[Path, ...], out: Path | str, most: int, prior: float, as_json: bool, force: bool,
    device: str, threads: int | None, home: Path,
) -> None:  # fmt: skip
    """Adapt BUNDLE to IMAGES of another light, stain or camera, without labels, and write a new bundle.

    The statistics of its BatchNorm layers are mixed with those of the images (Schneider et al. 2020); no weight is
    trained. IMAGES are as for `hpo predict`: of all classes, as they will come. Measure the result with
    `hpo evaluate` on labelled images that were not used here; these are left out.
    """
    from hpo.bundle.adapt import AdaptOptions, adapt
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.remote import local_bundle, upload_bundle
    from hpo.cli.progress import Ticker
    from hpo.device import resolve_device, use_threads

    use_threads(threads)
    options = AdaptOptions(most=most, prior=prior, device=resolve_device(device), force=force)
    cache = cache_folder(home)
    with (
        local_bundle(bundle, cache) as source,
        upload_bundle(out, cache, force=force) as target,
        Ticker(beside_results=False) as ticker,
    ):
        found = adapt(read_bundle(source), image_sources(images), target, options, ticker.count)
        copied_accesses(target, ledger_of(None, home))
    for image in found.unreadable:
        click.echo(f"unreadable: {image.name}: {image.reason}", err=True)
    if as_json:
        click.echo(strict_json(found.to_dict(), indent=2))
        return
    for line in adapted_lines(out, found):
        click.echo(line)


def adapted_lines(out: Path | str, found: Adapted) -> list[str]:
    """Return what was adapted to what, what moved most, and what that changes on these images."""
    given = found.manifest.adapted
    assert given is not None
    drawn = "" if given.images == given.found else f" of {given.found:,}, drawn evenly"
    lines = [
        f"{out}: BatchNorm statistics of {sum(change.layers for change in found.changes)} layers, "
        f"{found.changes[0].share:.0%} from {given.images:,} unlabelled images{drawn}, the rest as trained"
    ]
    lines += [
        f"{change.layer} changed most: the mean of a channel moved by {change.shift:.2f} of its standard deviation, "
        f"which changed by a factor of {change.spread:.2f}"
        for change in found.changes
    ]
    before, after = found.confidence
    get = "gets" if found.relabelled == 1 else "get"
    return [
        *lines,
        f"{found.relabelled:,} of these {found.images:,} images {get} another label; the mean probability of the label "
        f"was {before:.3f} and is {after:.3f}",
        "nothing has measured this model, and its temperature is that of the model before; measure it on labelled "
        f"images that are not among these: `{hint('evaluate', out, data='LABELLED')}`",
    ]

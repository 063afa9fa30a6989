"""`hpo explain`: saliency maps of a bundle for images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import cache_folder
from hpo.cli.options import Location, UserPath, debug_option, device_option, home_option, threads_option
from hpo.private_paths import public_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hpo.bundle.model import Model
    from hpo.explain.card import Explanation
    from hpo.explain.methods import Method


@click.command("explain")
@click.argument("bundle", type=Location())
@click.argument("images", nargs=-1, required=True, type=UserPath(), metavar="IMAGE...")
@click.option("--out", required=True, type=UserPath(), metavar="FILE.png", help="Picture to write.")
@click.option(
    "--target", default=None, metavar="CLASS", help="Show what speaks for this class.  [default: the predicted one]",
)  # fmt: skip
@click.option(
    "--method", type=click.Choice(["auto", "grad-cam", "rollout"]), default="auto", show_default=True,
    help="Grad-CAM for feature maps, gradient rollout for class tokens.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1, 400), default=16, show_default=True, help="Images at most: the first ones.",
)  # fmt: skip
@device_option
@threads_option
@home_option
@debug_option
def explain_command(
    bundle: Path | str, images: tuple[Path, ...], out: Path, target: str | None, method: Method, limit: int,
    device: str, threads: int | None, home: Path,
) -> None:  # fmt: skip
    """Draw where in each IMAGE the evidence for its class lies, with the class and its calibrated probability.

    An IMAGE is an image, a folder with all below it, a zip or an .npz.
    """
    from hpo.bundle.model import load
    from hpo.bundle.remote import local_bundle
    from hpo.device import use_threads
    from hpo.explain.card import draw_cards, explain
    from hpo.figures.contact_sheet import check_png, write_png

    check_png(out)
    use_threads(threads)
    with local_bundle(bundle, cache_folder(home)) as folder:
        model = load(folder, device)
    names, pixels = _read_images(images, model, limit)
    found = explain(model, names, pixels, target=target, method=method)
    write_png(out, draw_cards(found.cards, f"{public_path(bundle)}: {found.method}"), optimize=True)
    _print_summary(out, found, limit)


def _read_images(paths: tuple[Path, ...], model: Model, limit: int) -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Return names and pixels (n, S, S, 3) of the first `limit` images, and report those that cannot be read."""
    from hpo.data import iter_images
    from hpo.data.names import readable
    from hpo.errors import DataError

    names, pixels, unreadable = next(iter_images(paths, model.image_size, limit, model.white_level))
    names = [readable(name) for name in names]
    for image in unreadable:
        click.echo(f"unreadable: {image.name}: {image.reason}", err=True)
    if not names:
        raise DataError(f"none of the {len(unreadable)} images could be read; give images that can")
    return names, pixels


def _print_summary(out: Path, found: Explanation, limit: int) -> None:
    empty = [card.title for card in found.cards if card.empty]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        click.echo(f"no heat: there is no evidence for the class in {empty[0]}{more}", err=True)
    count = len(found.cards)
    shown = f"the first {count} images (--limit)" if count == limit > 1 else f"{count} image{'s' if count > 1 else ''}"
    click.echo(f"{out}: {shown}, {found.method}")

"""`hpo make-cells`: synthetic blood cells to try things on."""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli.options import UserPath, debug_option
from hpo.cli.progress import counting


@click.command("make-cells")
@click.argument("out", type=UserPath())
@click.option("--images", type=click.IntRange(1), default=1600, show_default=True, help="How many.")
@click.option("--size", type=click.IntRange(16, 1024), default=96, show_default=True, help="Side, in pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed, the same images.")
@click.option("--splits", is_flag=True, help="Class folders in train/, val/ and test/ (80/10/10) of OUT.")
@debug_option
def make_cells_command(out: Path, images: int, size: int, seed: int, splits: bool) -> None:
    """Draw synthetic blood cells of 8 classes into class folders of OUT, which must be empty or not there."""
    from hpo.data.synthetic import CELL_CLASSES, write_cells

    with counting("drawing cells") as progress:
        write_cells(out, images, size=size, seed=seed, splits=splits, progress=progress)
    click.echo(f"{images} cells of {len(CELL_CLASSES)} classes, {size} x {size} pixels, seed {seed}: {out}")

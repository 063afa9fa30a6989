"""`hpo show`: contact sheets of augmentations and corruptions; `hpo make-cells`: synthetic images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.options import UserPath, debug_option, together
from hpo.cli.progress import counting

if TYPE_CHECKING:
    from hpo.corruption_family import FamilyName
    from search_spaces import Symmetry


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


WIDEST = 2048
"""Most pixels of the images of a cell, side by side."""

sheet_options = together(
    click.argument("data", required=False, metavar="[DATA|IMAGE]", type=UserPath()),
    click.option("--image-size", type=click.IntRange(16, 1024), default=96, show_default=True, help="Side, in pixels."),
    click.option(
        "--samples", type=click.IntRange(1, 16), default=4, show_default=True, help="Images in each cell of the sheet."
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which images and draws."),
    debug_option,
)
"""Options of every sheet: `data`, `image_size`, `samples`, `seed`."""


@click.group("show")
def show_command() -> None:
    """Draw what a choice does to images, as a contact sheet."""


@show_command.command("augmentation", short_help="Families of augmentation by strength.")
@sheet_options
@click.option(
    "--operations",
    type=click.IntRange(1, 8),
    default=2,
    show_default=True,
    help="Operations of RandAugment, per image.",
)
@click.option(
    "--symmetry",
    type=click.Choice(["none", "mirror", "dihedral"]),
    default="none",
    show_default=True,
    help="What leaves labels true: see `hpo spaces`.",
)
@click.option(
    "--out", type=UserPath(), default=Path("augmentation.png"), show_default=True, help="The sheet, a PNG."
)  # fmt: skip
def augmentation_command(
    data: Path | None, image_size: int, samples: int, seed: int, operations: int, symmetry: Symmetry, out: Path
) -> None:
    """Draw each family of augmentation at strengths 0, 0.25 … 1, on images of DATA, on IMAGE, or on drawn cells.

    Look whether the labels stay true, above all under --symmetry mirror and dihedral.
    """
    from hpo.figures.choice_sheets import augmentation_sheet, sample_images
    from hpo.figures.contact_sheet import write_png

    _refuse_huge(samples, image_size)
    images = sample_images(data, samples, image_size, seed)
    sheet = augmentation_sheet(images, draws=samples, operations=operations, symmetry=symmetry, seed=seed)
    write_png(out, sheet)
    click.echo(str(out))
    _say_drawn(data)


@show_command.command("corruptions", short_help="What robustness is measured with, by severity.")
@sheet_options
@click.option(
    "--family",
    type=click.Choice(["seen", "unseen"]),
    default=None,
    help="Only the corruptions that a search may see, or only those that none sees.  [default: both]",
)
@click.option(
    "--out", type=UserPath(), default=Path("corruptions.png"), show_default=True, help="The sheet, a PNG."
)  # fmt: skip
def corruptions_command(
    data: Path | None, image_size: int, samples: int, seed: int, family: FamilyName | None, out: Path
) -> None:
    """Draw what robustness is measured with, at severities 1 to 5, on images of DATA, on IMAGE, or on drawn cells.

    Look whether you still recognise the class at severity 5: a model cannot be asked for more.
    """
    from hpo.figures.choice_sheets import CORRUPTION_FAMILIES, corruption_sheet, sample_images
    from hpo.figures.contact_sheet import write_png

    _refuse_huge(samples, image_size)
    images = sample_images(data, samples, image_size, seed)
    families = list(CORRUPTION_FAMILIES.values()) if family is None else [CORRUPTION_FAMILIES[family]]
    write_png(out, corruption_sheet(images, draws=samples, families=families, seed=seed))
    click.echo(str(out))
    _say_drawn(data)


ROWS = 8
"""Rows of a sheet of backgrounds; the classes take turns."""


@show_command.command("background", short_help="What `background: mask` leaves of images.")
@sheet_options
@click.option(
    "--out", type=UserPath(), default=Path("background.png"), show_default=True, help="The sheet, a PNG."
)  # fmt: skip
def background_command(data: Path | None, image_size: int, samples: int, seed: int, out: Path) -> None:
    """Draw images of DATA, IMAGE, or drawn cells, beside the same with their background in its mean colour.

    Look whether the objects are whole and nothing else is left, before `--set background=mask`.
    """
    from hpo.figures.choice_sheets import background_sheet, sample_images
    from hpo.figures.contact_sheet import write_png

    _refuse_huge(samples, image_size)
    sheet, kept = background_sheet(sample_images(data, ROWS * samples, image_size, seed), draws=samples)
    write_png(out, sheet)
    click.echo(str(out))
    _say_drawn(data)
    if kept:
        click.echo(f"images in which no object can be told from the background, and that stay as they are: {kept}")


def _say_drawn(data: Path | None) -> None:
    """Say that the sheet shows synthetic cells where no DATA was given."""
    if data is None:
        click.echo(
            "no DATA was given: the sheet shows synthetic cells; `hpo show SHEET DATA` shows your images", err=True
        )


def _refuse_huge(samples: int, image_size: int) -> None:
    """Raise UsageError for a sheet that viewers cannot open."""
    # At the limit a sheet is some ten thousand pixels wide.
    from hpo.errors import UsageError

    if samples * image_size > WIDEST:
        raise UsageError(f"{samples} samples of {image_size} px make cells of over {WIDEST} px; give fewer or smaller")

"""Contact sheets of findings, to be looked at: one PNG per kind of finding, groups side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.doctor_claims import read_findings_csv
from benchmarks.doctor_pictures import PARTS, Pixels, Stored, read_images

TILE = 96
LINE = 12
COLUMNS = 12
MOST = 120
"""Files on a sheet: the surest ones of a kind; whole groups."""


def draw_sheets(findings: Path, data: Path, out: Path) -> list[Path]:
    """Draw a sheet for each kind of finding on `data` in a CSV; return the files written to the folder `out`."""
    by_file = stored_images(data)
    rows = read_findings_csv(findings)
    kinds: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["file"] in by_file:
            kinds[row["finding"]].append(row)
    written = []
    for kind, found in kinds.items():
        tiles = [(by_file[row["file"]].pixels(), caption(row)) for row in ordered(found)[:MOST]]
        path = out / f"{data.stem}-{kind}.png"
        sheet(tiles).save(path)
        written.append(path)
    return written


def stored_images(data: Path) -> dict[str, Stored]:
    """Return the images of all parts by their names in findings: paths below DATA, or array[row] of an .npz."""
    if data.suffix == ".npz":
        return {f"images[{row}]": image for row, image in enumerate(read_images(data))}
    whole = {image.file: image for image in read_images(data)}
    parts = {f"{part}/{image.file}": image for part in PARTS for image in read_images(data, part)}
    return parts | whole


def ordered(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows by falling score of their group, members of a group together."""
    best: dict[str, float] = defaultdict(float)
    for row in rows:
        key = row["group"] or row["file"]
        best[key] = max(best[key], float(row["score"] or 0))
    return sorted(rows, key=lambda row: (-best[row["group"] or row["file"]], row["group"] or row["file"], row["file"]))


def caption(row: dict[str, str]) -> tuple[str, str, str]:
    """Return three short lines below a picture."""
    return (row["file"][-17:], f"{row['group'][:9]} {row['action'][:7]}", f"{float(row['score'] or 0):.3f}")


def sheet(tiles: Sequence[tuple[Pixels, tuple[str, str, str]]]) -> Image.Image:
    """Draw pictures in rows of twelve, each with its lines."""
    height = TILE + 3 * LINE + 4
    rows = -(-max(1, len(tiles)) // COLUMNS)
    drawn = Image.new("RGB", (COLUMNS * (TILE + 4), rows * height), "white")
    pen = ImageDraw.Draw(drawn)
    for number, (pixels, lines) in enumerate(tiles):
        left, top = (number % COLUMNS) * (TILE + 4), (number // COLUMNS) * height
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.thumbnail((TILE, TILE))
        drawn.paste(picture, (left, top))
        for line, text in enumerate(lines):
            pen.text((left, top + TILE + line * LINE), text, fill="black")
    return drawn

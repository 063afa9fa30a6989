"""Plant faults in a data set and write down which: pictures that do not belong, copies, wrong labels, leaks.

    python -m benchmarks.doctor_plants DATA planted.zip --junk OTHER

Writes DATA's train part with the faults as a zip (or a folder, if the name has no suffix), and a truth file
`planted.truth.json` beside it: a row for every file with its role (original, junk, copy, wrong, leak), class, true
class and what was done. OTHER is a data set whose pictures do not belong in DATA; without it they are all drawn. Files
that are not changed keep their bytes and names; planted ones have names of random letters. The same seed and options
give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import ceil
from pathlib import Path

import numpy as np

from benchmarks.doctor_pictures import (
    KINDS,
    Pixels,
    Rng,
    Stored,
    brighten,
    draw_picture,
    encode,
    make_copy,
    read_images,
    resized,
)


@dataclass(frozen=True)
class PlantOptions:
    """What is planted, and into what."""

    data: Path
    junk: Path | None = None
    seed: int = 0
    clusters: tuple[int, ...] = (800, 800)
    scattered: int = 200
    copies: int = 500
    kinds: tuple[str, ...] = KINDS
    wrong: float = 0.02
    conflicts: int = 0
    leaks: int = 0
    size: int = 0
    grey: bool = False
    classes: int = 0
    images: int = 0
    rare: int = 0
    parts: bool = False
    brightness: float = 0.1
    drawn: float = 0.5
    one_label: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return the options as JSON has them; paths by their name."""
        return asdict(self) | {"data": self.data.name, "junk": self.junk.name if self.junk else None}


@dataclass(frozen=True)
class Truth:
    """What one file of a planted set is.

    `group` names the picture: files of one group show the same one. It is empty for files that are alone.
    """

    file: str
    role: str
    label: str
    true_label: str = ""
    group: str = ""
    kind: str = ""
    detail: str = ""


@dataclass
class _Plant:
    """The files of a planted set while it is made."""

    options: PlantOptions
    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[Truth] = field(default_factory=list)

    def add(self, row: Truth, data: bytes) -> None:
        self.files[row.file] = data
        self.rows.append(row)


def plant(options: PlantOptions, out: Path) -> list[Truth]:
    """Plant the faults, write the set to `out` and the truth beside it; return the truth."""
    rng = np.random.default_rng([options.seed, 11])
    images = prepare(read_images(options.data), options, rng)
    labels = sorted({image.label for image in images})
    made = _Plant(options)
    validation: list[Stored] = []
    if options.parts or options.leaks:
        images, validation = split_off(images, 0.1, rng)
    order = rng.permutation(len(images))
    wrong = {int(row) for row in order[: round(options.wrong * len(images))]}
    _add_originals(made, images, wrong, labels, rng)
    right = [images[row] for row in order[len(wrong) :]]
    _add_copies(made, right, labels, rng)
    _add_junk(made, labels, rng)
    if options.parts or options.leaks:
        _add_parts(made, right, validation, rng)
    write(made.files, out)
    truth_path(out).write_text(json.dumps({"options": options.to_dict(), "files": [asdict(row) for row in made.rows]}))
    return made.rows


def truth_path(out: Path) -> Path:
    """Return the path of the truth file of a planted set."""
    return out.with_name(out.stem + ".truth.json")


def read_truth(path: Path) -> list[Truth]:
    """Read a truth file."""
    return [Truth(**row) for row in json.loads(path.read_text())["files"]]


def prepare(images: list[Stored], options: PlantOptions, rng: Rng) -> list[Stored]:
    """Keep the wanted classes and number of images, make one class rare, change size and mode where that is asked."""
    labels = sorted({image.label for image in images})
    if options.classes:
        labels = labels[: options.classes]
        images = [image for image in images if image.label in labels]
    if options.rare:
        rare = [row for row, image in enumerate(images) if image.label == labels[0]]
        left_out = set(rng.permutation(rare)[options.rare :].tolist())
        images = [image for row, image in enumerate(images) if row not in left_out]
    if options.images and options.images < len(images):
        images = [images[row] for row in sorted(rng.permutation(len(images))[: options.images])]
    if options.size or options.grey:
        images = [_changed(image, options) for image in images]
    return images


def _changed(image: Stored, options: PlantOptions) -> Stored:
    pixels = image.pixels()
    if options.size:
        height, width = (round(side * options.size / min(pixels.shape[:2])) for side in pixels.shape[:2])
        pixels = resized(pixels, width, height)
    return Stored(str(Path(image.file).with_suffix(".jpg")), image.label, encode(pixels, grey=options.grey))


def split_off(images: list[Stored], share: float, rng: Rng) -> tuple[list[Stored], list[Stored]]:
    """Return the images without a random share of each class, and this share."""
    taken: set[int] = set()
    for label in sorted({image.label for image in images}):
        rows = [row for row, image in enumerate(images) if image.label == label]
        taken.update(rng.permutation(rows)[: round(share * len(rows))].tolist())
    return (
        [image for row, image in enumerate(images) if row not in taken],
        [images[row] for row in sorted(taken)],
    )


def _other(label: str, labels: Sequence[str], rng: Rng) -> str:
    return str(rng.choice([name for name in labels if name != label]))


def _name(label: str, suffix: str, rng: Rng) -> str:
    """Return a name that tells nothing; some sort before the originals and some after them."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return f"{label}/{''.join(rng.choice(list(letters), 10))}{suffix}"


def _add_originals(made: _Plant, images: list[Stored], wrong: set[int], labels: Sequence[str], rng: Rng) -> None:
    for row, image in enumerate(images):
        if row not in wrong:
            made.add(Truth(image.file, "original", image.label, image.label), image.data)
            continue
        given = _other(image.label, labels, rng)
        file = f"{given}/{Path(image.file).name}"
        made.add(Truth(file, "wrong", given, image.label), image.data)


def _add_copies(made: _Plant, sources: list[Stored], labels: Sequence[str], rng: Rng) -> None:
    """Copy different images, the kinds in turn; the last `conflicts` copies get another class."""
    options = made.options
    rows = {row.file: number for number, row in enumerate(made.rows)}
    wanted = options.copies + options.conflicts
    if wanted > len(sources):
        raise SystemExit(f"{wanted} copies are wanted, but only {len(sources)} images can be copied")
    for number, source in enumerate(sources[:wanted]):
        kind = options.kinds[number % len(options.kinds)]
        data, detail, suffix = make_copy(source, kind, rng)
        if options.grey and kind != "bytes":
            data, suffix = encode(Stored("", "", data).pixels(), grey=True), ".jpg"
        given = source.label if number < options.copies else _other(source.label, labels, rng)
        original = made.rows[rows[source.file]]
        made.rows[rows[source.file]] = Truth(original.file, "original", original.label, original.label, source.file)
        made.add(Truth(_name(given, suffix, rng), "copy", given, source.label, source.file, kind, detail), data)


def junk_pictures(options: PlantOptions, number: int, size: int, rng: Rng) -> Iterator[tuple[Pixels, str]]:
    """Yield different pictures that do not belong, at `size` px, and where they are from: read, a share drawn."""
    read = read_images(options.junk) if options.junk else []
    order = iter(rng.permutation(len(read)))
    share = 1 - options.drawn
    for turn in range(number):
        row = next(order, None) if ceil((turn + 1) * share) > ceil(turn * share) else None
        if row is None:
            yield draw_picture(rng, size), "drawn"
        else:
            yield resized(read[row].pixels(), size), read[row].file


def _add_junk(made: _Plant, labels: Sequence[str], rng: Rng) -> None:
    options = made.options
    size = min(next(iter(_sizes(made))))
    pictures = junk_pictures(options, len(options.clusters) + options.scattered, size, rng)
    for cluster, (count, (pixels, origin)) in enumerate(zip(options.clusters, pictures, strict=False)):
        given = [str(rng.choice(list(labels)))] if options.one_label else labels
        for _ in range(count):
            factor = 1 + float(rng.uniform(-options.brightness, options.brightness))
            _add_picture(made, brighten(pixels, factor), f"cluster {cluster}", f"{origin} x {factor:.2f}", given, rng)
    for pixels, origin in pictures:
        _add_picture(made, pixels, "", origin, labels, rng)


def _sizes(made: _Plant) -> Iterator[tuple[int, ...]]:
    for row in made.rows:
        if row.role == "original":
            yield Stored("", "", made.files[row.file]).pixels().shape[:2]


def _add_picture(made: _Plant, pixels: Pixels, group: str, detail: str, labels: Sequence[str], rng: Rng) -> None:
    label = str(rng.choice(list(labels)))
    kind = "cluster" if group else "scattered"
    row = Truth(_name(label, ".jpg", rng), "junk", label, "", group, kind, detail)
    made.add(row, encode(pixels, grey=made.options.grey))


def _add_parts(made: _Plant, sources: list[Stored], validation: list[Stored], rng: Rng) -> None:
    """Move everything so far to train/, add the clean parts, and copies of train images in val/ as leaks."""
    options = made.options
    made.files = {f"train/{file}": data for file, data in made.files.items()}
    made.rows = [
        Truth(f"train/{row.file}", row.role, row.label, row.true_label, row.group, row.kind, row.detail)
        for row in made.rows
    ]
    for image in validation:
        made.add(Truth(f"val/{image.file}", "original", image.label, image.label), image.data)
    for image in read_images(options.data, "val"):
        image = _changed(image, options) if options.size or options.grey else image  # noqa: PLW2901
        made.add(Truth(f"test/{image.file}", "original", image.label, image.label), image.data)
    used = options.copies + options.conflicts
    rows = {row.file: number for number, row in enumerate(made.rows)}
    for number, source in enumerate(sources[used : used + options.leaks]):
        kind = options.kinds[number % len(options.kinds)]
        data, detail, suffix = make_copy(source, kind, rng)
        number_of_source = rows[f"train/{source.file}"]
        old = made.rows[number_of_source]
        made.rows[number_of_source] = Truth(old.file, "original", old.label, old.label, source.file)
        file = f"val/{_name(source.label, suffix, rng)}"
        made.add(Truth(file, "leak", source.label, source.label, source.file, kind, detail), data)


def write(files: dict[str, bytes], out: Path) -> None:
    """Write files to a zip or a new folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), files[name])
        return
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


def summary(rows: Sequence[Truth]) -> str:
    """Return the counts of a planted set in one line."""
    counts = Counter(f"{row.role} {row.kind}".strip() for row in rows)
    return f"{len(rows)} files: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def parse() -> tuple[PlantOptions, Path]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder, zip or .npz")
    parser.add_argument("out", type=Path, help="a zip, or a folder that does not exist")
    parser.add_argument("--junk", type=Path, help="data set whose pictures do not belong; without it all are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clusters", type=int, nargs="*", default=[800, 800], help="copies of each junk picture")
    parser.add_argument("--scattered", type=int, default=200, help="junk pictures that occur once")
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "combined"], default=list(KINDS))
    parser.add_argument("--wrong", type=float, default=0.02, help="share of the images that gets a wrong class")
    parser.add_argument("--conflicts", type=int, default=0, help="copies under another class")
    parser.add_argument("--leaks", type=int, default=0, help="copies of train images in val")
    parser.add_argument("--size", type=int, default=0, help="resample the images to this shorter side")
    parser.add_argument("--grey", action="store_true", help="store one channel")
    parser.add_argument("--classes", type=int, default=0, help="only the first classes")
    parser.add_argument("--images", type=int, default=0, help="only so many images")
    parser.add_argument("--rare", type=int, default=0, help="keep so many images of the first class")
    parser.add_argument("--parts", action="store_true", help="add a clean val/ (10 %% of train); DATA's val is test/")
    parser.add_argument("--brightness", type=float, default=0.1, help="largest change of a junk picture's brightness")
    parser.add_argument("--drawn", type=float, default=0.5, help="the share of junk pictures that are drawn")
    parser.add_argument("--one-label", action="store_true", help="all copies of a junk picture get one class")
    given = vars(parser.parse_args())
    out = given.pop("out")
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return PlantOptions(**{name.name: chosen[name.name] for name in fields(PlantOptions)}), out


if __name__ == "__main__":
    print(summary(plant(*parse())))

"""The classes of a data set as those of a model, which may have other names for them, or lack some.

Data of another laboratory seldom have the class names of the data that a model was made with. Nothing is guessed: a
class that the model does not know is an error until the user says which class it is, or that it is left out.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hpo.data.dataset import Part
from hpo.data.names import class_name, shortened
from hpo.errors import DataError, UsageError

_SHOWN = 8
"""Missing classes that are named."""

LEFT_OUT = ""
"""The name that stands for no class: the images are left out."""


def read_renaming(texts: Iterable[str]) -> dict[str, str]:
    """Return the classes of `THEIRS=OURS`, by their name; `THEIRS=` leaves a class out. UsageError for other texts."""
    found: dict[str, str] = {}
    for text in texts:
        theirs, sign, ours = (word.strip() for word in text.rpartition("="))
        if not sign or not theirs:
            raise UsageError(
                f"--map is {text!r}, but must be THEIRS=OURS, the class of the data and that of the model, or THEIRS= "
                "to leave a class out"
            )
        if theirs in found:
            raise UsageError(f"--map names the class {theirs!r} twice: give it once")
        found[theirs] = ours
    return found


def relabel(
    part: Part, own: Sequence[str], known: Sequence[str], renamed: Mapping[str, str], source: str
) -> tuple[Part, tuple[str, ...]]:
    """Return `part` of a data set with labels as positions in `known` in place of `own`, and a line for each renaming.

    `renamed` maps names of `own` to names of `known`, or to LEFT_OUT. Raise DataError as `check_names` does, and where
    no image is left.
    """
    counts = np.bincount(part.labels, minlength=len(own)).tolist()
    used = [name for name, count in zip(own, counts, strict=True) if count]
    ours = check_names(own, used, known, renamed, source)
    number = {class_name(name, source): position for position, name in enumerate(known)}
    table = np.array([number.get(ours.get(name, name), -1) for name in own], dtype=np.int64)
    labels = table[part.labels]
    if ours:
        part, labels = part.subset(np.flatnonzero(labels >= 0)), labels[labels >= 0]
        if not len(labels):
            raise DataError(f"--map leaves out all images of {source}: name the class of some")
    count_of = dict(zip(own, counts, strict=True))
    return replace(part, labels=labels), tuple(_line(name, word, count_of[name]) for name, word in ours.items())


def check_names(
    own: Sequence[str], used: Sequence[str], known: Sequence[str], renamed: Mapping[str, str], source: str
) -> dict[str, str]:
    """Return `renamed` by names as a data set and a model have them.

    `own` are the classes of the data set, `used` those of which it has images, `known` those of the model. Raise
    DataError for a name that is not among these, and for a used class that the model does not know.
    """
    names = {class_name(name, source) for name in known}
    ours = {class_name(theirs, source): word and class_name(word, source) for theirs, word in renamed.items()}
    for theirs, word in ours.items():
        if theirs not in own:
            raise DataError(f"--map names the class {theirs!r}, but {source} has {', '.join(own)}: name one of these")
        if word != LEFT_OUT and word not in names:
            raise DataError(
                f"--map gives {theirs!r} the class {word!r}, but the model knows {', '.join(known)}: name one of these"
            )
    if unknown := [name for name in used if ours.get(name, name) not in {*names, LEFT_OUT}]:
        raise DataError(
            f"class {unknown[0]!r} of {source} is unknown to the model, which knows {', '.join(known)}: rename or "
            f"remove it, or name its class by --map {shlex.quote(unknown[0] + '=CLASS')}, where no CLASS leaves its "
            "images out"
        )
    return ours


def missing_line(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Return the line on the `classes` of a model of which a measurement has no image; empty where there is none."""
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not missing:
        return ""
    there = len(counts) - len(missing)
    return (
        f"no image is of class {shortened(missing, _SHOWN)}: the figures are of the other {there}, and an image "
        "that is taken for a missing class counts as wrong"
    )


def _line(theirs: str, ours: str, count: int) -> str:
    images = "1 image" if count == 1 else f"{count:,} images"
    if ours == LEFT_OUT:
        return f"class {theirs!r} is left out, as --map says: {images}"
    return f"class {theirs!r} is taken as {ours!r}, as --map says: {images}"

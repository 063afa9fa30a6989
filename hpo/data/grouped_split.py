"""The split where groups stay together or folds are made: whole groups are dealt to parts, class by class as evenly as
they allow. Without either it is that of `split`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import PartName
from hpo.data.grouping import Grouping, grouping_notes, unite
from hpo.data.names import shortened
from hpo.data.records import PARTS
from hpo.data.split import (
    Assignment,
    SplitOptions,
    assign_splits,
    check_classes,
    missing_classes,
    missing_note,
)
from hpo.errors import DataError

_NAMED = 5

_TRAIN, _VAL, _TEST = range(3)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageRows:
    """The images to split, one entry per row."""

    labels: Counts
    """(n,) int64 class numbers."""
    given: Sequence[PartName | None]
    groups: Sequence[str]
    """n names of groups of copies."""
    names: Sequence[str]
    classes: Sequence[str]


def assign_parts(rows: ImageRows, options: SplitOptions, grouping: Grouping | None = None) -> Assignment:
    """Assign the images to parts, and with `options.folds` to folds; images of one group of `grouping` stay together.

    Given parts are kept; with folds a given val part joins train. Raise DataError where a class would be left without a
    training image, or no image could be held out.
    """
    if grouping is None and not options.folds:
        return assign_splits(
            rows.labels, rows.given, rows.groups, classes=rows.classes, options=options, names=rows.names
        )
    check_classes(rows.classes, rows.labels)
    names, linked = unite(rows.groups, grouping.values) if grouping else (list(rows.groups), 0)
    units = _Units(rows, names, options.seed)
    codes = np.array([PARTS.index(part or "train") for part in rows.given], dtype=np.int8)
    notes = list(grouping_notes(grouping, rows.given, linked)) if grouping else []
    if options.folds:
        notes += ["with folds the given val part joins train: all its images validate in turn"] * ("val" in rows.given)
        codes[codes == _VAL] = _TRAIN
    wanted = _wanted(rows.given, options)
    codes, folds = _dealt(units, codes, wanted, options)
    if folds is not None:
        notes += _fold_notes(units, folds)
        codes[folds == 0] = _VAL
    _check_held_out(rows, codes, wanted)
    notes += _part_notes(rows, codes, folds is not None)
    by = f"grouped by {grouping.word}: {grouping.count:,} groups" if grouping else ""
    return Assignment(codes, _describe(rows.given, codes, options, by), tuple(notes), folds)


class _Units:
    """Groups of images that move together, with their images per class."""

    def __init__(self, rows: ImageRows, names: Sequence[str], seed: int) -> None:
        self.labels, self.classes = rows.labels, rows.classes
        unique, self.of_row = np.unique(np.array(names, dtype=object), return_inverse=True)
        self.counts = np.zeros((len(unique), len(rows.classes)), dtype=np.int64)
        """(g, C) images per unit and class."""
        np.add.at(self.counts, (self.of_row, rows.labels), 1)
        keys = [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest() for name in unique]
        sizes = self.counts.sum(axis=1)
        self.order = sorted(range(len(unique)), key=lambda unit: (-sizes[unit], keys[unit]))
        """The units, largest first; those of one size in an order that depends on seed and content."""

    def inside(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return (g,) bool: the units whose images are all in `mask` (n,)."""
        whole: npt.NDArray[np.bool_] = np.bincount(self.of_row[~mask], minlength=len(self.counts)) == 0
        return whole


def deal(counts: Counts, targets: npt.NDArray[np.float64], order: Sequence[int]) -> npt.NDArray[np.int64]:
    """Deal units with `counts` (g, C) images per class to P parts with `targets` (P, C); return the part of each (g,).

    Units come in the given order, and each goes to the part that lacks most of its classes, relative to their sizes;
    -1 for units that are not in `order`.
    """
    part_of = np.full(len(counts), -1, dtype=np.int64)
    weight = 1 / np.maximum(targets.sum(axis=0), 1)
    room = targets.astype(np.float64, copy=True)
    for unit in order:
        lacking = (room * (counts[unit] * weight)).sum(axis=1).round(9)
        total = room.sum(axis=1)
        part = max(range(len(room)), key=lambda at: (lacking[at], total[at], -at))
        part_of[unit] = part
        room[part] -= counts[unit]
    return part_of


def _wanted(given: Sequence[PartName | None], options: SplitOptions) -> dict[int, float]:
    """Return part -> its share, for the parts that are to be made."""
    shares = (
        {_TEST: options.test_fraction} if options.folds else {_VAL: options.val_fraction, _TEST: options.test_fraction}
    )
    return {part: share for part, share in shares.items() if share > 0 and PARTS[part] not in given}


def _dealt(
    units: _Units, given: npt.NDArray[np.int8], wanted: dict[int, float], options: SplitOptions
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8] | None]:
    """Return part and fold of each image, from the given parts (n,); the folds are None where none are asked for."""

    def dealt(spared: int | None) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8] | None]:
        codes = given.copy()
        _hold_out(units, codes, wanted, spared)
        return codes, _deal_folds(units, codes, options.folds) if options.folds else None

    if options.every_class:
        with suppress(DataError):  # a class has too few groups for the test part and for folds: folds come first
            return dealt(2 if options.folds else 1)
    return dealt(None)


def _hold_out(units: _Units, codes: npt.NDArray[np.int8], wanted: dict[int, float], spared: int | None) -> None:
    """Move whole units from train into the wanted parts. Change `codes` in place.

    `spared` is as in `complete`; None moves no unit for the sake of a class.
    """
    if not wanted:
        return
    movable = units.inside(codes == _TRAIN)
    order = [unit for unit in units.order if movable[unit]]
    total = units.counts[movable].sum(axis=0)
    parts = [_TRAIN, *wanted]
    shares = np.array([1 - sum(wanted.values()), *wanted.values()])
    at = deal(units.counts, shares[:, None] * total[None, :], order)
    part_of = np.where(at >= 0, np.array(parts)[at], _TRAIN)
    fixed = np.bincount(units.labels[(codes == _TRAIN) & ~movable[units.of_row]], minlength=len(units.classes))
    _mend(units.counts, part_of, fixed, list(reversed(order)), list(wanted))
    if spared is not None:
        held = HeldOut(units.counts, part_of, fixed, list(reversed(order)), spared)
        for part, share in wanted.items():
            held.complete(part, round(share * int(total.sum())))
    moved = movable[units.of_row]
    codes[moved] = part_of[units.of_row][moved]


def _mend(
    counts: Counts, part_of: npt.NDArray[np.int64], fixed: Counts, smallest_first: Sequence[int], parts: Sequence[int]
) -> None:
    """Give back units to train until each class trains, then give each empty part the smallest unit that train can
    spare. `fixed` (C,) are images that stay in train. Change `part_of` in place.
    """

    def training() -> Counts:
        found: Counts = fixed + counts[part_of == _TRAIN].sum(axis=0)
        return found

    for label in range(counts.shape[1]):
        holders = [unit for unit in smallest_first if counts[unit, label]]
        if holders and not training()[label]:
            part_of[holders[0]] = _TRAIN
    for part in parts:
        if not any(part_of[unit] == part for unit in smallest_first):
            unit = _spare_unit(counts, part_of, training(), smallest_first)
            if unit is not None:
                part_of[unit] = part


def _spare_unit(
    counts: Counts, part_of: npt.NDArray[np.int64], training: Counts, smallest_first: Sequence[int]
) -> int | None:
    """Return the smallest unit of train without which it keeps an image of each of its classes; None if none."""
    for unit in smallest_first:
        if part_of[unit] == _TRAIN and (training - counts[unit] > 0)[training > 0].all():
            return unit
    return None


@dataclass(frozen=True)
class HeldOut:
    """Units that are dealt to parts, where a part gets an image of each class that train can spare."""

    counts: Counts
    """(g, C) images per unit and class."""
    part_of: npt.NDArray[np.int64]
    """(g,) the part of each unit; changed in place."""
    fixed: Counts
    """(C,) images that stay in train."""
    smallest_first: Sequence[int]
    """The units that may move."""
    spared: int
    """The units of each class that train keeps."""

    def complete(self, part: int, least: int) -> None:
        """Move units from train into a part until it has each class; units that it can spare then go back.

        Of each class that is moved train keeps at least as many images as the part gets. A part that had each class, or
        for whose sake none could be moved, stays as it was; others keep `least` images.
        """
        rarest_first = np.argsort((self.counts > 0).sum(axis=0), kind="stable").tolist()
        moved = [label for label in rarest_first if self._move(part, label)]
        there = self._images(part)
        for unit in reversed(self.smallest_first) if moved else ():
            left = there - self.counts[unit]
            if self.part_of[unit] == part and (left[there > 0] > 0).all() and left.sum() >= least:
                self.part_of[unit], there = _TRAIN, left

    def _move(self, part: int, label: int) -> bool:
        """Move a unit of a class that a part lacks: of those with most of its missing classes, the smallest."""
        there, train = self._images(part), self.fixed + self._images(_TRAIN)
        if there[label]:
            return False
        holders = np.count_nonzero(self.counts[self.part_of == _TRAIN], axis=0) + (self.fixed > 0)
        able = [
            unit
            for unit in self.smallest_first
            if self.part_of[unit] == _TRAIN
            and (own := self.counts[unit])[label]
            and ((holders > self.spared) & (train - own >= there + own))[own > 0].all()
        ]
        if able:
            chosen = max(able, key=lambda unit: np.count_nonzero(self.counts[unit][there == 0]))
            self.part_of[chosen] = part
        return bool(able)

    def _images(self, part: int) -> Counts:
        images: Counts = self.counts[self.part_of == part].sum(axis=0)
        return images


def _deal_folds(units: _Units, codes: npt.NDArray[np.int8], folds: int) -> npt.NDArray[np.int8]:
    """Return (n,) int8: the fold of each image that does not test, -1 for the others."""
    pool = codes == _TRAIN
    # A unit that is partly in a given test part is dealt with its other images.
    counts = np.zeros_like(units.counts)
    np.add.at(counts, (units.of_row[pool], units.labels[pool]), 1)
    order = [unit for unit in units.order if counts[unit].any()]
    _refuse_few_units(units, counts, order, folds)
    total = counts.sum(axis=0)
    fold_of = deal(counts, np.repeat(total[None, :] / folds, folds, axis=0), order)
    found = np.full(len(codes), -1, dtype=np.int8)
    found[pool] = fold_of[units.of_row[pool]]
    for fold in range(folds):
        trains = np.bincount(units.labels[pool & (found != fold)], minlength=len(total))
        for label in np.flatnonzero((trains == 0) & (total > 0)).tolist():
            raise DataError(
                f"class {units.classes[label]!r} lies in fold {fold + 1} of {folds} alone, so nothing would "
                "train on it there: add images of other groups, or give no --folds"
            )
    return found


def _refuse_few_units(units: _Units, counts: Counts, order: Sequence[int], folds: int) -> None:
    if len(order) < folds:
        there = "is 1" if len(order) == 1 else f"are {len(order)}"
        raise DataError(
            f"{folds} folds need as many groups of images, but there {there} beside the test part: give a smaller "
            "--folds"
        )
    for label, having in enumerate(np.count_nonzero(counts, axis=0).tolist()):
        if having < 2:
            raise DataError(
                f"class {units.classes[label]!r} has {having or 'no'} group of images beside the test part, but folds "
                "need 2: one to train on while the other validates; add images of others, or give no --folds"
            )


def _fold_notes(units: _Units, folds_of: npt.NDArray[np.int8]) -> list[str]:
    """Return a line on the classes that some fold cannot validate."""
    seen = np.zeros((int(folds_of.max()) + 1, len(units.classes)), dtype=np.int64)
    chosen = folds_of >= 0
    np.add.at(seen, (folds_of[chosen].astype(np.int64), units.labels[chosen]), 1)
    short = [f"{units.classes[label]!r}" for label in np.flatnonzero((seen == 0).any(axis=0)).tolist()]
    return [f"not in every fold to validate on: {shortened(short, _NAMED)}; these classes have few groups"] * bool(
        short
    )


def _part_notes(rows: ImageRows, codes: npt.NDArray[np.int8], has_folds: bool) -> list[str]:
    """Return a line for each of val and test that lacks images of some classes; val with folds is `_fold_notes`'."""
    notes = []
    for part in PARTS[1:]:
        missing = missing_classes(part, codes, rows.labels, rows.classes)
        if missing and (codes == PARTS.index(part)).any() and not (has_folds and part == "val"):
            few = f"too few groups of images for the share; add some, or hold out a larger one (--{part}-fraction)"
            notes.append(missing_note(part, missing, "the given part has none" if part in rows.given else few))
    return notes


def _check_held_out(rows: ImageRows, codes: npt.NDArray[np.int8], wanted: dict[int, float]) -> None:
    """Raise DataError where train lacks a class or nothing validates, or where no group could be spared for a part."""
    counts = np.bincount(rows.labels[codes == _TRAIN], minlength=len(rows.classes))
    for label in np.flatnonzero(counts == 0).tolist():
        raise DataError(
            f"class {rows.classes[label]!r} has no image to train on: the given split puts all into val or test; "
            "move some to train"
        )
    for part in dict.fromkeys([_VAL, *wanted]):
        if not (codes == part).any():
            zero = ", or give --test-fraction 0" if part == _TEST else ""
            raise DataError(
                f"no group can be spared for the {PARTS[part]} part: each holds the last training images of a class; "
                f"add groups{zero}"
            )


def _describe(given: Sequence[PartName | None], codes: npt.NDArray[np.int8], options: SplitOptions, by: str) -> str:
    """Describe the split, with the real shares: whole groups rarely meet the requested ones."""
    shares = [100 * float(np.mean(codes == part)) for part in range(3)]
    kept = "as given" if any(given) else ""
    if options.folds:
        held = f"{options.folds} stratified folds of {shares[_TRAIN] + shares[_VAL]:.3g} %"
        head = [held, f"test {'as given' if 'test' in given else f'{shares[_TEST]:.3g} %'}"]
    else:
        head = [f"{kept or 'stratified'} {'/'.join(f'{share:.3g}' for share in shares if share)}"]
    return ", ".join([*head, *([by] if by else []), f"seed {options.seed}"])

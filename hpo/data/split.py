"""The split into train, val and test: stratified, with duplicates in one part, the same for the same content and seed.

Pure functions of labels, given parts and groups of duplicates. The order of the images plays no role: groups are
assigned in the order of a seeded hash of their names, which are digests of content.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import PartName, RecordedGroups
from hpo.data.names import shortened
from hpo.data.records import PARTS
from hpo.errors import DataError, UsageError

_CODE: dict[PartName, int] = {name: code for code, name in enumerate(PARTS)}

MOST_FOLDS = 10

_NAMED = 5
"""The number of classes or pairs of images that a message names."""


@dataclass(frozen=True)
class SplitOptions:
    """The options by which a data set is opened and split; parts that it brings itself are obeyed."""

    seed: int = 0
    val_fraction: float = 0.1
    """Share of the images that are split; above 0."""
    test_fraction: float = 0.1
    """Share of the images that are split; 0 makes no test part."""
    # Unreadable images are no part of the split, so two equal splits may differ in it.
    max_unreadable: float = field(default=0.05, compare=False)
    """Share of images that may be unreadable before the data set is refused."""
    group_by: str | None = None
    """A column of the table, or a regular expression on the paths: images of one value stay in one part."""
    folds: int | None = None
    """Number of folds into which train and val together are dealt; None makes none."""
    # What a study keeps of its copies says how its data look, not how a person wants them split.
    copies: RecordedGroups | None = field(default=None, compare=False)
    """Groups of images that show one picture, as `copy_groups.record` gives them; None looks for them."""
    every_class: bool = field(default=True, compare=False)
    """Whether a part that is made of whole groups gets an image of each class where train can spare one; earlier
    versions of hpo did not see to that.
    """

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction < 1:
            raise UsageError(
                f"the validation fraction is {self.val_fraction}, but must be above 0 and under 1, such as 0.1"
            )
        if not 0 <= self.test_fraction < 1 - self.val_fraction:
            raise UsageError(
                f"the test fraction is {self.test_fraction}, but must be at least 0 and leave images to train on "
                f"beside the validation fraction {self.val_fraction}: take 0.1"
            )
        if self.folds is not None and not MOST_FOLDS >= self.folds >= 2:
            raise UsageError(f"--folds is {self.folds}, but must be 2 to {MOST_FOLDS}; leave it out for one split")


@dataclass(frozen=True)
class Assignment:
    """The part of every image."""

    codes: npt.NDArray[np.int8]
    """(n,) int8: 0 train, 1 val, 2 test."""
    text: str
    """How the parts were made, in words."""
    notes: tuple[str, ...] = ()
    """One line for each of val and test that lacks images of some classes."""
    folds: npt.NDArray[np.int8] | None = None
    """(n,) int8: the fold in which each image validates, -1 for test images; None without folds. Fold 0 is val."""

    def rows(self, part: PartName) -> npt.NDArray[np.int64]:
        """Return the positions of a part's images, ascending."""
        return np.flatnonzero(self.codes == _CODE[part]).astype(np.int64)

    def fold_rows(self) -> list[npt.NDArray[np.int64]]:
        """Return the positions of each fold's images, ascending; no fold without folds."""
        if self.folds is None:
            return []
        return [np.flatnonzero(self.folds == fold).astype(np.int64) for fold in range(int(self.folds.max()) + 1)]


def assign_splits(
    labels: npt.NDArray[np.int64],
    given: Sequence[PartName | None],
    groups: Sequence[str],
    *,
    classes: Sequence[str],
    options: SplitOptions,
    names: Sequence[str] = (),
) -> Assignment:
    """Assign n images with class numbers `labels` (n,) to parts; images of one group (n names) are duplicates.

    A given part is kept; `val` and `test`, where not given, are taken from train, class by class. Raise DataError if a
    class is left without a training image, or the whole without validation images; its message uses the `names` of the
    images.
    """
    check_classes(classes, labels)
    codes = np.array([_CODE[part or "train"] for part in given], dtype=np.int8)
    known = {part for part in given if part}
    fractions = _fractions(options, known)
    _refuse_untrained(codes, labels, classes)
    pool = np.flatnonzero(codes == _CODE["train"])
    for rows in _groups_by_class(pool, labels, groups).values():
        _assign_groups(rows, codes, fractions, options.seed)
    if not (codes == _CODE["val"]).any():
        raise DataError(_no_validation_message(labels, groups, names, bool(known)))
    parts = [name for name in PARTS[1:] if name in known or name in fractions]
    missing = {part: missing_classes(part, codes, labels, classes) for part in parts}
    text = _describe(bool(known), fractions, options.seed, codes, missing)
    return Assignment(codes, text, _missing_notes(missing, known))


def _fractions(options: SplitOptions, given: Collection[PartName]) -> dict[PartName, float]:
    """Return the share of each part that is to be made."""
    wanted: dict[PartName, float] = {"val": options.val_fraction, "test": options.test_fraction}
    return {name: fraction for name, fraction in wanted.items() if name not in given and fraction > 0}


def check_classes(classes: Sequence[str], labels: npt.NDArray[np.int64]) -> None:
    """Raise DataError unless there are two classes, each with two images."""
    counts = np.bincount(labels, minlength=len(classes))
    if len(classes) < 2:
        raise DataError(
            f"the only class is {', '.join(map(repr, classes))}, but two are needed: add images of another one"
        )
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            raise DataError(f"class {name!r} has no readable image, but needs 2: add some, or remove its folder")
        if count == 1:
            raise DataError(f"class {name!r} has one readable image, but needs 2: add some, or leave the class out")


def _refuse_untrained(codes: npt.NDArray[np.int8], labels: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    counts = np.bincount(labels[codes == _CODE["train"]], minlength=len(classes))
    for label in np.flatnonzero(counts == 0).tolist():
        images = np.count_nonzero(labels == label)
        raise DataError(
            f"class {classes[label]!r} has no image to train on: the given split puts all {images} into val or test; "
            "move some to train"
        )


def _groups_by_class(
    pool: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], groups: Sequence[str]
) -> dict[int, dict[str, list[int]]]:
    """Return class -> group -> rows, for the groups that may leave train."""
    given = {groups[row] for row in np.setdiff1d(np.arange(len(labels)), pool).tolist()}
    rows: dict[str, list[int]] = defaultdict(list)
    for row in pool.tolist():
        rows[groups[row]].append(row)
    owned: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for group, members in rows.items():
        owners = {int(labels[row]) for row in members}
        # Groups with two labels stay in train, since they cannot measure a model. So do groups with a copy in a given
        # part: in another held-out part they would let the selection see the test.
        if len(owners) == 1 and group not in given:
            owned[owners.pop()][group] = members
    return owned


def _assign_groups(
    rows: dict[str, list[int]],
    codes: npt.NDArray[np.int8],
    fractions: dict[PartName, float],
    seed: int,
) -> None:
    """Move groups of one class from train into the parts that get a fraction of it. Change `codes` in place."""
    order = sorted(rows, key=lambda group: (_shuffle_key(seed, group), group))
    sizes = {group: len(members) for group, members in rows.items()}
    for part, quota in _quotas(sum(sizes.values()), fractions).items():
        taken = set(_choose_groups(order, sizes, quota))
        order = [group for group in order if group not in taken]
        for group in taken:
            codes[rows[group]] = _CODE[part]


def _shuffle_key(seed: int, group: str) -> bytes:
    """Return a sort key that depends on the seed and the content, not on the listing."""
    return hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=16).digest()


def _quotas(images: int, fractions: dict[PartName, float]) -> dict[PartName, int]:
    """Return images of a class per part: rounded, at least one for val from three on, at least one left to train."""
    quotas: dict[PartName, int] = {}
    left = images - 1
    for part, fraction in fractions.items():
        least = 1 if part == "val" and images >= 3 else 0
        quotas[part] = min(left, max(least, int(images * fraction + 0.5)))
        left -= quotas[part]
    return quotas


def _choose_groups(order: Sequence[str], sizes: dict[str, int], quota: int) -> list[str]:
    """Return groups, in order, that together fit the quota; the smallest if none fits; never all of them."""
    if quota == 0 or len(order) < 2:
        return []
    taken: list[str] = []
    for group in order:
        if sizes[group] <= quota and len(taken) < len(order) - 1:
            taken.append(group)
            quota -= sizes[group]
    return taken or [min(order, key=sizes.__getitem__)]


def _no_validation_message(
    labels: npt.NDArray[np.int64], groups: Sequence[str], names: Sequence[str], given: bool
) -> str:
    """Return the reason why no image can be held out, and the way out."""
    if conflicts := label_conflicts(labels, groups, names):
        why = f"{conflicts}, and such images stay in train; mend their labels"
    elif given:
        why = "no class has 3 different images outside of the given parts; add some"
    else:
        why = "no class has 3 different images; add some"
    return f"no image can be held out to validate on: {why}, or give a val part"


def label_conflicts(labels: npt.NDArray[np.int64], groups: Sequence[str], names: Sequence[str] = ()) -> str:
    """Return `4 images are there under two classes: a/0.jpg and b/copy.jpg, …`; "" if duplicates share their labels."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group].append(row)
    mixed = [some for some in rows.values() if len({int(labels[row]) for row in some}) > 1]
    if not mixed:
        return ""
    pairs = (
        [f"{names[some[0]]} and {names[_row_of_other_label(some, labels)]}" for some in mixed[:_NAMED]] if names else []
    )
    more = ", …" if pairs and len(mixed) > len(pairs) else ""
    named = f": {', '.join(pairs)}{more}" if pairs else ""
    images = "1 image is" if len(mixed) == 1 else f"{len(mixed):,} images are"
    return f"{images} there under two classes{named}"


def _row_of_other_label(rows: Sequence[int], labels: npt.NDArray[np.int64]) -> int:
    return next(row for row in rows if labels[row] != labels[rows[0]])


def missing_classes(
    part: PartName, codes: npt.NDArray[np.int8], labels: npt.NDArray[np.int64], classes: Sequence[str]
) -> list[str]:
    """Return the classes without an image in the part."""
    counts = np.bincount(labels[codes == _CODE[part]], minlength=len(classes))
    return [name for name, count in zip(classes, counts, strict=True) if not count]


def _missing_notes(missing: dict[PartName, list[str]], given: Collection[PartName]) -> tuple[str, ...]:
    return tuple(_missing_note(part, classes, part in given) for part, classes in missing.items() if classes)


def _missing_note(part: PartName, classes: Sequence[str], given: bool) -> str:
    """Return the line on classes without an image in a part."""
    why = f"too few different images for the share; add some, or hold out a larger one (--{part}-fraction)"
    return missing_note(part, classes, "the given part has none" if given else why)


def missing_note(part: PartName, classes: Sequence[str], why: str) -> str:
    """Return the line on classes without an image in a part, with the reason."""
    kind = "class" if len(classes) == 1 else "classes"
    return f"no {'validation' if part == 'val' else part} image of {kind} {_listed(classes)}: {why}"


def _listed(classes: Sequence[str]) -> str:
    return shortened([repr(name) for name in classes], _NAMED)


def _describe(
    any_given: bool,
    fractions: dict[PartName, float],
    seed: int,
    codes: npt.NDArray[np.int8],
    missing: dict[PartName, list[str]],
) -> str:
    """Describe the split by the requested shares; by the real ones and the missing classes if a part lacks some."""
    short = {part: classes for part, classes in missing.items() if classes and part in fractions}
    remarks = [f"no {part} image of {_listed(classes)}" for part, classes in short.items()]
    percent = {part: f"{100 * fraction:.3g}" for part, fraction in fractions.items()}
    if any_given:
        made = [f"{part} from train ({share} %)" for part, share in percent.items() if (codes == _CODE[part]).any()]
        return ", ".join(["as given", *made, *remarks, f"seed {seed}"]) if fractions else "as given"
    shares = [f"{100 * (1 - sum(fractions.values())):.3g}", *percent.values()]
    if short:
        parts: tuple[PartName, ...] = ("train", *fractions)
        shares = [f"{100 * np.mean(codes == _CODE[part]):.3g}" for part in parts]
    return ", ".join([f"stratified {'/'.join(shares)}, seed {seed}", *remarks])


def count_leaking(given: Sequence[PartName | None], groups: Sequence[str]) -> int:
    """Return the number of images with a duplicate in an earlier given part, in the order train, val, test."""
    sides: dict[str, Counter[PartName]] = defaultdict(Counter)
    for part, group in zip(given, groups, strict=True):
        if part:
            sides[group][part] += 1
    return sum(
        counts.total() - counts[min(counts, key=_CODE.__getitem__)] for counts in sides.values() if len(counts) > 1
    )

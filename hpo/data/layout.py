"""The rules that turn paths into a listing: which folders are parts, which are classes, and which layouts are refused.

Folders and zips share the rules. Below one or more folders around everything, the first level holds either class
folders, or parts (train/ val/ test/) of class folders; or every class folder holds its parts. Sub-folders of a class
belong to it. A layout that fits no rule, or two, is refused with the way out; docs/data.md explains the rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import PurePosixPath

from hpo.data.dataset import LeftOut, PartName
from hpo.data.formats import SUFFIXES, is_image
from hpo.data.names import (
    Meaning,
    class_name,
    class_notes,
    names_as_written,
    part_in,
    part_notes,
    part_of,
    readable,
    shortened,
)
from hpo.data.records import Listing, Record
from hpo.data.summary import left_out_line
from hpo.errors import DataError

Levels = tuple[str, ...]
"""A path, split at `/`."""

_NAMED = 3
"""The number of left-out files of a kind, and of folders in a message, that are named."""

_KINDS = ", ".join(name for name in ("jpg", "png", "tif", "webp", "bmp", "gif") if name in SUFFIXES)
"""The usual kinds of images, for a message; docs/data.md has all."""

_WAY_OUT = "rename to train/, val/, test/"


@dataclass(frozen=True)
class _Tree:
    """The paths of a data set, without the folders around it."""

    where: str
    images: list[Levels]
    """The path of every image; the last level is its file."""
    folders: list[Levels]
    """Every folder, including empty ones."""

    def tops(self) -> dict[str, list[Levels]]:
        """Return folder of the first level -> paths of its images below it. Images outside of folders are not in it."""
        tops: dict[str, list[Levels]] = defaultdict(list)
        for levels in self.images:
            if len(levels) > 1:
                tops[levels[0]].append(levels[1:])
        return dict(tops)


@dataclass(frozen=True)
class _LevelPlan:
    """The levels of the paths that name class and part."""

    class_level: int
    part_level: int | None = None
    parts: dict[str, PartName] | None = None
    """Folder name -> part."""
    notes: tuple[str, ...] = ()

    def part(self, levels: Levels) -> PartName | None:
        """Return the part that a path lies in."""
        return None if self.part_level is None else (self.parts or {}).get(levels[self.part_level])

    @property
    def depth(self) -> int:
        """The number of levels above the sub-folders of a class."""
        return max(self.class_level, self.part_level or 0) + 1


def arrange(files: Sequence[str], folders: Iterable[str], where: str) -> Listing:
    """Return the listing of the images among `files`, in their order; paths have `/` between their parts.

    `folders` holds all folders, including empty ones; `where` names the data set in messages. Raise DataError for a
    layout that is unclear.
    """
    images = [file for file in files if is_image(file)]
    left_out = left_out_files(file for file in files if not is_image(file))
    if not images:
        others = f"; {left_out_line(left_out)}" if left_out else ""
        raise DataError(f"{where} has no images: put {_KINDS} files into one folder per class{others}")
    tree = _strip_enclosing_folders(
        _Tree(where, [_levels(name) for name in images], [_levels(name) for name in folders])
    )
    plan, tree = _plan_levels(tree)
    raw = _raw_classes(tree, plan)
    number = {name: position for position, name in enumerate(sorted(set(raw.values())))}
    records = tuple(
        Record(readable(file), number[raw[levels[plan.class_level]]], plan.part(levels))
        for file, levels in zip(images, tree.images, strict=True)
    )
    notes = (*plan.notes, *_nested(tree, plan), *class_notes(tuple(number), raw))
    written = names_as_written(tuple(number), raw)
    return Listing(tuple(number), records, left_out, tuple(map(readable, notes)), written)


def left_out_files(files: Iterable[str]) -> tuple[LeftOut, ...]:
    """Count files that are not images of a known kind by suffix, the most frequent first."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for file in files:
        kinds[PurePosixPath(file).suffix.lower() or "without a suffix"].append(readable(file))
    order = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))
    return tuple(LeftOut(readable(kind), len(kinds[kind]), tuple(sorted(kinds[kind])[:_NAMED])) for kind in order)


def _levels(path: str) -> Levels:
    return tuple(path.split("/"))


def _strip_enclosing_folders(tree: _Tree) -> _Tree:
    """Return the tree below every folder that holds all the rest and is neither a class nor a part."""
    while True:
        tops = {levels[0] for levels in tree.images if len(levels) > 1}
        others = {levels[0] for levels in [*tree.images, *tree.folders]} - tops
        if len(tops) != 1 or others or not _is_enclosing(next(iter(tops)), tree.images):
            return tree
        inner = [levels[1:] for levels in tree.folders if len(levels) > 1]
        tree = _Tree(tree.where, [levels[1:] for levels in tree.images], inner)


def _is_enclosing(top: str, images: Sequence[Levels]) -> bool:
    """Return whether the only folder of the first level merely encloses the data set."""
    deep = [levels for levels in images if len(levels) > 2]
    is_class_of_parts = (
        len(deep) == len(images) == sum(len(levels) == 3 and bool(part_of(levels[1])) for levels in deep)
    )
    return bool(deep) and not part_of(top) and not is_class_of_parts


def _plan_levels(tree: _Tree) -> tuple[_LevelPlan, _Tree]:
    """Return the plan, and the tree with doubled folders of parts (seg_train/seg_train) merged."""
    tops = tree.tops()
    _refuse_loose_images(tree, 0)
    meanings = {top: part_in(top) for top in tops}
    if all(meanings.values()) and (len(set(meanings.values())) > 1 or all(map(part_of, tops))):
        tree, notes = _merge_doubled_folders(tree)
        _refuse_loose_images(tree, 1)
        plan = _parts_first(meanings, tree, notes)
        _refuse_inner_parts(tree, plan)
        return plan, tree
    _refuse_mixed(tops, tree.where)
    if parted := _class_first(tops, tree.where):
        return parted, tree
    _refuse_same_folders(tops, tree.where)
    plan = _LevelPlan(0)
    _refuse_inner_parts(tree, plan)
    return plan, tree


def _parts_first(meanings: dict[str, Meaning | None], tree: _Tree, notes: Sequence[str]) -> _LevelPlan:
    """Return the plan for train/ val/ test/ of class folders, with notes on parts of other names and on empty ones."""
    parts = _require_clear_parts(meanings, tree.where)
    all_notes = [*notes, *part_notes({f"{top}/": part for top, part in parts.items()})]
    empty = sorted({levels[0] for levels in tree.folders if part_of(levels[0])} - set(parts))
    all_notes += [f"{name}/ holds no image" for name in empty]
    return _LevelPlan(1, 0, parts, tuple(all_notes))


def _require_clear_parts(meanings: dict[str, Meaning | None], where: str) -> dict[str, PartName]:
    """Return the part by folder name. Raise DataError if a name may stand for several parts."""
    parts: dict[str, PartName] = {}
    for name, meaning in meanings.items():
        if meaning is None or meaning == "unclear":
            raise DataError(f"{name}/ in {where} looks like a part, but may be val or test: {_WAY_OUT}")
        parts[name] = meaning
    return parts


def _merge_doubled_folders(tree: _Tree) -> tuple[_Tree, list[str]]:
    """Drop the second of two nested folders of one part, where the first holds nothing else; return notes on it."""
    doubled = {
        top: inner
        for top, below in tree.tops().items()
        if len(names := {levels[0] for levels in below}) == 1
        and part_in(inner := next(iter(names))) == part_in(top)
        and all(len(levels) > 2 for levels in below)
    }

    def merge(levels: Levels) -> Levels:
        return levels[:1] + levels[2:] if levels[1:2] == (doubled.get(levels[0]),) else levels

    return _Tree(tree.where, list(map(merge, tree.images)), list(map(merge, tree.folders))), [
        f"{top}/{inner}/ is read as {top}/" for top, inner in sorted(doubled.items())
    ]


def _refuse_loose_images(tree: _Tree, depth: int) -> None:
    """Raise DataError for an image that lies above the class folders, which are at level `depth`."""
    loose = next((levels for levels in tree.images if len(levels) <= depth + 1), None)
    if loose:
        in_part = f"; if {loose[0]}/ is a class and no part, give it another name" if len(loose) > 1 else ""
        raise DataError(
            f"{readable('/'.join(loose))} in {tree.where} lies in no class folder, but every image must: "
            f"move it into its class, or away{readable(in_part)}"
        )


def _refuse_mixed(tops: dict[str, list[Levels]], where: str) -> None:
    """Raise DataError for parts of class folders beside other folders."""
    parted = _folders_of_parts([top for top, below in tops.items() if any(len(levels) > 1 for levels in below)])
    others = sorted(set(tops) - set(parted))
    if parted and others:
        raise DataError(
            f"{where} holds {readable(parted[0])}/ beside {readable(others[0])}/, but must hold "
            "either class folders or train/ val/ test/ of class folders: move one of the two away"
        )


def _folders_of_parts(deep: Sequence[str]) -> list[str]:
    """Return the folders with sub-folders that are parts. A class may be called «train», or «train_station»."""
    parted = sorted(top for top in deep if part_of(top))
    mentioned = sorted(top for top in deep if part_in(top))
    return mentioned if not parted and len({part_in(top) for top in mentioned}) > 1 else parted


def _class_first(tops: dict[str, list[Levels]], where: str) -> _LevelPlan | None:
    """Return the plan for class folders that each hold their parts; None if none does. Raise DataError if some do."""
    inner = {top: _inner_folders(below) for top, below in tops.items()}
    holding = sorted(top for top in tops if _holds_parts(inner[top], tops[top]))
    if not holding:
        return None
    names = sorted(set().union(*inner.values()))
    below = list(chain.from_iterable(tops.values()))
    if not all(len(levels) > 1 and part_of(levels[0]) for levels in below):
        first = holding[0]
        raise DataError(
            f"{readable(first)}/ in {where} holds {_folders(sorted(inner[first]))}, which look like parts, but not "
            f"every class folder holds nothing but parts: {_WAY_OUT}, each with its class folders"
        )
    if all(len(levels) > 2 for levels in below):
        raise DataError(
            f"{where} holds {_folders(sorted(tops))}, each with {_folders(names)} of more folders: this looks like "
            "several data sets; give one of them"
        )
    parts = _require_clear_parts({name: part_of(name) for name in names}, where)
    shown = ", ".join(f"{name}/ is {part}" for name, part in parts.items())
    return _LevelPlan(0, 1, parts, (f"each class folder holds its parts: {shown}",))


def _inner_folders(below: Sequence[Levels]) -> set[str]:
    return {levels[0] for levels in below if len(levels) > 1}


def _holds_parts(inner: set[str], below: Sequence[Levels]) -> bool:
    parts = {name: part for name in inner if (part := part_of(name))}
    only = len(parts) == len(inner) and all(len(levels) > 1 for levels in below)
    return bool(parts) and (only or len(set(parts.values())) > 1)


def _refuse_same_folders(tops: dict[str, list[Levels]], where: str) -> None:
    """Raise DataError for folders that hold only folders and share their names: parts under unknown names."""
    inner = {
        top: {class_name(levels[0], where).casefold(): levels[0] for levels in below}
        for top, below in tops.items()
        if all(len(levels) > 1 for levels in below)
    }
    tally = Counter(name for names in inner.values() for name in names)
    if len(tally) < 2:
        return
    if alike := _alike_folders(inner):
        shared = sorted(name for name in inner[alike[0]].values() if tally[name.casefold()] > 1)
        raise DataError(
            f"{_folders(alike)} in {where} hold the same folders ({shortened(shared)}): looks like parts called "
            f"{shortened(alike)}: {_WAY_OUT}; or, if they are classes, move their images up into them"
        )


def _alike_folders(inner: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the folders that share more than half of their sub-folders with another one, sorted."""
    alike = set()
    for one, other in combinations(inner, 2):
        if 2 * len(inner[one].keys() & inner[other].keys()) > min(len(inner[one]), len(inner[other])):
            alike |= {one, other}
    return sorted(alike)


def _refuse_inner_parts(tree: _Tree, plan: _LevelPlan) -> None:
    """Raise DataError if several parts lie inside a class."""
    found: dict[str, dict[Meaning, str]] = defaultdict(dict)
    for levels in tree.images:
        for depth in range(plan.depth, len(levels) - 1):
            if meaning := part_of(levels[depth]):
                found[levels[plan.class_level]][meaning] = "/".join(levels[: depth + 1])
    for name, parts in found.items():
        if len(parts) > 1:
            raise DataError(
                f"class folder {readable(name)}/ in {tree.where} holds {_folders(sorted(parts.values()))}, which look "
                f"like parts: {_WAY_OUT}, each with its class folders"
            )


def _raw_classes(tree: _Tree, plan: _LevelPlan) -> dict[str, str]:
    """Return name of a class folder -> name of the class, for every class folder, including empty ones."""
    level = plan.class_level
    raw = {levels[level] for levels in tree.images}
    for levels in tree.folders:
        if len(levels) == level + 1 and (level == 0 or levels[0] in (plan.parts or {}) or part_of(levels[0])):
            raw.add(levels[level])
    return {name: class_name(name, tree.where) for name in raw}


def _nested(tree: _Tree, plan: _LevelPlan) -> list[str]:
    """Return one line on the sub-folders that were read as part of their class."""
    inner: dict[str, set[str]] = defaultdict(set)
    for levels in tree.images:
        if len(levels) > plan.depth + 1:
            inner[levels[plan.class_level]].add(levels[plan.depth])
    if not inner:
        return []
    shown = [f"{name} ({shortened(sorted(names))})" for name, names in sorted(inner.items())]
    return [f"sub-folders are read as part of their class: {shortened(shown)}"]


def _folders(names: Sequence[str]) -> str:
    return readable(shortened([f"{name}/" for name in names]))

"""How paths become a listing: class folders, or train/ val/ test/ of class folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpo.data.dataset import PartName
from hpo.data.records import PART_OF, SUFFIXES, Listing, Record
from hpo.errors import DataError


def arrange(files: Sequence[str], folders: Iterable[str], where: str, *, prefix: str = "") -> Listing:
    """The listing of image paths `files`, in their order, with `/` between their parts; `folders` may be empty ones.

    `where` names the data set in messages; `prefix` goes before every path to make a record's name.
    """
    if not files:
        raise DataError(f"{where} has no images: put {', '.join(SUFFIXES)} files into one folder per class")
    depth = 1 if _has_parts(files, where) else 0
    _refuse_loose(files, depth, where)
    classes = _classes(files, folders, depth)
    number = {name: position for position, name in enumerate(classes)}
    records = tuple(
        Record(prefix + file, number[file.split("/")[depth]], _part(file) if depth else None) for file in files
    )
    return Listing(classes, records)


def _part(file: str) -> PartName | None:
    return PART_OF.get(file.split("/", 1)[0].lower())


def _has_parts(files: Sequence[str], where: str) -> bool:
    """Whether the first level is train/ val/ test/. A class may be called «train» if its images lie directly in it."""
    inside = [file for file in files if "/" in file]
    parted = [file for file in inside if _part(file)]
    others = [file for file in inside if not _part(file)]
    if parted and not others:
        return True
    deep = next((file for file in parted if file.count("/") > 1), None)
    if deep and others:
        raise DataError(
            f"{where} holds {deep.split('/')[0]}/ beside {others[0].split('/')[0]}/, but must hold "
            "either class folders or train/ val/ test/ of class folders: move one of the two away"
        )
    return False


def _refuse_loose(files: Sequence[str], depth: int, where: str) -> None:
    loose = next((file for file in files if file.count("/") <= depth), None)
    if loose:
        raise DataError(
            f"{loose} in {where} lies in no class folder, but every image must: move it into its class, or away"
        )


def _classes(files: Sequence[str], folders: Iterable[str], depth: int) -> tuple[str, ...]:
    """Sorted names of the class folders; without parts, every folder of the first level is one."""
    names = {file.split("/")[depth] for file in files}
    for folder in folders:
        levels = folder.split("/")
        if len(levels) == depth + 1 and (not depth or _part(folder)):
            names.add(levels[depth])
    return tuple(sorted(names))

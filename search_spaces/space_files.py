"""Search spaces from YAML files: the shipped catalog and a user's own.

    extends: standard                      # another space, by name or by path; optional
    summary: one line
    seed: "002"                            # the seed system that it reproduces; optional
    fixed:
      image_size: 128
      phase1.epochs: 2                     # head only, then everything; without `epochs` the run has the phases' sum
      phase1.unfreeze_depth: 0
      phase2.epochs: 10
    dimensions:
      optimiser: {type: choice, choices: [adamw, sgd]}
      learning_rate:                       # several variants, of which one exists at a time
        - {type: float, low: 1e-4, high: 1e-2, log: true, when: {optimiser: adamw}}
        - {type: float, low: 1e-2, high: 1, log: true, when: {optimiser: sgd}}
    points: [{optimiser: adamw, learning_rate: 4e-3}]

Fixed values and dimensions of a file replace inherited ones. Points are those of the file if it has any, else the
inherited ones that stay valid. In YAML as read here `1e-4` is a number, and a repeated key is an error. Every error
names file, key and rule in one line.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from search_spaces.errors import SpaceError
from search_spaces.fields import one_of
from search_spaces.space import SearchSpace, dimensions_from_dict, fixed_values


class _Loader(yaml.SafeLoader):
    """SafeLoader with the floats of YAML 1.2 and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a dict; refuse a repeated key, of which SafeLoader would take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# YAML 1.2.2, 10.3.2: PyYAML follows 1.1, in which a float needs a dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> object:
    """Read the file as plain dicts, lists and scalars; SpaceError, without the path, if it cannot be read."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        return loader.get_single_data()
    except OSError as error:
        raise SpaceError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpaceError(f"is not a text file in UTF-8 (byte {error.start})") from None
    except yaml.YAMLError as error:
        raise SpaceError(_problem(error)) from None


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "is not YAML"
    return f"{where}{problem}"


_CATALOG = Path(__file__).parent / "catalog"

_KEYS = ("extends", "summary", "seed", "fixed", "dimensions", "points")


def catalog() -> list[SearchSpace]:
    """Return the shipped spaces, sorted by name."""
    return [load_space(name) for name in space_names()]


def load_space(name_or_path: str | Path) -> SearchSpace:
    """Return the shipped space of that name, or the one in a file: a path with a folder, or ending in .yaml or .yml.

    Raises SpaceError with the file as `source` for everything that is wrong with it.
    """
    return _load(_find(str(name_or_path), Path()), ())


def earlier_edition(name: str, since: str = "") -> SearchSpace | None:
    """Return the shipped space as it was before it changed, for studies from then; None if it did not change.

    `since` names a later edition, as `symmetry`: the one from when that became a field until the next change.
    """
    path = _CATALOG / "earlier" / since / f"{name}.yaml"
    return _load(path, ()) if path.is_file() else None


def space_names() -> list[str]:
    """Return the names of the shipped spaces, sorted."""
    return sorted(path.stem for path in _CATALOG.glob("*.yaml"))


def _find(name: str, folder: Path) -> Path:
    """Return the file of a space; a relative path starts at `folder`."""
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"} or path.name != name:
        return folder / path
    try:
        one_of(name, space_names(), name, "space")
    except SpaceError as error:
        raise SpaceError(f"{error} (or give the path of a .yaml file)") from None
    return _CATALOG / f"{name}.yaml"


def _load(path: Path, above: tuple[Path, ...]) -> SearchSpace:
    """Load the space in `path`, which the files `above` extend, the nearest last."""
    with _source(path.name if path.parent == _CATALOG else str(path)):
        if not path.exists():
            raise SpaceError(f"no such file; the spaces that ship are {', '.join(space_names())}")
        chain = (*above, path.resolve())
        if path.resolve() in above:
            raise SpaceError(f"extends: {' extends '.join(file.name for file in chain)}, which is a cycle")
        document = _document(path)
        base = SearchSpace(path.stem)
        if document["extends"] is not None:
            base = _load(_base(document["extends"], path.parent), chain)
        return _space(document, path.stem, base)


@contextmanager
def _source(source: str) -> Iterator[None]:
    """Name the file in a SpaceError raised inside, unless it names one."""
    try:
        yield
    except SpaceError as error:
        if error.source:
            raise
        raise SpaceError(str(error), source=source) from None


def _base(name: object, folder: Path) -> Path:
    if not isinstance(name, str):
        raise SpaceError(f"extends is {name!r}, but must be the name or the path of a space")
    try:
        return _find(name, folder)
    except SpaceError as error:
        raise SpaceError(f"extends is {name!r}, but {error}") from None


def _document(path: Path) -> dict[str, Any]:
    """Return the file's content with every key, None for a missing one."""
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise SpaceError(
            f"is {'empty' if content is None else _short(content)}, but must be a mapping with {', '.join(_KEYS)}"
        )
    for key in content:
        one_of(key, _KEYS, str(key))
    return {key: content.get(key) for key in _KEYS}


def _space(document: Mapping[str, Any], name: str, base: SearchSpace) -> SearchSpace:
    space = base.extended(
        fixed_values(_mapping(document, "fixed")),
        dimensions_from_dict(_mapping(document, "dimensions")),
        _points(document["points"]),
    )
    summary = _text(document, "summary") or (f"extends {base.name}" if document["extends"] else "")
    return replace(space, name=name, summary=summary, seed=_text(document, "seed"))


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document[key]
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpaceError(f"{key} is {_short(value)}, but must be a mapping")
    return value


def _points(value: object) -> tuple[Mapping[str, Any], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise SpaceError(f"points is {_short(value)}, but must be a list of mappings")
    return tuple(value)


def _text(document: Mapping[str, Any], key: str) -> str | None:
    value = document[key]
    if value is not None and not isinstance(value, str):
        raise SpaceError(f"{key} is {value!r}, but must be text; put it in quotes")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

"""YAML as people write it: `1e-4` is a number, a key given twice is an error, and an error has one line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from search_spaces.errors import SpaceError


class _Loader(yaml.SafeLoader):
    """SafeLoader with the floats of YAML 1.2 and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A dict; a key that was given twice is refused, where SafeLoader would take the last."""
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
    """What the file holds, as plain dicts, lists and scalars; SpaceError, without the path, when it cannot be read."""
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

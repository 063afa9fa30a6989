"""The search space that the user asks for: a name or a file, with a backbone, weights and fixed values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpo.errors import UsageError
from search_spaces import SearchSpace, check_given, load_space, parse_value


def resolve_space(
    name: str,
    *,
    backbone: str | None = None,
    weights: Path | None = None,
    fixed: Iterable[str] = (),
    edition: SearchSpace | None = None,
) -> SearchSpace:
    """Return the space `name` with `key=value` texts, `backbone` and `weights` fixed in it.

    Weights that name their architecture (in a .json beside them) choose the backbone when nothing else does. UsageError
    where the space names another backbone, or starts from random weights. An `edition` of the space takes the place of
    today's.
    """
    space = edition or load_space(name)
    values = assignments(fixed)
    if backbone is not None:
        _refuse_backbone_of_baseline(backbone, space)
        _set_once("--backbone ", backbone, values, "backbone")
    if weights is not None:
        _set_once("--weights ", str(weights.resolve()), values, "weights")
        _require_pretrained(weights, space, values)
        _choose_backbone(weights, space, values)
    chosen = space.with_fixed(values)
    check_given(values, chosen.fixed, chosen.dimensions)
    return chosen


def _refuse_backbone_of_baseline(backbone: str, space: SearchSpace) -> None:
    from hpo.models.baselines import is_baseline

    if is_baseline(str(space.fixed.get("backbone"))) and backbone != space.fixed["backbone"]:
        raise UsageError(f"--backbone {backbone}: {space.name} is a baseline and no recipe; name another --space")


def _require_pretrained(weights: Path, space: SearchSpace, values: dict[str, Any]) -> None:
    if values.get("pretrained", True) is not True:
        raise UsageError(f"--weights {weights} contradicts --set pretrained=false; give one of them")
    if "pretrained" not in values and space.fixed.get("pretrained") is False:
        raise UsageError(
            f"--weights {weights}: {space.name} starts from random weights; leave the option (or HPO_WEIGHTS) out, "
            "or give --set pretrained=true too"
        )
    values["pretrained"] = True


def _choose_backbone(weights: Path, space: SearchSpace, values: dict[str, Any]) -> None:
    from hpo.models import architecture_of

    theirs = architecture_of(weights)
    if theirs is None or "backbone" in values:
        return
    named = [str(name).partition(".")[0] for name in space.values("backbone")]
    if ("backbone" in space.fixed or "backbone" in space.open) and named != [theirs.partition(".")[0]]:
        raise UsageError(
            f"--weights {weights} are of {theirs}, but {space.name} names {', '.join(named)}; "
            f"give --backbone {theirs} to train that one by this recipe"
        )
    values["backbone"] = theirs


def assignments(texts: Iterable[str], option: str = "--set ") -> dict[str, Any]:
    """Return `key=value` texts as typed values; UsageError, beginning with `option`, where one key has two values."""
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise UsageError(f"{option}{text}: must be KEY=VALUE, for example {option}epochs=8")
        _set_once(f"{option}{key}=", parse_value(key, value), values, key)
    return values


def _set_once(option: str, value: Any, values: dict[str, Any], key: str) -> None:
    """Set `key` to `value`; UsageError where it has another value: neither is dropped in silence."""
    if values.setdefault(key, value) != value:
        other = "--set " if option.startswith("-") else ""
        raise UsageError(f"{option}{value} contradicts {other}{key}={values[key]}; give one of them")

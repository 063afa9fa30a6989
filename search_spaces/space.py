"""Every value that a field can have in a space.

The configurations in the corners of a space: every dimension at its lowest or its highest value.

Rules between fields (AugMix's consistency needs AugMix, a run has an epoch for each phase) are TrialConfig's. Trying
the corners before there is a study shows a combination that breaks one without knowing any of them.

SearchSpace: what may be tried, as a frozen value that asks a trial for a configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from search_spaces import conditions
from search_spaces.conditions import (
    Dimensions,
    Values,
    existing,
    parameter_name,
    phase_numbers,
    settled,
    variant_key,
    with_sum,
    without_sum,
)
from search_spaces.config import BEFORE, TrialConfig
from search_spaces.dimensions import Choice, Dimension, Float, Trial, dimension_from_dict, ranked
from search_spaces.errors import SpaceError, within
from search_spaces.fields import Scalar, canonical, default, in_order, known, one_of, plain
from search_spaces.points import check_parameters, checked, contradicted, distinct, moved, parameters


def reach(field: str, dimensions: Dimensions, fixed: Values) -> list[Scalar]:
    """The values in ascending order, of a range of floats both ends; None in a phase: what the run has."""
    if field in fixed:
        return [fixed[field]]
    variants = dimensions.get(field, ())
    # Where every variant has a condition none of them may exist.
    values = set() if any(not variant.when for variant in variants) else _otherwise(field, dimensions, fixed)
    return list(ranked(values.union(*(_values(variant) for variant in variants))))


def _otherwise(field: str, dimensions: Dimensions, fixed: Values) -> set[Scalar]:
    """What the field has where no dimension gives it: its default, but the phases' sum for the epochs of the run."""
    phases = phase_numbers([*fixed, *dimensions]) if field == "epochs" else []
    sums = {0}
    for phase in phases:
        # None: the phase does not exist in every trial.
        epochs = [int(value or 0) for value in reach(f"phase{phase}.epochs", dimensions, fixed)]
        sums = {total + more for total in sums for more in epochs}
    return {total or default(field) for total in sums}


def _values(dimension: Dimension) -> set[Scalar]:
    if isinstance(dimension, Choice):
        return set(dimension.choices)
    if isinstance(dimension, Float):
        return {dimension.low, dimension.high}
    return set(range(dimension.low, dimension.high + 1, dimension.step or 1))


Corner: TypeAlias = Callable[[Dimension], Scalar]


def lowest(dimension: Dimension) -> Scalar:
    """The least value of a range; of choices too, None before all others."""
    return _ends(dimension)[0]


def highest(dimension: Dimension) -> Scalar:
    """The greatest value."""
    return _ends(dimension)[-1]


def filled(dimensions: Dimensions, fixed: Values, wanted: Values, corner: Corner) -> dict[str, Scalar]:
    """A value for every field that is fixed or exists: the wanted one where its dimension gives it, else the corner's.

    `dimensions` are in order, parents first.
    """
    values = dict(fixed)
    for name, variants in dimensions.items():
        variant = existing(variants, values)
        if variant is not None:
            values[name] = wanted[name] if name in wanted and variant.contains(wanted[name]) else corner(variant)
    return values


def check_corners(dimensions: Dimensions, fixed: Values, points: Sequence[Values]) -> None:
    """Raise SpaceError when a corner, one step along an edge from the lowest or the highest, or a point is none.

    That is not every combination, and it need not be: rules between fields join two of them.
    """
    TrialConfig.from_dict(filled(dimensions, fixed, {}, lowest))
    for name, value, corner in _edges(dimensions):
        try:
            TrialConfig.from_dict(filled(dimensions, fixed, {name: value}, corner))
        except SpaceError as error:
            raise SpaceError(
                f"{error}; open dimensions can meet so where {name} is {plain(value)}: "
                "give one a condition (when) or another range"
            ) from None
    for i, point in enumerate(points):
        try:
            TrialConfig.from_dict(filled(dimensions, fixed, point, lowest))
        except SpaceError as error:
            raise SpaceError(f"points[{i}]: {error}") from None


def _edges(dimensions: Dimensions) -> Iterator[tuple[str, Scalar, Corner]]:
    """Each end of each dimension, the others all at their lowest, then all at their highest."""
    for corner in (lowest, highest):
        for name, variants in dimensions.items():
            for value in dict.fromkeys(end for variant in variants for end in _ends(variant)):
                yield name, value, corner


def _ends(dimension: Dimension) -> tuple[Scalar, ...]:
    if isinstance(dimension, Choice):
        return ranked(dimension.choices)
    return dimension.low, dimension.high


@dataclass(frozen=True)
class SearchSpace:
    """Fixed values, open dimensions and known-good points over the fields of TrialConfig and of its phases.

    A field that is neither fixed nor open has TrialConfig's default, one of a phase what the run has. `symmetry` is
    always fixed: it says what is true of the images, which no search can find out. The parts are
    checked and brought into one form: values typed, dimensions parents first, conditions on fixed fields decided,
    points without what they restate, epochs that follow from the phases fixed.
    Raises SpaceError, whose message begins with the key.
    """

    name: str
    summary: str = ""
    seed: str | None = None
    """The seed system that the space reproduces, if any."""
    fixed: Values = field(default_factory=dict)
    dimensions: Dimensions = field(default_factory=dict)
    """Field -> its variants, of which at most one exists in a trial."""
    points: tuple[Values, ...] = ()

    def __post_init__(self) -> None:
        fitted = {name: _fitted(name, variants) for name, variants in self.dimensions.items()}
        fixed = with_sum(_with_symmetry(fixed_values(self.fixed), fitted), fitted)
        dimensions = _checked(fitted, fixed)
        points = [checked(p, f"points[{i}]", dimensions, fixed) for i, p in enumerate(self.points)]
        check_corners(dimensions, fixed, points)
        for name, value in {
            "fixed": MappingProxyType(fixed),
            "dimensions": MappingProxyType(dimensions),
            "points": tuple(MappingProxyType(point) for point in distinct(points)),
        }.items():
            object.__setattr__(self, name, value)

    @property
    def open(self) -> tuple[str, ...]:
        """Names of the open dimensions, parents first."""
        return tuple(self.dimensions)

    @property
    def phases(self) -> tuple[int, ...]:
        """Numbers of the phases of which a field is fixed or open."""
        return tuple(phase_numbers([*self.fixed, *self.dimensions]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides which trials the space can give.

        Name, summary and points do not; nor does the path of the weights, which may differ from host to host, nor a
        value that was a matter of course before its field was there: earlier studies keep their fingerprint.
        """
        parts = self.to_dict()
        parts["fixed"].pop("weights", None)
        parts["fixed"] = without_matters_of_course(parts["fixed"])
        content = json.dumps({key: parts[key] for key in ("fixed", "dimensions")}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def suggest(self, trial: Trial) -> TrialConfig:
        """The configuration of `trial`: every dimension that exists is asked for, parents before children."""
        values: dict[str, Scalar] = dict(self.fixed)
        for name, variants in self.dimensions.items():
            variant = existing(variants, values)
            if variant is not None:
                values[name] = variant.suggest(trial, parameter_name(name, variant, variants))
        return TrialConfig.from_dict(values, source=f"space {self.name}")

    def largest(self, wanted: Values | None = None) -> TrialConfig:
        """The configuration with every dimension at its highest, but for the `wanted` values that it can take."""
        return TrialConfig.from_dict(filled(self.dimensions, self.fixed, wanted or {}, highest))

    def values(self, field: str) -> list[Scalar]:
        """Every value that `field` can have in a trial, in ascending order; of a range of floats both ends."""
        return reach(known(field, field), self.dimensions, self.fixed)

    def searched(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a trial's optuna parameters under the names of their fields."""
        fields = {
            parameter_name(name, variant, variants): name
            for name, variants in self.dimensions.items()
            for variant in variants
        }
        return {fields[one_of(name, fields, name, "parameter")]: value for name, value in params.items()}

    def config(self, params: Mapping[str, Any]) -> TrialConfig:
        """The configuration that a trial with these optuna parameters was given."""
        return TrialConfig.from_dict({**self.fixed, **self.searched(params)}, source=f"space {self.name}")

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of open dimensions as optuna parameters, for `study.enqueue_trial`; what is left out is sampled.

        Raises SpaceError for a field that is unknown or fixed, a value that its dimension cannot give, and a dimension
        that does not exist under the other values.
        """
        for name in values:
            if known(name, name) in self.fixed:
                raise SpaceError(f"{name} is fixed to {self.fixed[name]!r} in this study; leave it out")
        typed = {name: canonical(name, value, name) for name, value in values.items()}
        return parameters(checked(typed, "", self.dimensions, self.fixed), self.dimensions, self.fixed)

    def check_parameters(self, params: Mapping[str, Any]) -> None:
        """Raise SpaceError where optuna parameters that a trial was given are none that the space can give."""
        check_parameters(params, self.dimensions, self.fixed)

    def enqueue_points(self) -> list[dict[str, Any]]:
        """The points as optuna parameters, for `study.enqueue_trial`; what a point leaves out is sampled."""
        return [parameters(point, self.dimensions, self.fixed) for point in self.points]

    def with_fixed(self, values: Mapping[str, Any]) -> SearchSpace:
        """This space with some fields fixed: their dimensions go, conditions on them are decided, points follow.

        A value may lie outside the dimension that it replaces, unless other dimensions depend on that one: they would
        be left without a range.
        """
        return self.extended(fixed_values(values, key=""))

    def extended(
        self, fixed: Values, dimensions: Dimensions | None = None, points: tuple[Values, ...] | None = None
    ) -> SearchSpace:
        """This space with fields fixed or opened anew, and other points; without `points`, what still holds of its own.

        What is inherited gives way: conditions that can no longer hold go, and so does what depended on them;
        epochs that are the sum of the phases' follow these. Points that contradict no fixed value come first.
        """
        own = dimensions or {}
        conditions.check_dependants(self.dimensions, fixed, own)
        known_so_far = without_sum(self.fixed, self.dimensions, changed={*fixed, *own})
        all_fixed = {n: v for n, v in {**known_so_far, **fixed}.items() if n in fixed or n not in own}
        inherited = {n: v for n, v in self.dimensions.items() if n not in all_fixed and n not in own}
        possible = settled({**inherited, **own}, all_fixed)
        merged = {**{n: possible[n] for n in inherited if n in possible}, **own}
        space = replace(self, fixed=all_fixed, dimensions=merged, points=points or ())
        if points is not None:
            return space
        old, new = (self.dimensions, self.fixed), (space.dimensions, space.fixed)
        untouched_first = sorted(self.points, key=lambda point: contradicted(point, space.fixed))
        return replace(space, points=tuple(moved(point, old, new) for point in untouched_first))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {
            "name": self.name,
            "summary": self.summary,
            "seed": self.seed,
            "fixed": dict(self.fixed),
            "dimensions": {n: [v.to_dict() for v in variants] for n, variants in self.dimensions.items()},
            "points": [dict(point) for point in self.points],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space that `to_dict` gave, now or in an earlier version, when every space had the values in BEFORE."""
        dimensions = dimensions_from_dict(values["dimensions"])
        fixed = {**BEFORE, **values["fixed"]}
        return cls(**{**values, "fixed": fixed, "dimensions": dimensions, "points": tuple(values["points"])})


def without_matters_of_course(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those that were a matter of course before their fields were there."""
    return {name: value for name, value in values.items() if name not in BEFORE or BEFORE[name] != value}


def _with_symmetry(fixed: Values, open_fields: Dimensions) -> dict[str, Scalar]:
    """`fixed` with `symmetry`: what it says, else none; SpaceError where it is open."""
    if "symmetry" in open_fields:
        raise SpaceError(
            "dimensions.symmetry is open, but must be fixed: it says what leaves the labels of the images true, and "
            "belongs under fixed"
        )
    return in_order({"symmetry": default("symmetry"), **fixed})


def fixed_values(values: Mapping[str, Any], key: str = "fixed") -> dict[str, Scalar]:
    """Field -> typed value in the order of the fields; SpaceError at `key` for an unknown field or a wrong value."""
    prefix = f"{key}." if key else ""
    ours = in_order({known(name, f"{prefix}{name}"): value for name, value in values.items()})
    return {name: canonical(name, value, f"{prefix}{name}") for name, value in ours.items()}


def dimensions_from_dict(values: Mapping[str, Any]) -> dict[str, tuple[Dimension, ...]]:
    """Field -> variants from `{field: {…} or [{…}, …]}`, each valid for its field; SpaceError names the key."""
    ours = {known(name, f"dimensions.{name}", "dimension"): given for name, given in values.items()}
    return {name: _fitted(name, _variants(name, given)) for name, given in ours.items()}


def _variants(name: str, given: object) -> tuple[Dimension, ...]:
    entries = given if isinstance(given, list) else [given]
    variants: list[Dimension] = []
    for i, entry in enumerate(entries):
        key = f"dimensions.{variant_key(name, i, len(entries))}"
        if not isinstance(entry, Mapping):
            raise SpaceError(f"{key} is {entry!r}, but must be a mapping with type, and low and high or choices")
        with within(key):
            variants.append(dimension_from_dict(entry))
    return tuple(variants)


def _fitted(name: str, variants: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """The variants with their values in the field's own type, or SpaceError."""
    known(name, f"dimensions.{name}", "dimension")
    if not variants:
        raise SpaceError(f"dimensions.{name} is empty, but must hold at least one variant")
    fitted: list[Dimension] = []
    for i, variant in enumerate(variants):
        with within(f"dimensions.{variant_key(name, i, len(variants))}"):
            fitted.append(variant.fitted(name))
    return tuple(fitted)


def _checked(dimensions: Dimensions, fixed: Values) -> dict[str, tuple[Dimension, ...]]:
    """Fitted dimensions in their one form, or SpaceError."""
    for name in dimensions.keys() & fixed.keys():
        raise SpaceError(f"dimensions.{name} is open, but {name} is fixed to {fixed[name]!r} as well")
    conditions.check(dimensions, fixed)
    parents_first = settled(dimensions, fixed)
    return {name: tuple(sorted(variants, key=_form)) for name, variants in parents_first.items()}


def _form(variant: Dimension) -> str:
    """What variants are sorted by: first when they exist."""
    return json.dumps([dict(variant.when), variant.to_dict()], sort_keys=True)

"""SearchSpace: what may be tried, as a frozen value that asks a trial for a configuration.

TrialConfig knows the rules between fields (AugMix's consistency loss needs AugMix; a run has an epoch for each phase).
A space tries its extreme configurations, every dimension at its lowest or highest value, before a study exists, and so
finds a combination that breaks a rule without knowing the rules.
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
    simplified,
    variant_key,
    with_sum,
    without_sum,
)
from search_spaces.config import ADDED_DEFAULTS, FORMER_DEFAULTS, TrialConfig
from search_spaces.dimensions import Choice, Dimension, Float, Trial, dimension_from_dict, ranked
from search_spaces.errors import SpaceError, within
from search_spaces.fields import Scalar, canonical, default, in_order, known, one_of, plain
from search_spaces.points import carried_over, check_parameters, checked, contradicted, distinct, parameters

Extreme: TypeAlias = Callable[[Dimension], Scalar]


@dataclass(frozen=True)
class SearchSpace:
    """Fixed values, open dimensions and known-good points over the fields of TrialConfig and of its phases.

    A field that is neither fixed nor open has the default of TrialConfig; a field of a phase is inherited from the run.
    `symmetry` is always fixed: it is a fact about the images, which a search cannot find. The parts are checked and
    normalised: values typed, dimensions parents first, conditions on fixed fields decided, points without fixed
    values, epochs fixed if they follow from the phases. Raises SpaceError, whose message begins with the key.
    """

    name: str
    summary: str = ""
    seed: str | None = None
    """The seed system that the space reproduces, if any."""
    fixed: Values = field(default_factory=dict)
    dimensions: Dimensions = field(default_factory=dict)
    """Field -> its variants, of which at most one exists in a trial."""
    points: tuple[Values, ...] = ()
    assumes_symmetry: bool = field(default=False, compare=False)
    """Whether `symmetry` has its default because neither file nor user gave one, so that a measurement may decide."""

    def __post_init__(self) -> None:
        fitted = {name: _fitted(name, variants) for name, variants in self.dimensions.items()}
        fixed = with_sum(_with_symmetry(fixed_values(self.fixed), fitted), fitted)
        dimensions = _checked(fitted, fixed)
        points = [checked(p, f"points[{i}]", dimensions, fixed) for i, p in enumerate(self.points)]
        check_extremes(dimensions, fixed, points)
        for name, value in {
            "fixed": MappingProxyType(fixed),
            "dimensions": MappingProxyType(dimensions),
            "points": tuple(MappingProxyType(point) for point in distinct(points)),
            "assumes_symmetry": self.assumes_symmetry or "symmetry" not in self.fixed,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def open(self) -> tuple[str, ...]:
        """The names of the open dimensions, parents first."""
        return tuple(self.dimensions)

    @property
    def phases(self) -> tuple[int, ...]:
        """The numbers of the phases with a fixed or open field."""
        return tuple(phase_numbers([*self.fixed, *self.dimensions]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides which trials the space can give.

        Left out are name, summary and points, the path of the weights, which may differ between hosts, and values that
        equal the behaviour from before their field existed, so that earlier studies keep their fingerprint.
        """
        parts = self.to_dict()
        parts["fixed"].pop("weights", None)
        parts["fixed"] = without_former_defaults(parts["fixed"])
        content = json.dumps({key: parts[key] for key in ("fixed", "dimensions")}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def suggest(self, trial: Trial) -> TrialConfig:
        """Ask `trial` for every dimension that exists, parents before children; return the configuration."""
        values: dict[str, Scalar] = dict(self.fixed)
        for name, variants in self.dimensions.items():
            variant = existing(variants, values)
            if variant is not None:
                values[name] = variant.suggest(trial, parameter_name(name, variant, variants))
        return TrialConfig.from_dict(values, source=f"space {self.name}")

    def largest(self, wanted: Values | None = None) -> TrialConfig:
        """Return the configuration with every dimension at its highest, except for `wanted` values that it can take."""
        return TrialConfig.from_dict(filled(self.dimensions, self.fixed, wanted or {}, highest))

    def values(self, field: str) -> list[Scalar]:
        """Return every value that `field` can have in a trial, ascending; of a range of floats both ends."""
        return possible_values(known(field, field), self.dimensions, self.fixed)

    def searched(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a trial's optuna parameters under the names of their fields."""
        fields = {
            parameter_name(name, variant, variants): name
            for name, variants in self.dimensions.items()
            for variant in variants
        }
        return {fields[one_of(name, fields, name, "parameter")]: value for name, value in params.items()}

    def config(self, params: Mapping[str, Any]) -> TrialConfig:
        """Return the configuration of the trial with these optuna parameters."""
        return TrialConfig.from_dict({**self.fixed, **self.searched(params)}, source=f"space {self.name}")

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values of open dimensions as optuna parameters, for `study.enqueue_trial`; omitted ones are sampled.

        Raises SpaceError for a field that is unknown or fixed, a value that its dimension cannot give, and a dimension
        that does not exist under the other values.
        """
        for name in values:
            if known(name, name) in self.fixed:
                raise SpaceError(f"{name} is fixed to {self.fixed[name]!r} in this study; leave it out")
        typed = {name: canonical(name, value, name) for name, value in values.items()}
        return parameters(checked(typed, "", self.dimensions, self.fixed), self.dimensions, self.fixed)

    def check_parameters(self, params: Mapping[str, Any]) -> None:
        """Raise SpaceError for optuna parameters that the space cannot give."""
        check_parameters(params, self.dimensions, self.fixed)

    def enqueue_points(self) -> list[dict[str, Any]]:
        """Return the points as optuna parameters, for `study.enqueue_trial`; omitted values are sampled."""
        return [parameters(point, self.dimensions, self.fixed) for point in self.points]

    def with_fixed(self, values: Mapping[str, Any]) -> SearchSpace:
        """Return this space with some fields fixed: their dimensions are removed and conditions on them decided.

        A value may lie outside the dimension that it replaces, unless other dimensions depend on that dimension: they
        would have no range.
        """
        return self.extended(fixed_values(values, key=""))

    def extended(
        self, fixed: Values, dimensions: Dimensions | None = None, points: tuple[Values, ...] | None = None
    ) -> SearchSpace:
        """Return this space with more fixed fields and dimensions, and `points`, else its own that stay valid.

        New values replace inherited ones: conditions that can no longer hold are removed with their variants, and
        epochs that are the sum of the phases are updated. Points that contradict no fixed value come first.
        """
        own = dimensions or {}
        conditions.check_dependants(self.dimensions, fixed, own)
        all_fixed = self._fixed_with(fixed, own)
        inherited = {n: v for n, v in self.dimensions.items() if n not in all_fixed and n not in own}
        possible = simplified({**inherited, **own}, all_fixed)
        merged = {**{n: possible[n] for n in inherited if n in possible}, **own}
        assumed = self.assumes_symmetry and "symmetry" not in fixed
        space = replace(self, fixed=all_fixed, dimensions=merged, points=points or (), assumes_symmetry=assumed)
        return space if points is not None else replace(space, points=self._points_for(space))

    def _fixed_with(self, fixed: Values, own: Dimensions) -> dict[str, Scalar]:
        """Return the fixed values with `fixed`, without those of the fields that `own` opens."""
        inherited = without_sum(self.fixed, self.dimensions, changed={*fixed, *own})
        return {n: v for n, v in {**inherited, **fixed}.items() if n in fixed or n not in own}

    def _points_for(self, space: SearchSpace) -> tuple[Values, ...]:
        """Return what of the points is valid in `space`, which extends this one; uncontradicted points first."""
        old, new = (self.dimensions, self.fixed), (space.dimensions, space.fixed)
        untouched_first = sorted(self.points, key=lambda point: contradicted(point, space.fixed))
        return tuple(carried_over(point, old, new) for point in untouched_first)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, which `from_dict` reads."""
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
        """Read what `to_dict` returned, in this version or in one from before the fields in FORMER_DEFAULTS."""
        dimensions = dimensions_from_dict(values["dimensions"])
        fixed = {**FORMER_DEFAULTS, **values["fixed"]}
        return cls(**{**values, "fixed": fixed, "dimensions": dimensions, "points": tuple(values["points"])})


def without_former_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without those that equal the behaviour from before their field existed."""
    former = {**FORMER_DEFAULTS, **ADDED_DEFAULTS}
    return {name: value for name, value in values.items() if name not in former or former[name] != value}


def _with_symmetry(fixed: Values, open_fields: Dimensions) -> dict[str, Scalar]:
    """Return `fixed` with `symmetry`, `none` if it has none; SpaceError if symmetry is open."""
    if "symmetry" in open_fields:
        raise SpaceError(
            "dimensions.symmetry is open, but must be fixed: it says what leaves the labels of the images true, and "
            "belongs under fixed"
        )
    return in_order({"symmetry": default("symmetry"), **fixed})


def fixed_values(values: Mapping[str, Any], key: str = "fixed") -> dict[str, Scalar]:
    """Return field -> typed value, in order; SpaceError at `key` for an unknown field or a wrong value."""
    prefix = f"{key}." if key else ""
    ours = in_order({known(name, f"{prefix}{name}"): value for name, value in values.items()})
    return {name: canonical(name, value, f"{prefix}{name}") for name, value in ours.items()}


def dimensions_from_dict(values: Mapping[str, Any]) -> dict[str, tuple[Dimension, ...]]:
    """Read field -> variants from `{field: {…} or [{…}, …]}`, each valid for its field; SpaceError names the key."""
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
    parents_first = simplified(dimensions, fixed)
    return {name: tuple(sorted(variants, key=_form)) for name, variants in parents_first.items()}


def _form(variant: Dimension) -> str:
    """Return the sort key of a variant: existing variants first."""
    return json.dumps([dict(variant.when), variant.to_dict()], sort_keys=True)


def possible_values(field: str, dimensions: Dimensions, fixed: Values) -> list[Scalar]:
    """Return the possible values of a field, ascending; of a range of floats both ends; None is inherited."""
    if field in fixed:
        return [fixed[field]]
    variants = dimensions.get(field, ())
    # If every variant has a condition, there may be trials in which none exists.
    values = set() if any(not variant.when for variant in variants) else _otherwise(field, dimensions, fixed)
    return list(ranked(values.union(*(_values(variant) for variant in variants))))


def _otherwise(field: str, dimensions: Dimensions, fixed: Values) -> set[Scalar]:
    """Return the values without a dimension: the default, or for the run's epochs each possible sum of the phases."""
    phases = phase_numbers([*fixed, *dimensions]) if field == "epochs" else []
    sums = {0}
    for phase in phases:
        # None means that the phase does not exist in every trial.
        epochs = [int(value or 0) for value in possible_values(f"phase{phase}.epochs", dimensions, fixed)]
        sums = {total + more for total in sums for more in epochs}
    return {total or default(field) for total in sums}


def _values(dimension: Dimension) -> set[Scalar]:
    if isinstance(dimension, Choice):
        return set(dimension.choices)
    if isinstance(dimension, Float):
        return {dimension.low, dimension.high}
    return set(range(dimension.low, dimension.high + 1, dimension.step or 1))


def lowest(dimension: Dimension) -> Scalar:
    """Return the least value of a dimension; among choices None comes before all others."""
    return _ends(dimension)[0]


def highest(dimension: Dimension) -> Scalar:
    """Return the greatest value of a dimension."""
    return _ends(dimension)[-1]


def filled(dimensions: Dimensions, fixed: Values, wanted: Values, extreme: Extreme) -> dict[str, Scalar]:
    """Return a value for every fixed or existing field: the wanted one if its dimension can give it, else the extreme.

    `dimensions` are in order, parents first.
    """
    values = dict(fixed)
    for name, variants in dimensions.items():
        variant = existing(variants, values)
        if variant is not None:
            values[name] = wanted[name] if name in wanted and variant.contains(wanted[name]) else extreme(variant)
    return values


def check_extremes(dimensions: Dimensions, fixed: Values, points: Sequence[Values]) -> None:
    """Raise SpaceError if an extreme configuration, one with a single other value, or a point breaks a rule.

    These are not all combinations; they suffice because a rule joins two fields.
    """
    TrialConfig.from_dict(filled(dimensions, fixed, {}, lowest))
    for name, value, extreme in _edges(dimensions):
        try:
            TrialConfig.from_dict(filled(dimensions, fixed, {name: value}, extreme))
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


def _edges(dimensions: Dimensions) -> Iterator[tuple[str, Scalar, Extreme]]:
    """Yield each end of each dimension, with all others at their lowest, then with all others at their highest."""
    for extreme in (lowest, highest):
        for name, variants in dimensions.items():
            for value in dict.fromkeys(end for variant in variants for end in _ends(variant)):
                yield name, value, extreme


def _ends(dimension: Dimension) -> tuple[Scalar, ...]:
    if isinstance(dimension, Choice):
        return ranked(dimension.choices)
    return dimension.low, dimension.high

"""Roster: configurations to be trained one by one, each exactly once; what a comparison or an ablation is made of.

It stands where a SearchSpace stands: a study over it has one trial per entry, whose one parameter names the entry.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

from search_spaces.config import TrialConfig
from search_spaces.dimensions import Trial
from search_spaces.errors import SpaceError
from search_spaces.fields import Scalar
from search_spaces.space import SearchSpace, without_matters_of_course

RUN = "run"
"""The optuna parameter that names an entry."""


@dataclass(frozen=True)
class PlannedTrial:
    """One run to be made."""

    name: str
    config: TrialConfig
    seed: int = 0
    """Entries of one seed share initialisation, order and augmentation as far as their configurations allow: runs that
    differ in one part alone can be compared in pairs."""


@dataclass(frozen=True)
class TrialList:
    """Named runs, in the order in which they are made. SpaceError for a name twice, and for two files of weights."""

    name: str
    summary: str
    entries: tuple[PlannedTrial, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise SpaceError("entries is empty, but must hold at least one run")
        name, count = Counter(entry.name for entry in self.entries).most_common(1)[0]
        if count > 1:
            raise SpaceError(f"entries: {name!r} stands there {count} times, but every run needs a name of its own")
        files = {entry.config.weights for entry in self.entries} - {None}
        if len(files) > 1:
            raise SpaceError(f"entries start from {len(files)} files of weights, but a study knows one")

    @cached_property
    def fixed(self) -> Mapping[str, Any]:
        """What all entries have in common; and the file of weights, where any entry starts from one."""
        first, *others = (entry.config.to_dict() for entry in self.entries)
        common = {name: value for name, value in first.items() if all(other[name] == value for other in others)}
        files = {entry.config.weights for entry in self.entries} - {None}
        return MappingProxyType(common | ({"weights": files.pop()} if files else {}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the runs; the name and the path of the weights do not."""
        entries = [{**self._to_dict(entry), "config": _deciding(entry.config)} for entry in self.entries]
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

    def suggest(self, trial: Trial) -> TrialConfig:
        """The configuration of the entry that `trial` is to run."""
        return self.entry({RUN: trial.suggest_categorical(RUN, [entry.name for entry in self.entries])}).config

    def entry(self, params: Mapping[str, Any]) -> PlannedTrial:
        """The entry that a trial with these parameters runs."""
        return next(entry for entry in self.entries if entry.name == params[RUN])

    def searched(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a trial, which name no field but the run."""
        return dict(params)

    def config(self, params: Mapping[str, Any]) -> TrialConfig:
        """The configuration that a trial with these parameters was given."""
        return self.entry(params).config

    def values(self, field: str) -> list[Any]:
        """Every value that a field of TrialConfig has in an entry, sorted."""
        found = {getattr(entry.config, field) for entry in self.entries}
        return sorted(found, key=lambda value: (value is not None, value))

    def check_parameters(self, params: Mapping[str, Any]) -> None:
        """Raise SpaceError where parameters that a trial was given name no run."""
        names = [entry.name for entry in self.entries]
        if set(params) - {RUN} or params.get(RUN, names[0]) not in names:
            raise SpaceError(f"{dict(params)!r} names none of the runs {', '.join(names)}")

    def enqueue_points(self) -> list[dict[str, Any]]:
        """The entries as optuna parameters, for `study.enqueue_trial`."""
        return [{RUN: entry.name} for entry in self.entries]

    def with_weights(self, path: str) -> TrialList:
        """The same runs, those that start from a file taking it from `path`."""
        moved = (
            replace(entry, config=entry.config.replace(weights=path)) if entry.config.weights else entry
            for entry in self.entries
        )
        return replace(self, entries=tuple(moved))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {"name": self.name, "summary": self.summary, "entries": [self._to_dict(e) for e in self.entries]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialList:
        """The roster that `to_dict` gave."""
        entries = (PlannedTrial(e["name"], TrialConfig.from_stored(e["config"]), e["seed"]) for e in values["entries"])
        return cls(values["name"], values["summary"], tuple(entries))

    @staticmethod
    def _to_dict(entry: PlannedTrial) -> dict[str, Any]:
        return {"name": entry.name, "config": entry.config.to_dict(), "seed": entry.seed}


def _deciding(config: TrialConfig) -> dict[str, Any]:
    """The values that decide a run, without the path of its weights."""
    return {**without_matters_of_course(config.to_dict()), "weights": config.weights is not None}


Space: TypeAlias = SearchSpace | TrialList
"""What a study may be about."""


def read_space(values: Mapping[str, Any]) -> Space:
    """The space or the roster that `to_dict` gave."""
    return TrialList.from_dict(values) if "entries" in values else SearchSpace.from_dict(values)


def with_weights(space: Space, path: str) -> Space:
    """The space with its weights at `path`."""
    return space.with_weights(path) if isinstance(space, TrialList) else space.with_fixed({"weights": path})


def trial_seed(space: Space, params: Mapping[str, Scalar], number: int) -> int:
    """What a trial's seed is derived from: its number, or the seed of its entry."""
    return space.entry(params).seed if isinstance(space, TrialList) else number

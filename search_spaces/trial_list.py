"""Trial list: configurations to be trained once each, for a comparison or an ablation.

A study may have a TrialList in place of a SearchSpace: it then has one trial per planned trial, and the only parameter
of a trial names the planned one.
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
from search_spaces.space import SearchSpace, without_former_defaults

RUN = "run"
"""The optuna parameter that names a planned trial."""


@dataclass(frozen=True)
class PlannedTrial:
    """A named configuration to be trained once."""

    name: str
    config: TrialConfig
    seed: int = 0
    """Planned trials with the same seed share initialisation, order and augmentation as far as their configurations
    allow, so that runs which differ in one part can be compared in pairs."""


@dataclass(frozen=True)
class TrialList:
    """Named configurations in the order of training. SpaceError for a repeated name, and for two files of weights."""

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
        """The values that all planned trials share, and the file of weights if one of them starts from a file."""
        first, *others = (entry.config.to_dict() for entry in self.entries)
        common = {name: value for name, value in first.items() if all(other[name] == value for other in others)}
        files = {entry.config.weights for entry in self.entries} - {None}
        return MappingProxyType(common | ({"weights": files.pop()} if files else {}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the configurations and seeds, without the list's name and the path of the weights."""
        entries = [{**self._to_dict(entry), "config": _deciding(entry.config)} for entry in self.entries]
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

    def suggest(self, trial: Trial) -> TrialConfig:
        """Return the configuration that `trial` must train."""
        return self.entry({RUN: trial.suggest_categorical(RUN, [entry.name for entry in self.entries])}).config

    def entry(self, params: Mapping[str, Any]) -> PlannedTrial:
        """Return the planned trial that these parameters name."""
        return next(entry for entry in self.entries if entry.name == params[RUN])

    def searched(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a trial; they name the planned trial and no field."""
        return dict(params)

    def config(self, params: Mapping[str, Any]) -> TrialConfig:
        """Return the configuration of the trial with these parameters."""
        return self.entry(params).config

    def values(self, field: str) -> list[Any]:
        """Return every value that a field of TrialConfig has in the list, sorted."""
        found = {getattr(entry.config, field) for entry in self.entries}
        return sorted(found, key=lambda value: (value is not None, value))

    def check_parameters(self, params: Mapping[str, Any]) -> None:
        """Raise SpaceError if the parameters of a trial name no planned trial."""
        names = [entry.name for entry in self.entries]
        if set(params) - {RUN} or params.get(RUN, names[0]) not in names:
            raise SpaceError(f"{dict(params)!r} names none of the runs {', '.join(names)}")

    def enqueue_points(self) -> list[dict[str, Any]]:
        """Return the planned trials as optuna parameters, for `study.enqueue_trial`."""
        return [{RUN: entry.name} for entry in self.entries]

    def with_weights(self, path: str) -> TrialList:
        """Return the same list; planned trials that start from a file take it from `path`."""
        changed = (
            replace(entry, config=entry.config.replace(weights=path)) if entry.config.weights else entry
            for entry in self.entries
        )
        return replace(self, entries=tuple(changed))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, which `from_dict` reads."""
        return {"name": self.name, "summary": self.summary, "entries": [self._to_dict(e) for e in self.entries]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialList:
        """Read what `to_dict` returned."""
        entries = (PlannedTrial(e["name"], TrialConfig.from_stored(e["config"]), e["seed"]) for e in values["entries"])
        return cls(values["name"], values["summary"], tuple(entries))

    @staticmethod
    def _to_dict(entry: PlannedTrial) -> dict[str, Any]:
        return {"name": entry.name, "config": entry.config.to_dict(), "seed": entry.seed}


def _deciding(config: TrialConfig) -> dict[str, Any]:
    """Return the values that decide a run, without the path of its weights."""
    return {**without_former_defaults(config.to_dict()), "weights": config.weights is not None}


Space: TypeAlias = SearchSpace | TrialList
"""The two things that a study may search: a space or a list."""


def read_space(values: Mapping[str, Any]) -> Space:
    """Read the space or trial list that `to_dict` returned."""
    return TrialList.from_dict(values) if "entries" in values else SearchSpace.from_dict(values)


def with_weights(space: Space, path: str) -> Space:
    """Return the space with its weights at `path`."""
    return space.with_weights(path) if isinstance(space, TrialList) else space.with_fixed({"weights": path})


def trial_seed(space: Space, params: Mapping[str, Scalar], number: int) -> int:
    """Return the number that a trial's seed is derived from: the trial's own, or the seed of its planned trial."""
    return space.entry(params).seed if isinstance(space, TrialList) else number

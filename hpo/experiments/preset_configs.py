"""One configuration that stands for a search space: its first known-good point, else the middle of its dimensions.

From presets and options to the runs that a comparison trains: one configuration a preset, under several seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from hpo.errors import UsageError
from hpo.experiments.model_refs import PresetRef
from hpo.search.plan import resolve_space
from search_spaces import PlannedTrial, SearchSpace, SpaceError, TrialConfig, TrialList

Scalar: TypeAlias = str | int | float | bool | None


def default_config(space: SearchSpace) -> TrialConfig:
    """The first point of `space`, and the middle of every dimension that the point leaves open.

    The middle of a range is geometric where the range is logarithmic; of choices it is the one that stands first.
    """
    points = space.enqueue_points()
    return space.suggest(_Middle(points[0] if points else {}))


@dataclass(frozen=True)
class _Middle:
    """A trial that gives known values, and the middle of a dimension where there is none."""

    known: Mapping[str, Scalar]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self.known:
            return cast(float, self.known[name])
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return round(low + step * math.floor((middle - low) / step + 0.5), 12) if step else middle

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name in self.known:
            return cast(int, self.known[name])
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return low + step * math.floor((middle - low) / step)

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return self.known[name] if name in self.known else choices[0]


@dataclass(frozen=True)
class Overrides:
    """What is asked of all presets together."""

    backbone: str | None = None
    """In place of the backbone of every preset that starts from pretrained weights."""
    weights: Path | None = None
    """What those start from."""
    fixed: tuple[str, ...] = ()
    """`key=value` texts, for every preset that can take them."""
    epochs: int | None = None


@dataclass(frozen=True)
class PresetConfig:
    """A preset as it will be trained."""

    label: str
    config: TrialConfig
    unused: tuple[tuple[str, str], ...] = ()
    """What of the wishes it cannot take, each with the reason."""


def preset_configs(presets: Sequence[PresetRef], wishes: Overrides) -> list[PresetConfig]:
    """The presets with the wishes that each can take; a change of its own goes before a wish for all.

    Raises SpaceError for a preset or a value that is wrong, UsageError for a wish that no preset can take.
    """
    recipes = [_Recipe.of(preset, wishes) for preset in presets]
    _refuse_idle("--backbone", wishes.backbone, [recipe.backbone for recipe in recipes])
    _refuse_idle("--weights", wishes.weights, [recipe.weights for recipe in recipes])
    made = [_preset_config(recipe, wishes) for recipe in recipes]
    for text in wishes.fixed:
        reasons = [dict(entrant.unused).get(text) for entrant in made]
        if made and all(reasons):
            raise UsageError(f"--set {text} fits no preset here: {reasons[0]}")
    return made


def roster(preset_configs: Sequence[PresetConfig], seeds: int, name: str = "comparison") -> TrialList:
    """Each entrant once under every seed, seed by seed, so that the first seed of all is there first."""
    runs = (
        PlannedTrial(run_name(entrant.label, seed, seeds), entrant.config, seed)
        for seed in range(seeds)
        for entrant in preset_configs
    )
    return TrialList(name, f"{len(preset_configs)} configurations under {seeds} seeds", tuple(runs))


def run_name(label: str, seed: int, seeds: int) -> str:
    """How a run is called in the study: its label, and its seed where there are several."""
    return f"{label}, seed {seed}" if seeds > 1 else label


def key(text: str) -> str:
    """The key of a `key=value` text."""
    return text.partition("=")[0].strip()


def _refuse_idle(option: str, wanted: object, given: Sequence[object]) -> None:
    """UsageError where something is wanted that no preset was given."""
    if wanted is not None and not any(given):
        raise UsageError(
            f"{option} {wanted} is for presets that start from pretrained weights and do not choose theirs, but there "
            "is none; leave it out, or say PRESET:backbone=NAME"
        )


def _preset_config(recipe: _Recipe, wishes: Overrides) -> PresetConfig:
    recipe.config(())  # what is wrong without the wishes is no wish's fault
    wanted = [text for text in wishes.fixed if key(text) not in recipe.own]
    unused = _refusals(recipe, wanted)
    config = recipe.config([text for text in wanted if text not in unused])
    return PresetConfig(recipe.preset.label, config, tuple(unused.items()))


@dataclass(frozen=True)
class _Recipe:
    """A preset with what it is given whatever else is wished."""

    preset: PresetRef
    changes: tuple[str, ...]
    backbone: str | None
    weights: Path | None

    @classmethod
    def of(cls, preset: PresetRef, wishes: Overrides) -> _Recipe:
        """A preset that starts from scratch keeps its backbone, and its own changes go before all wishes."""
        plain = cls(preset, preset.changes, None, None)
        epochs = () if wishes.epochs is None or "epochs" in plain.own else (f"epochs={wishes.epochs}",)
        pretrained = plain.config(()).pretrained
        return cls(
            preset,
            (*preset.changes, *epochs),
            wishes.backbone if pretrained and "backbone" not in plain.own else None,
            wishes.weights if pretrained and not plain.own & {"backbone", "weights"} else None,
        )

    @property
    def own(self) -> set[str]:
        """Keys that no wish changes."""
        return {key(text) for text in self.changes}

    def config(self, fixed: Iterable[str]) -> TrialConfig:
        """The configuration with these `key=value` texts; SpaceError, naming the preset, where it cannot be."""
        try:
            space = resolve_space(
                self.preset.space, backbone=self.backbone, weights=self.weights, fixed=(*self.changes, *fixed)
            )
            return default_config(space)
        except SpaceError as error:
            reason = re.sub(r"^space [^:]*: ", "", str(error)).removeprefix(f"{self.preset.space}: ")
            raise SpaceError(reason, source=self.preset.label) from None


def _refusals(recipe: _Recipe, wanted: Sequence[str]) -> dict[str, str]:
    """The texts that the preset cannot take, each with the reason; none where it takes all of them together."""
    try:
        recipe.config(wanted)
    except SpaceError:
        tried = {text: _refusal(recipe, text) for text in wanted}
        return {text: reason for text, reason in tried.items() if reason}
    return {}


def _refusal(recipe: _Recipe, text: str) -> str | None:
    try:
        recipe.config((text,))
    except SpaceError as error:
        return str(error)
    return None

"""The configurations that a comparison trains: one for each preset, under several seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from hpo.errors import UsageError
from hpo.experiments.model_refs import PresetRef
from hpo.search.resolved_space import resolve_space
from search_spaces import PlannedTrial, SearchSpace, SpaceError, TrialConfig, TrialList

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Overrides:
    """Options that apply to every preset that can take them."""

    backbone: str | None = None
    """Replaces the backbone of every preset that starts from pretrained weights."""
    weights: Path | None = None
    """Weights file for the presets that start from pretrained weights."""
    fixed: tuple[str, ...] = ()
    """`key=value` texts."""
    epochs: int | None = None


@dataclass(frozen=True)
class PresetConfig:
    """The configuration with which a preset is trained."""

    label: str
    config: TrialConfig
    unused: tuple[tuple[str, str], ...] = ()
    """(`key=value` text, reason) for every override that the preset cannot take."""


def preset_configs(presets: Sequence[PresetRef], overrides: Overrides) -> list[PresetConfig]:
    """Return the configuration of each preset; its own changes take precedence over the overrides.

    Raises SpaceError for an invalid preset or value, UsageError for an override that no preset can take.
    """
    recipes = [_Recipe.of(preset, overrides) for preset in presets]
    _check_used("--backbone", overrides.backbone, [recipe.backbone for recipe in recipes])
    _check_used("--weights", overrides.weights, [recipe.weights for recipe in recipes])
    configs = [_preset_config(recipe, overrides) for recipe in recipes]
    for text in overrides.fixed:
        reasons = [dict(config.unused).get(text) for config in configs]
        if configs and all(reasons):
            raise UsageError(f"--set {text} fits no preset here: {reasons[0]}")
    return configs


def comparison_trials(configs: Sequence[PresetConfig], seeds: int) -> TrialList:
    """Return a trial list of each configuration under every seed; all trials of the first seed come first."""
    trials = (
        PlannedTrial(run_name(config.label, seed, seeds), config.config, seed)
        for seed in range(seeds)
        for config in configs
    )
    return TrialList("comparison", f"{len(configs)} configurations under {seeds} seeds", tuple(trials))


def run_name(label: str, seed: int, seeds: int) -> str:
    """Return the name of a run in its study: the label, and the seed if there are several."""
    return f"{label}, seed {seed}" if seeds > 1 else label


def key(text: str) -> str:
    """Return the key of a `key=value` text."""
    return text.partition("=")[0].strip()


def _check_used(option: str, value: object, used: Sequence[object]) -> None:
    """Raise UsageError if the option has a value that no preset uses."""
    if value is not None and not any(used):
        raise UsageError(
            f"{option} {value} is for presets that start from pretrained weights and do not choose theirs, but there "
            "is none; leave it out, or say PRESET:backbone=NAME"
        )


def _preset_config(recipe: _Recipe, overrides: Overrides) -> PresetConfig:
    recipe.config(())  # an error of the preset itself is raised here, and not counted against an override
    texts = [text for text in overrides.fixed if key(text) not in recipe.own]
    unused = _refusals(recipe, texts)
    config = recipe.config([text for text in texts if text not in unused])
    return PresetConfig(recipe.preset.label, config, tuple(unused.items()))


@dataclass(frozen=True)
class _Recipe:
    """A preset with the changes, backbone and weights that are fixed before `Overrides.fixed` is tried."""

    preset: PresetRef
    changes: tuple[str, ...]
    backbone: str | None
    weights: Path | None

    @classmethod
    def of(cls, preset: PresetRef, overrides: Overrides) -> _Recipe:
        """Return the recipe: a preset that starts from scratch keeps its backbone, every preset its own changes."""
        plain = cls(preset, preset.changes, None, None)
        epochs = () if overrides.epochs is None or "epochs" in plain.own else (f"epochs={overrides.epochs}",)
        pretrained = plain.config(()).pretrained
        return cls(
            preset,
            (*preset.changes, *epochs),
            overrides.backbone if pretrained and "backbone" not in plain.own else None,
            overrides.weights if pretrained and not plain.own & {"backbone", "weights"} else None,
        )

    @property
    def own(self) -> set[str]:
        """Keys that no override changes."""
        return {key(text) for text in self.changes}

    def config(self, fixed: Iterable[str]) -> TrialConfig:
        """Return the configuration with these texts; raise SpaceError, which names the preset, if it is invalid."""
        try:
            space = resolve_space(
                self.preset.space, backbone=self.backbone, weights=self.weights, fixed=(*self.changes, *fixed)
            )
            return default_config(space)
        except SpaceError as error:
            reason = re.sub(r"^space [^:]*: ", "", str(error)).removeprefix(f"{self.preset.space}: ")
            raise SpaceError(reason, source=self.preset.label) from None


def _refusals(recipe: _Recipe, texts: Sequence[str]) -> dict[str, str]:
    """Return the texts that the preset cannot take, with reasons; none if it takes all of them together."""
    try:
        recipe.config(texts)
    except SpaceError:
        tried = {text: _refusal(recipe, text) for text in texts}
        return {text: reason for text, reason in tried.items() if reason}
    return {}


def _refusal(recipe: _Recipe, text: str) -> str | None:
    try:
        recipe.config((text,))
    except SpaceError as error:
        return str(error)
    return None


def default_config(space: SearchSpace) -> TrialConfig:
    """Return the first known-good point of `space`, with the middle of every dimension that the point leaves open.

    The middle is the geometric mean for a logarithmic range, and the first choice for choices.
    """
    points = space.enqueue_points()
    return space.suggest(_Middle(points[0] if points else {}))


@dataclass(frozen=True)
class _Middle:
    """A trial that suggests known values, and the middle of a dimension without one."""

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

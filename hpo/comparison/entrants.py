"""From presets and options to the runs that a comparison trains: one configuration a preset, under several seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.comparison.contestant import Preset
from hpo.comparison.representative import representative
from hpo.errors import UsageError
from hpo.search.plan import resolve_space
from search_spaces import Entry, Roster, SpaceError, TrialConfig


@dataclass(frozen=True)
class Wishes:
    """What is asked of all presets together."""

    backbone: str | None = None
    """In place of the backbone of every preset that starts from pretrained weights."""
    weights: Path | None = None
    """What those start from."""
    fixed: tuple[str, ...] = ()
    """`key=value` texts, for every preset that can take them."""
    epochs: int | None = None


@dataclass(frozen=True)
class Entrant:
    """A preset as it will be trained."""

    label: str
    config: TrialConfig
    unused: tuple[tuple[str, str], ...] = ()
    """What of the wishes it cannot take, each with the reason."""


def entrants(presets: Sequence[Preset], wishes: Wishes) -> list[Entrant]:
    """The presets with the wishes that each can take; a change of its own goes before a wish for all.

    Raises SpaceError for a preset or a value that is wrong, UsageError for a wish that no preset can take.
    """
    recipes = [_Recipe.of(preset, wishes) for preset in presets]
    _refuse_idle("--backbone", wishes.backbone, [recipe.backbone for recipe in recipes])
    _refuse_idle("--weights", wishes.weights, [recipe.weights for recipe in recipes])
    made = [_entrant(recipe, wishes) for recipe in recipes]
    for text in wishes.fixed:
        reasons = [dict(entrant.unused).get(text) for entrant in made]
        if made and all(reasons):
            raise UsageError(f"--set {text} fits no preset here: {reasons[0]}")
    return made


def roster(entrants: Sequence[Entrant], seeds: int, name: str = "comparison") -> Roster:
    """Each entrant once under every seed, seed by seed, so that the first seed of all is there first."""
    runs = (
        Entry(run_name(entrant.label, seed, seeds), entrant.config, seed)
        for seed in range(seeds)
        for entrant in entrants
    )
    return Roster(name, f"{len(entrants)} configurations under {seeds} seeds", tuple(runs))


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


def _entrant(recipe: _Recipe, wishes: Wishes) -> Entrant:
    recipe.config(())  # what is wrong without the wishes is no wish's fault
    wanted = [text for text in wishes.fixed if key(text) not in recipe.own]
    unused = _refusals(recipe, wanted)
    config = recipe.config([text for text in wanted if text not in unused])
    return Entrant(recipe.preset.label, config, tuple(unused.items()))


@dataclass(frozen=True)
class _Recipe:
    """A preset with what it is given whatever else is wished."""

    preset: Preset
    changes: tuple[str, ...]
    backbone: str | None
    weights: Path | None

    @classmethod
    def of(cls, preset: Preset, wishes: Wishes) -> _Recipe:
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
            return representative(space)
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

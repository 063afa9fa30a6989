"""Hypothesis strategies for dimensions, spaces, and trials that answer at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from search_spaces import Choice, Dimension, Float, Int, SearchSpace

CHOICES: dict[str, list[Any]] = {
    "optimiser": ["adamw", "rmsprop", "lion", "sgd", "adam", "nadam"],
    "schedule": ["constant", "cosine", "cosine-restarts", "plateau"],
    "loss": ["cross-entropy", "focal"],
    "pretrained": [True, False],
    "batch_size": [16, 32, 64, 128],
    "ema": [0.0, 0.9, 0.99],
    "phase1.optimiser": ["adamw", "lion", None],
    "phase2.schedule": ["cosine", "plateau", None],
}
FLOATS = {
    "learning_rate": (1e-6, 100.0),
    "weight_decay": (1e-6, 10.0),
    "dropout": (0.0, 0.9),
    "focal_gamma": (0.0, 10.0),
    "mixup": (0.0, 10.0),
    "phase1.unfreeze_depth": (0.0, 1.0),
    "phase2.learning_rate": (1e-6, 100.0),
}
INTS = {
    "head_layers": (0, 3),
    "head_units": (8, 8192),
    "restarts": (1, 20),
    "epochs": (1, 1000),
    "phase3.restarts": (1, 20),
}
PARENTS = {**{name: tuple(values) for name, values in CHOICES.items()}, "head_layers": (0, 1, 2, 3)}


def conditions(parents: Sequence[str] = tuple(PARENTS)) -> st.SearchStrategy[dict[str, tuple[Any, ...]]]:
    def values(names: list[str]) -> st.SearchStrategy[dict[str, tuple[Any, ...]]]:
        return st.fixed_dictionaries({name: subset(PARENTS[name]) for name in names})

    if not parents:
        return st.just({})
    return st.lists(st.sampled_from(sorted(parents)), max_size=2, unique=True).flatmap(values)


def subset(values: Sequence[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, unique=True).map(tuple)


@st.composite
def floats(draw: st.DrawFn, name: str, when: Any = None) -> Float:
    low, high = FLOATS[name]
    if draw(st.booleans()):
        first, steps = draw(st.integers(0, 4)), draw(st.integers(1, 4))
        return Float(max(first, low > 0) / 10, (max(first, low > 0) + steps) / 10, step=0.1, when=when or {})
    a, b = sorted(draw(st.lists(st.floats(low, high), min_size=2, max_size=2, unique=True)))
    return Float(a, b, log=a > 0 and draw(st.booleans()), when=when or {})


@st.composite
def ints(draw: st.DrawFn, name: str, when: Any = None) -> Int:
    low, high = INTS[name]
    a, b = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True)))
    if a > 0 and draw(st.booleans()):
        return Int(a, b, log=True, when=when or {})
    divisors = [step for step in range(1, b - a + 1) if (b - a) % step == 0]
    return Int(a, b, step=draw(st.sampled_from(divisors)), when=when or {})


def choices(name: str, when: Any = None) -> st.SearchStrategy[Choice]:
    return subset(CHOICES[name]).map(lambda values: Choice(values, when=when or {}))


def dimension(name: str, when: Any = None) -> st.SearchStrategy[Dimension]:
    if name in FLOATS:
        return floats(name, when)
    return ints(name, when) if name in INTS else choices(name, when)


def dimensions() -> st.SearchStrategy[tuple[str, Dimension]]:
    """Return a field and a dimension that suits it, with a condition or without."""
    names = st.sampled_from([*CHOICES, *FLOATS, *INTS])
    return names.flatmap(
        lambda name: conditions().flatmap(lambda when: st.tuples(st.just(name), dimension(name, when)))
    )


def takeable(given: Sequence[Dimension]) -> list[Any]:
    """Return the values that a parent of conditions can take, few enough to list."""
    values: list[Any] = []
    for one in given:
        values += one.choices if isinstance(one, Choice) else range(int(one.low), int(one.high) + 1)
    return [value for value in dict.fromkeys(values) if any(one.contains(value) for one in given)]


@st.composite
def variants(draw: st.DrawFn, name: str, parents: dict[str, list[Any]]) -> tuple[Dimension, ...]:
    """Return one variant, with a condition or without, or several that split the values of a parent between them."""
    if not parents or not draw(st.booleans()):
        return (draw(dimension(name)),)
    parent = draw(st.sampled_from(sorted(parents)))
    order = draw(st.permutations(parents[parent]))
    cut = draw(st.integers(1, len(order)))
    groups = [group for group in (order[:cut], order[cut:]) if group]
    return tuple(draw(dimension(name, {parent: tuple(group)})) for group in groups)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any valid space over some fields, conditions nested as they come."""
    names = draw(st.lists(st.sampled_from([*CHOICES, *FLOATS, *INTS]), max_size=8, unique=True))
    opened: dict[str, tuple[Dimension, ...]] = {}
    parents: dict[str, list[Any]] = {}
    for name in names:
        opened[name] = draw(variants(name, parents))
        if name in CHOICES or name == "head_layers":
            parents[name] = takeable(opened[name])
    fixed = draw(st.fixed_dictionaries({}, optional={"image_size": st.integers(16, 1024), "backbone": st.just("x")}))
    if phases := max(int(name[5]) if name.startswith("phase") else 0 for name in [*opened, ""]):
        fixed |= draw(epochs_of(phases, opened))
    space = SearchSpace("any", "a space", fixed=fixed, dimensions=opened)
    points = draw(st.lists(st.builds(lambda trial: point(space, trial), trials()), max_size=3))
    return SearchSpace("any", "a space", fixed=fixed, dimensions=opened, points=tuple(points))


@st.composite
def epochs_of(draw: st.DrawFn, phases: int, opened: dict[str, tuple[Dimension, ...]]) -> dict[str, int]:
    """Epochs for every phase, fixed or put among the `opened`; those of the run too, or left to be their sum."""
    fixed: dict[str, int] = {}
    for phase in range(1, phases + 1):
        if draw(st.booleans()):
            fixed[f"phase{phase}.epochs"] = draw(st.integers(1, 50))
        else:
            opened[f"phase{phase}.epochs"] = (Int(draw(st.integers(1, 9)), draw(st.integers(10, 20))),)
    if opened.pop("epochs", None) and draw(st.booleans()):
        opened["epochs"] = (Int(phases, draw(st.integers(10, 100))),)
    elif draw(st.booleans()):
        fixed["epochs"] = draw(st.integers(phases, 100))
    return fixed


def point(space: SearchSpace, trial: DrawnTrial) -> dict[str, Any]:
    space.suggest(trial)
    return space.searched(trial.params)


class DrawnTrial:
    """A trial whose answers hypothesis draws; it keeps them in the order in which they were asked for."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.params: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, step: Any = None, log: bool = False) -> float:
        if step:
            return self._keep(name, min(high, low + step * self._random.randint(0, round((high - low) / step))))
        return self._keep(name, min(high, max(low, self._random.uniform(low, high))))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._keep(name, low + step * self._random.randint(0, (high - low) // step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, choices[self._random.randint(0, len(choices) - 1)])

    def _keep(self, name: str, value: Any) -> Any:
        assert name not in self.params, f"{name} was asked for twice"
        self.params[name] = value
        return value


def trials() -> st.SearchStrategy[DrawnTrial]:
    return st.builds(DrawnTrial, st.randoms(use_true_random=False))

"""The parts of a configuration that an ablation switches off, and the variations that result.

A variation is the configuration without one part or two; it is trained under every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from hpo.errors import UsageError
from search_spaces import Phase, PlannedTrial, TrialConfig, TrialList

Changes = Mapping[str, Any]

SGD_RATES = {"lion": 100.0}
"""Ratio of good learning rates of SGD with momentum to those of another optimiser, if it is not 10."""

MOMENTUM = 0.9


@dataclass(frozen=True)
class AblationPart:
    """A part that a configuration may have."""

    name: str
    without: str
    """The replacement, in words."""
    on: Callable[[TrialConfig], bool]
    off: Callable[[TrialConfig], TrialConfig]
    """The configuration without the part."""


def parts_of(config: TrialConfig) -> list[AblationPart]:
    """Return the parts that are on in `config`, in the order of PARTS."""
    return [part for part in PARTS if part.on(config)]


def _part(
    name: str, without: str, on: Callable[[TrialConfig], bool], changes: Callable[[TrialConfig], Changes]
) -> AblationPart:
    """Return a part that is on if any phase has it, and is switched off in all phases."""
    return AblationPart(
        name,
        without,
        lambda config: any(on(phase) for phase in config.phase_configs()),
        lambda config: _changed(config, on, changes),
    )


def _changed(
    config: TrialConfig, on: Callable[[TrialConfig], bool], changes: Callable[[TrialConfig], Changes]
) -> TrialConfig:
    """Return the configuration with `changes` in the run and in each phase that has the part."""
    # A phase without the part gets its own values explicitly, since it would inherit those of the run.

    def of(whole: TrialConfig) -> Changes:
        return changes(whole) if on(whole) else {}

    run, phases = of(config), []
    for given, whole in zip(config.to_dict()["phases"], config.phase_configs(), strict=False):
        own = of(whole)
        keys = (run.keys() | own.keys()) & Phase.model_fields.keys()
        phases.append({**given, **{key: own.get(key, getattr(whole, key)) for key in keys}})
    return config.replace(**run, phases=phases)


def _fields(**values: Any) -> Callable[[TrialConfig], Changes]:
    return lambda config: values


def _above(field: str, least: float = 0.0) -> Callable[[TrialConfig], bool]:
    return lambda config: bool(getattr(config, field) > least)


def _not(field: str, value: Any) -> Callable[[TrialConfig], bool]:
    return lambda config: bool(getattr(config, field) != value)


def _numeric(name: str, field: str, without: str, off: float = 0.0) -> AblationPart:
    """Return a part that is a number above `off`."""
    return _part(name, without, _above(field, off), _fields(**{field: type(off)(off)}))


def _other(name: str, field: str, without: str, off: Any) -> AblationPart:
    """Return a part that is a choice other than `off`."""
    return _part(name, without, _not(field, off), _fields(**{field: off}))


def _as_sgd(config: TrialConfig) -> Changes:
    """Return SGD with momentum, with learning rate and weight decay adapted to it for a fair comparison."""
    # A decoupled decay shrinks weights by rate x decay per step, that of SGD by rate x decay / (1 - momentum); the
    # shrinkage is kept equal.
    factor = SGD_RATES.get(config.optimiser, 10.0)
    decoupled = config.optimiser in ("adamw", "lion")
    decay = config.weight_decay * (1 - MOMENTUM) / factor if decoupled else config.weight_decay
    rate = min(100.0, config.learning_rate * factor)
    return {"optimiser": "sgd", "learning_rate": float(f"{rate:.6g}"), "weight_decay": float(f"{decay:.6g}")}


def _one_phase(config: TrialConfig) -> TrialConfig:
    """Return the configuration of the last phase for the whole run."""
    return config.phase_configs()[-1].replace(epochs=config.epochs)


def _chosen_blocks(config: TrialConfig) -> bool:
    return config.unfreeze_from != "head" and 0 < config.unfreeze_depth < 1


def _augmented(config: TrialConfig) -> bool:
    return config.augmentation != "none" and config.augmentation_strength > 0


PARTS: tuple[AblationPart, ...] = (
    # What is trained
    _part(
        "pretrained-weights", "random weights, everything trained", lambda config: config.pretrained,
        _fields(pretrained=False, weights=None, unfreeze_depth=1.0),
    ),
    _other("normalisation", "normalisation", "the backbone's own", "native"),
    _numeric("fine-tuning", "unfreeze_depth", "only the head is trained"),
    _part("blocks-that-train", "the last blocks, as many", _chosen_blocks, _fields(unfreeze_from="head")),
    _part("freezing", "everything is trained", lambda c: c.unfreeze_depth < 1, _fields(unfreeze_depth=1.0)),
    _other("gradual-unfreezing", "unfreezing", "all at once", "at-once"),
    AblationPart("phases", "the last phase throughout", lambda config: len(config.phases) > 1, _one_phase),
    _numeric("head-layers", "head_layers", "one linear layer", 0),
    _numeric("dropout", "dropout", "none"),
    _numeric("drop-path", "drop_path", "none"),
    # How it is optimised
    _part("optimiser", "SGD with momentum, rate and decay adapted", _not("optimiser", "sgd"), _as_sgd),
    _other("backbone-lr-ratio", "backbone_lr_ratio", "one rate for head and backbone", 1.0),
    _other("layer-decay", "layer_decay", "one rate for all blocks", 1.0),
    _numeric("weight-decay", "weight_decay", "none"),
    _numeric("l1", "l1", "none"),
    _numeric("l2", "l2", "none"),
    _numeric("gradient-clip", "gradient_clip", "none"),
    _other("schedule", "schedule", "a constant rate after the warm-up", "constant"),
    _part("restarts", "one cosine", lambda c: c.schedule == "cosine-restarts", _fields(schedule="cosine")),
    _numeric("warm-up", "warmup", "none"),
    _numeric("early-stopping", "patience", "all epochs", 0),
    _numeric("ema", "ema", "the weights themselves"),
    # Which loss and which images it learns from
    _other("loss", "loss", "cross-entropy", "cross-entropy"),
    _numeric("label-smoothing", "label_smoothing", "none"),
    _other("class-weights", "class_weights", "none", "none"),
    _other("balanced-sampling", "balanced_sampling", "every image once an epoch", False),
    _other("background", "background", "images with their background", "keep"),
    _numeric("oversampling", "oversample_to", "every image once an epoch", 0),
    _part("augmentation", "none of the family", _augmented, _fields(augmentation="none")),
    _part("augmix", "none", _above("augmix"), _fields(augmix=0.0, augmix_consistency=0.0)),
    _numeric("augmix-consistency", "augmix_consistency", "AugMix without its loss"),
    _numeric("channel-shuffle", "channel_shuffle", "none"),
    _numeric("gridmask", "gridmask", "none"),
    _numeric("cutout", "cutout", "none"),
    _numeric("masking", "masking", "none"),
    _numeric("mixup", "mixup", "none"),
    _numeric("cutmix", "cutmix", "none"),
)  # fmt: skip
"""Every part of an ablation. `validation_augmented` is not a part, since it changes how a run is measured."""

WHOLE = "everything"


@dataclass(frozen=True)
class Variation:
    """A configuration with some parts switched off."""

    without: tuple[str, ...]
    """Names of the parts; empty for the whole configuration."""
    config: TrialConfig

    @property
    def name(self) -> str:
        """Text such as `everything`, `without mixup`, `without mixup and ema`."""
        return f"without {' and '.join(self.without)}" if self.without else WHOLE

    def run(self, seed: int) -> str:
        """Return the name of its run under `seed`."""
        return f"{self.name}, seed {seed}"


def chosen_parts(config: TrialConfig, names: Sequence[str] = ()) -> list[AblationPart]:
    """Return the parts of `config`, or the named ones; raise UsageError for a part that is unknown or off."""
    there = {part.name: part for part in parts_of(config)}
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise UsageError(f"--parts {name}: no such part; there are {', '.join(known)}")
        if name not in there:
            raise UsageError(f"--parts {name}: it is off in this configuration, which has {', '.join(there)}")
    return [part for name, part in there.items() if not names or name in names]


def single_variations(config: TrialConfig, parts: Sequence[AblationPart]) -> list[Variation]:
    """Return the whole configuration, then it without each part, except parts whose removal changes nothing."""
    single = [Variation((part.name,), part.off(config)) for part in parts]
    return [Variation((), config), *(variation for variation in single if variation.config != config)]


def pair_variations(
    config: TrialConfig, parts: Sequence[AblationPart], contributions: Mapping[str, float], count: int
) -> list[Variation]:
    """Return the `count` pairs of parts with the largest sums of absolute contributions.

    Each part of a pair must still be on without the other, and the order of removal must not matter.
    """
    known = [part for part in parts if part.name in contributions]
    pairs = [(a, b) for a, b in combinations(known, 2) if _independent(config, a, b)]
    pairs.sort(key=lambda pair: -sum(abs(contributions[part.name]) for part in pair))
    return [Variation((a.name, b.name), b.off(a.off(config))) for a, b in pairs[:count]]


def _independent(config: TrialConfig, a: AblationPart, b: AblationPart) -> bool:
    without_a, without_b = a.off(config), b.off(config)
    return b.on(without_a) and a.on(without_b) and b.off(without_a) == a.off(without_b)


def ablation_trials(name: str, variations: Sequence[Variation], seeds: int) -> TrialList:
    """Return a trial list of every variation under each seed; all trials of the first seed come first."""
    trials = (
        PlannedTrial(variation.run(seed), variation.config, seed) for seed in range(seeds) for variation in variations
    )
    return TrialList(name, f"{len(variations)} variations under {seeds} seeds", tuple(trials))

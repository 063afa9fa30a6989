from __future__ import annotations

import pytest

from hpo.errors import UsageError
from hpo.experiments.ablation_parts import ablation_trials, chosen_parts, pair_variations, parts_of, single_variations
from search_spaces import TrialConfig

from .test_ablation_parts import RICH

SMALL = TrialConfig(label_smoothing=0.1, ema=0.9, augmentation="none", schedule="constant", weight_decay=0.0)


def test_the_whole_comes_first_and_then_it_without_each_part() -> None:
    found = single_variations(SMALL, parts_of(SMALL))
    assert [variation.name for variation in found] == [
        "everything", "without pretrained-weights", "without fine-tuning", "without optimiser", "without ema",
        "without label-smoothing",
    ]  # fmt: skip
    assert found[0].config == SMALL
    assert len({variation.config.model_dump_json() for variation in found}) == len(found)


def test_the_same_seeds_for_every_variation() -> None:
    variations = single_variations(SMALL, chosen_parts(SMALL, ["ema"]))
    entries = ablation_trials("ablation", variations, seeds=2).entries
    assert [(entry.name, entry.seed, entry.config.ema) for entry in entries] == [
        ("everything, seed 0", 0, 0.9), ("without ema, seed 0", 0, 0.0),
        ("everything, seed 1", 1, 0.9), ("without ema, seed 1", 1, 0.0),
    ]  # fmt: skip


def test_pairs_are_those_of_the_largest_contributions() -> None:
    contributions = {"ema": -0.3, "label-smoothing": 0.2, "optimiser": 0.05, "pretrained-weights": 0.0}
    found = pair_variations(SMALL, parts_of(SMALL), contributions, 2)
    assert [variation.without for variation in found] == [("ema", "label-smoothing"), ("optimiser", "ema")]
    assert (found[0].config.ema, found[0].config.label_smoothing) == (0.0, 0.0)
    assert pair_variations(SMALL, parts_of(SMALL), contributions, 0) == []


def test_pairs_that_contradict_each_other_are_left_out() -> None:
    parts = parts_of(RICH)
    pairs = {
        variation.without
        for variation in pair_variations(RICH, parts, dict.fromkeys((p.name for p in parts), 1.0), 9999)
    }
    for contradiction in [
        ("fine-tuning", "freezing"), ("pretrained-weights", "freezing"), ("augmix", "augmix-consistency"),
        ("schedule", "restarts"),
    ]:  # fmt: skip
        assert contradiction not in pairs
    assert ("cutout", "masking") in pairs


def test_the_order_in_which_the_parts_of_a_pair_go_plays_no_role() -> None:
    parts = {part.name: part for part in parts_of(RICH)}
    for variation in pair_variations(RICH, list(parts.values()), dict.fromkeys(parts, 1.0), 9999):
        a, b = (parts[name] for name in variation.without)
        assert a.off(b.off(RICH)) == variation.config


def test_what_is_unknown_or_off_is_refused() -> None:
    with pytest.raises(UsageError, match="--parts colour: no such part; there are pretrained-weights"):
        chosen_parts(SMALL, ["colour"])
    with pytest.raises(UsageError, match="--parts mixup: it is off in this configuration, which has pretrained"):
        chosen_parts(SMALL, ["mixup"])

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.experiments.ablation_parts import PARTS, AblationPart, parts_of
from search_spaces import SpaceError, TrialConfig, catalog

RICH = TrialConfig(
    backbone="resnet18", normalisation="group", head_layers=2, dropout=0.2, drop_path=0.1, unfreeze_depth=0.5,
    unfreeze_from="stem", unfreezing="gradual", optimiser="lion", learning_rate=1e-4, backbone_lr_ratio=0.1,
    layer_decay=0.8, weight_decay=0.1, l1=1e-4, l2=1e-4, gradient_clip=1, schedule="cosine-restarts", warmup=0.1,
    patience=3, ema=0.99,
    loss="focal", label_smoothing=0.1, class_weights="inverse", balanced_sampling=True, augmix=0.5,
    augmix_consistency=12, channel_shuffle=0.1, gridmask=0.1, cutout=0.1, masking=0.1,
    phases=[
        {"epochs": 2, "unfreeze_depth": 0, "learning_rate": 1e-3, "optimiser": "adamw"},
        {"epochs": 3, "schedule": "plateau"},
    ],
)  # fmt: skip
"""Everything that goes together; mixup and cutmix exclude the consistency loss, and oversampling balanced sampling."""
MIXED = TrialConfig(mixup=0.2, cutmix=1.0, oversample_to=100, background="mask")
BARE = TrialConfig(
    pretrained=False, unfreeze_depth=1.0, optimiser="sgd", weight_decay=0, schedule="constant", augmentation="none",
)  # fmt: skip


def part(name: str) -> AblationPart:
    return next(part for part in PARTS if part.name == name)


def test_every_part_is_on_somewhere_and_none_is_on_in_a_bare_configuration() -> None:
    names = {part.name for part in (*parts_of(RICH), *parts_of(MIXED))}
    assert names == {part.name for part in PARTS}
    assert len(PARTS) >= 14
    assert [part.name for part in parts_of(BARE)] == ["fine-tuning"], "its backbone is trained"


@pytest.mark.parametrize("config", [RICH, MIXED], ids=["rich", "mixed"])
def test_a_part_that_is_switched_off_is_off_and_the_others_stay(config: TrialConfig) -> None:
    together = [
        {"pretrained-weights", "freezing", "fine-tuning", "blocks-that-train"},
        {"augmix", "augmix-consistency"},
    ]
    together += [{"schedule", "restarts"}, {"phases", "restarts", "gradual-unfreezing", "freezing", "schedule"}]
    before = {part.name for part in parts_of(config)}
    for one in parts_of(config):
        after = {part.name for part in parts_of(one.off(config))}
        akin = set().union(*(group for group in together if one.name in group), {one.name})
        assert one.name not in after
        assert before - after <= akin, one.name
        assert one.off(config).epochs == config.epochs


@given(st.sets(st.sampled_from([part.name for part in PARTS])))
def test_any_parts_can_be_switched_off_together(names: set[str]) -> None:
    config = RICH
    for name in sorted(names):
        if part(name).on(config):
            config = part(name).off(config)
    assert not {part.name for part in parts_of(config)} & names - {"freezing", "fine-tuning"}


def test_a_part_is_off_in_every_phase_that_had_it() -> None:
    sgd = part("optimiser").off(RICH).phase_configs()
    assert [phase.optimiser for phase in sgd] == ["sgd", "sgd"]
    assert [phase.learning_rate for phase in sgd] == [1e-2, 1e-2], "10 times AdamW's 1e-3, 100 times Lion's 1e-4"
    constant = part("schedule").off(RICH).phase_configs()
    assert [phase.schedule for phase in constant] == ["constant", "constant"]
    cosine = part("restarts").off(RICH).phase_configs()
    assert [phase.schedule for phase in cosine] == ["cosine", "plateau"]
    frozen = part("fine-tuning").off(RICH).phase_configs()
    assert [phase.unfreeze_depth for phase in frozen] == [0, 0]


def test_without_phases_the_last_one_lasts_the_whole_run() -> None:
    single = part("phases").off(RICH)
    last = RICH.phase_configs()[-1]
    assert single == last.replace(epochs=5)
    assert single.phases == ()


def test_random_weights_are_trained_whole() -> None:
    scratch = part("pretrained-weights").off(RICH.replace(weights="w.safetensors"))
    assert (scratch.pretrained, scratch.weights) == (False, None)
    assert {phase.unfreeze_depth for phase in scratch.phase_configs()} == {1.0}


@pytest.mark.parametrize(("optimiser", "factor"), [("adamw", 10), ("lion", 100)])
def test_sgd_decays_weights_as_fast_as_the_optimiser_in_whose_place_it_stands(optimiser: str, factor: int) -> None:
    config = TrialConfig.from_dict({"optimiser": optimiser, "learning_rate": 2e-3, "weight_decay": 0.05})
    sgd = part("optimiser").off(config)
    assert sgd.learning_rate == pytest.approx(2e-3 * factor)
    decoupled = config.learning_rate * config.weight_decay
    assert sgd.learning_rate * sgd.weight_decay / (1 - 0.9) == pytest.approx(decoupled, rel=1e-5)


def test_parts_have_plain_names_of_their_own() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)
    assert all(part.without for part in PARTS)


def test_the_presets_can_be_ablated() -> None:
    from hpo.experiments.preset_configs import default_config

    for space in catalog():
        config = default_config(space)
        for one in parts_of(config):
            try:
                assert one.off(config) != config
            except SpaceError as error:
                pytest.fail(f"{space.name} without {one.name}: {error}")

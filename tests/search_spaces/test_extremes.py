"""What cannot be built is refused when the space is made, not in a trial."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from search_spaces import Choice, Float, Int, SearchSpace, SpaceError, TrialConfig
from search_spaces.space import filled, highest, lowest
from tests.search_spaces.strategies import spaces

MIXUP, AUGMIX = (Float(0, 0.8),), (Float(0.1, 1),)


@given(spaces())
def test_an_extreme_configuration_is_in_the_space(space: SearchSpace) -> None:
    for corner in (lowest, highest):
        values = filled(space.dimensions, space.fixed, {}, corner)
        for name, variants in space.dimensions.items():
            assert name not in values or any(variant.contains(values[name]) for variant in variants)
        TrialConfig.from_dict(values)


@given(spaces())
def test_the_largest_configuration_has_the_wanted_values_that_exist(space: SearchSpace) -> None:
    largest = space.largest({"optimiser": "sgd", "batch_size": 7})
    assert largest.batch_size != 7
    if "sgd" in space.values("optimiser") and not any(variant.when for variant in space.dimensions["optimiser"]):
        assert largest.optimiser == "sgd"


def test_the_largest_configuration() -> None:
    space = SearchSpace(
        "any",
        dimensions={
            "image_size": (Choice((224, 96)),), "unfreeze_depth": (Float(0.1, 0.9, step=0.1),),
            "head_layers": (Int(0, 2),), "head_units": (Choice((512, 64), when={"head_layers": (1, 2)}),),
        },
    )  # fmt: skip
    largest = space.largest()
    assert (largest.image_size, largest.unfreeze_depth, largest.head_units) == (224, 0.9, 512)
    assert space.largest({"head_layers": 0}).head_units == TrialConfig().head_units


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"fixed": {"augmix_consistency": 1}, "dimensions": {"augmix": (Float(0, 1),)}}, "augmix_consistency needs"),
        ({"fixed": {"augmix": 1}, "dimensions": {"augmix_consistency": (Choice((0, 12)),), "mixup": MIXUP}},
         "augmix_consistency excludes mixup and cutmix: mixed images have no views to compare; open dimensions can "
         "meet so where augmix_consistency is 12.0"),
        ({"dimensions": {"augmix": (Choice((0, 0.5)),), "augmix_consistency": (Choice((0, 12)),)}},
         "augmix_consistency needs augmix > 0: it compares an image with its AugMix views; open dimensions can meet "
         "so where augmix_consistency is 12.0: give one a condition (when) or another range"),
        ({"fixed": {"phase1.epochs": 1, "phase2.epochs": 1}, "dimensions": {"epochs": (Int(1, 3),)}},
         "epochs is 1, but must be at least 2: one for each phase"),
        ({"fixed": {"phase1.epochs": 1}, "dimensions": {
            "unfreezing": (Choice(("at-once", "gradual")),),
            "phase2.epochs": (Int(1, 3, when={"unfreezing": ("gradual",)}),), "phase2.warmup": (Float(0, 0.5),)}},
         "phase2.epochs is missing, but every phase up to the last has its epochs"),
    ],
)  # fmt: skip
def test_a_combination_that_breaks_a_rule_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace("any", **parts)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_a_condition_excludes_the_combination() -> None:
    space = SearchSpace(
        "any",
        fixed={"augmix": 0.5},
        dimensions={"augmix_consistency": (Choice((0, 12)),), "mixup": (Float(0, 1, when={"augmix_consistency": 0}),)},
    )
    assert space.largest().mixup == 0


def test_a_point_that_breaks_a_rule_is_named() -> None:
    # Three dimensions have to meet: no edge of the space shows it.
    when = {"unfreezing": ("gradual",), "schedule": ("cosine",)}
    with pytest.raises(SpaceError, match=r"^points\[0\]: epochs is 1, but must be at least 2: one for each phase$"):
        SearchSpace(
            "any",
            fixed={"phase1.epochs": 1},
            dimensions={
                "unfreezing": (Choice(("at-once", "gradual")),),
                "schedule": (Choice(("constant", "cosine", "plateau")),),
                "phase2.epochs": (Choice((1,), when=when),), "epochs": (Choice((1, 4)),),
            },
            points=({"unfreezing": "gradual", "schedule": "cosine", "epochs": 1},),
        )  # fmt: skip

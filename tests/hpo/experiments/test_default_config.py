from __future__ import annotations

from typing import Any

import pytest

from hpo.experiments.preset_configs import default_config
from search_spaces import SearchSpace, catalog


def space(dimensions: dict[str, Any], points: list[dict[str, Any]] | None = None, **fixed: Any) -> SearchSpace:
    return SearchSpace.from_dict(
        {"name": "s", "summary": "", "fixed": fixed, "dimensions": dimensions, "points": points or []}
    )


@pytest.mark.parametrize(
    ("field", "dimension", "middle"),
    [
        ("learning_rate", {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}, 1e-3),
        ("dropout", {"type": "float", "low": 0.0, "high": 0.4}, 0.2),
        ("dropout", {"type": "float", "low": 0.1, "high": 0.5, "step": 0.2}, 0.3),
        ("epochs", {"type": "int", "low": 4, "high": 16, "log": True}, 8),
        ("epochs", {"type": "int", "low": 4, "high": 10, "step": 3}, 7),
        ("optimiser", {"type": "choice", "choices": ["lion", "adamw", "sgd"]}, "lion"),
    ],
)
def test_without_points_the_default_is_the_middle_of_each_dimension(
    field: str, dimension: dict[str, Any], middle: object
) -> None:
    assert getattr(default_config(space({field: dimension})), field) == pytest.approx(middle)


def test_the_first_point_takes_precedence_over_the_middle() -> None:
    dimensions = {
        "dropout": {"type": "float", "low": 0.0, "high": 0.4},
        "weight_decay": {"type": "float", "low": 0.0, "high": 0.2},
    }
    found = default_config(space(dimensions, [{"dropout": 0.3}, {"dropout": 0.1}], epochs=5))
    assert (found.dropout, found.weight_decay, found.epochs) == (0.3, pytest.approx(0.1), 5)


def test_a_dimension_that_depends_on_another_takes_its_variant() -> None:
    dimensions = {
        "optimiser": {"type": "choice", "choices": ["sgd", "adamw"]},
        "learning_rate": [
            {"type": "float", "low": 1e-4, "high": 1e-2, "log": True, "when": {"optimiser": "adamw"}},
            {"type": "float", "low": 1e-2, "high": 1.0, "log": True, "when": {"optimiser": "sgd"}},
        ],
    }
    assert default_config(space(dimensions)).learning_rate == pytest.approx(0.1)
    adamw = space(dimensions, [{"optimiser": "adamw", "learning_rate": 3e-3}])
    assert default_config(adamw).learning_rate == 3e-3


@pytest.mark.parametrize("shipped", catalog(), ids=lambda space: space.name)
def test_every_shipped_space_has_a_default_config(shipped: SearchSpace) -> None:
    found = default_config(shipped)
    assert all(getattr(found, field) == value for field, value in shipped.fixed.items() if "." not in field)

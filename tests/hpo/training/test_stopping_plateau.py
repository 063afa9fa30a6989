from __future__ import annotations

import json

import pytest

from hpo.training.stopping import BETTER, Plateau


def after(*scores: float) -> Plateau:
    plateau = Plateau()
    for score in scores:
        plateau = plateau.after(score)
    return plateau


@pytest.mark.parametrize(
    ("scores", "epochs"),
    [((), 0), ((0.5,), 0), ((0.5, 0.5), 1), ((0.5, 0.4, 0.3), 2), ((0.5, 0.4, 0.6), 0), ((-3.0, -2.0, -2.5), 1)],
)
def test_epochs_without_a_better_score_are_counted(scores: tuple[float, ...], epochs: int) -> None:
    plateau = after(*scores)
    assert plateau.epochs == epochs
    assert plateau.best == (max(scores) if scores else None)


def test_a_gain_within_rounding_does_not_count() -> None:
    assert after(0.5, 0.5 + BETTER / 2).epochs == 1
    assert after(0.5, 0.5 + 2 * BETTER).epochs == 0


@pytest.mark.parametrize("plateau", [after(), after(0.5, 0.4)])
def test_a_plateau_survives_json(plateau: Plateau) -> None:
    assert Plateau.from_dict(json.loads(json.dumps(plateau.to_dict()))) == plateau

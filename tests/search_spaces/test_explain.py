"""A space in rows and as JSON."""

from __future__ import annotations

from search_spaces import Choice, Float, SearchSpace, TrialConfig, describe, rows

SPACE = SearchSpace(
    "cells",
    "a line",
    fixed={"epochs": 12, "optimiser": "adamw"},
    dimensions={
        "loss": (Choice(("focal", "cross-entropy")),),
        "focal_gamma": (Float(1, 3, when={"loss": ("focal",)}),),
        "schedule": (Choice(("constant", "cosine", "plateau")),),
        "warmup": (
            Float(0, 0.2, when={"schedule": ("constant",)}),
            Float(0, 0.4, step=0.1, when={"schedule": ("cosine", "plateau"), "loss": ("focal",)}),
        ),
    },
)


def test_every_field_has_its_row_and_every_variant_its_own() -> None:
    table = rows(SPACE)
    assert list(dict.fromkeys(row.field for row in table)) == [
        name for name in TrialConfig.model_fields if name != "phases"
    ]
    assert {(row.state, row.values, row.condition) for row in table if row.field == "warmup"} == {
        ("open", "0 to 0.2", "schedule is constant"),
        ("open", "0 to 0.4 by 0.1", "schedule is cosine or plateau, and loss is focal"),
    }


def test_a_row_shows_open_fixed_and_default_fields() -> None:
    states = {row.field: (row.state, row.values, row.condition) for row in rows(SPACE)}
    assert states["loss"] == ("open", "focal | cross-entropy", "")
    assert states["focal_gamma"] == ("open", "1 to 3", "loss is focal")
    assert states["epochs"] == ("fixed", "12", "")
    assert states["optimiser"] == ("fixed", "adamw", "")
    assert states["pretrained"] == ("default", "true", "")
    assert all(row.meaning for row in rows(SPACE))


def test_fields_of_a_phase_have_rows_after_those_of_the_run() -> None:
    fixed = {"phase1.epochs": 2, "phase2.epochs": 8, "phase2.unfreezing": "gradual"}
    rate = (Choice((None, 1e-3)),)
    table = rows(SearchSpace("phased", fixed=fixed, dimensions={"phase2.learning_rate": rate}))
    assert [(row.phase, row.field, row.state, row.values) for row in table if row.phase] == [
        (1, "phase1.epochs", "fixed", "2"),
        (2, "phase2.epochs", "fixed", "8"),
        (2, "phase2.unfreezing", "fixed", "gradual"),
        (2, "phase2.learning_rate", "open", "null | 0.001"),
    ]
    assert table[-1].phase == 2
    assert all(row.meaning for row in table)


def test_a_description_says_of_each_variant_when_it_exists() -> None:
    described = describe(SPACE)
    assert described["open"]["loss"] == ["focal | cross-entropy"]
    assert set(described["open"]["warmup"]) == {
        "0 to 0.2, when schedule is constant",
        "0 to 0.4 by 0.1, when schedule is cosine or plateau, and loss is focal",
    }
    assert described["fixed"] == {"optimiser": "adamw", "epochs": 12, "symmetry": "none"}

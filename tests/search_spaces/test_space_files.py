"""Space files: what they mean, how they extend each other, and one line for every way to get them wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_spaces import Float, SearchSpace, SpaceError, catalog, load_space
from tests.search_spaces.strategies import spaces

CELLS = """
summary: cells
seed: "002"
fixed: {epochs: 12, weights: null}
dimensions:
  optimiser: {type: choice, choices: [adamw, sgd]}
  learning_rate:
    - {type: float, low: 1e-4, high: 1e-2, log: true, when: {optimiser: adamw}}
    - {type: float, low: 1E-2, high: 1, log: true, when: {optimiser: [sgd]}}
  dropout: {type: float, low: 0, high: .5}
points:
  - {optimiser: adamw, learning_rate: 4e-3, epochs: 12}
  - {optimiser: sgd, learning_rate: 1e-1, dropout: 0.2}
"""

SHIPPED = ", ".join(space.name for space in catalog())

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a space file and give its path."""

    def _write(text: str | bytes, name: str = "cells.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def refusal(path: Path | str) -> str:
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_file_is_a_space(write: Write) -> None:
    space = load_space(write(CELLS))
    assert (space.name, space.summary, space.seed) == ("cells", "cells", "002")
    assert space.fixed == {"epochs": 12, "weights": None, "symmetry": "none"}
    assert space.dimensions["learning_rate"] == (
        Float(0.0001, 0.01, log=True, when={"optimiser": ("adamw",)}),
        Float(0.01, 1, log=True, when={"optimiser": ("sgd",)}),
    )
    assert space.enqueue_points() == [
        {"optimiser": "adamw", "learning_rate[adamw]": 0.004},
        {"optimiser": "sgd", "learning_rate[sgd]": 0.1, "dropout": 0.2},
    ]


def test_an_empty_section_is_no_section(write: Write) -> None:
    assert load_space(write("summary: nothing\nfixed:\ndimensions:\npoints:\n")) == SearchSpace("cells", "nothing")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(space=spaces(), flow=st.booleans())
def test_any_space_survives_the_way_through_a_file(tmp_path: Path, space: SearchSpace, flow: bool) -> None:
    document = {key: value for key, value in space.to_dict().items() if key != "name"}
    path = tmp_path / "any.yaml"
    path.write_text(
        yaml.safe_dump(document, default_flow_style=flow, sort_keys=False) if flow else json.dumps(document)
    )
    assert load_space(path) == space


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1e-4", "0.0001", "1.e-4", ".1e-3", "10e-5"])
def test_every_way_to_write_a_number(write: Write, text: str) -> None:
    assert load_space(write(f"fixed: {{learning_rate: {text}}}")).fixed["learning_rate"] == 1e-4


def test_text_that_only_looks_like_a_number_stays_text(write: Write) -> None:
    assert load_space(write("fixed: {backbone: 1e-4x}")).fixed["backbone"] == "1e-4x"


def test_a_file_extends_another(write: Write) -> None:
    write(CELLS)
    child = load_space(
        write(
            """
            extends: cells.yaml
            fixed: {epochs: 3, optimiser: sgd}
            dimensions:
              dropout: {type: float, low: 0.3, high: 0.6}
              loss: {type: choice, choices: [focal, cross-entropy]}
            """,
            "child.yaml",
        )
    )
    assert (child.name, child.summary, child.seed) == ("child", "extends cells", None)
    assert child.fixed == {"epochs": 3, "optimiser": "sgd", "weights": None, "symmetry": "none"}
    assert set(child.open) == {"learning_rate", "dropout", "loss"}
    assert child.dimensions["learning_rate"] == (Float(0.01, 1, log=True),)
    assert child.enqueue_points() == [{"learning_rate": 0.1}]


def test_a_file_gives_points_of_its_own(write: Write) -> None:
    write(CELLS)
    child = load_space(write("extends: cells.yaml\npoints: [{dropout: 0.5}]", "child.yaml"))
    assert child.enqueue_points() == [{"dropout": 0.5}]
    assert load_space(write("extends: cells.yaml\npoints: []", "child.yaml")).points == ()


def test_a_file_may_open_a_fixed_field(write: Write) -> None:
    child = load_space(write("extends: quick\ndimensions: {epochs: {type: int, low: 2, high: 9}}"))
    assert "epochs" in child.open
    assert "epochs" not in child.fixed


def test_inherited_variants_follow_a_narrower_parent(write: Write) -> None:
    write(CELLS)
    child = load_space(
        write("extends: cells.yaml\ndimensions: {optimiser: {type: choice, choices: [sgd, lion]}}", "child.yaml")
    )
    assert [variant.when for variant in child.dimensions["learning_rate"]] == [{"optimiser": ("sgd",)}]
    assert child.enqueue_points() == [{"optimiser": "sgd", "learning_rate": 0.1, "dropout": 0.2}]


def test_extending_without_a_change_is_the_same_space(write: Write) -> None:
    child = load_space(write("extends: thorough"))
    assert child.fingerprint == load_space("thorough").fingerprint
    assert child.points == load_space("thorough").points


def test_fixing_in_a_file_is_fixing_by_hand(write: Write) -> None:
    child = load_space(write("extends: standard\nfixed: {optimiser: lion, loss: focal}"))
    by_hand = load_space("standard").with_fixed({"optimiser": "lion", "loss": "focal"})
    assert (child.fixed, child.dimensions, child.points) == (by_hand.fixed, by_hand.dimensions, by_hand.points)


OPTIMISER = "optimiser: {type: choice, choices: [adamw, sgd]}"
RATE = "type: float, low: 1e-4, high: 1e-1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimensons: {}", "dimensons: no such key; did you mean dimensions?"),
        ("fixed: {epoch: 3}", "fixed.epoch: no such key; did you mean epochs?"),
        ("fixed: {epochs: 0}", "fixed.epochs is 0, but must be greater than or equal to 1"),
        ("fixed: [epochs]", "fixed is ['epochs'], but must be a mapping"),
        ("dimensions: 3", "dimensions is 3, but must be a mapping"),
        ("dimensions: {learning_rat: {type: float}}", "dimensions.learning_rat: no such dimension; did you"),
        ("dimensions: {dropout: 0.5}", "dimensions.dropout is 0.5, but must be a mapping with type"),
        ("dimensions: {dropout: []}", "dimensions.dropout is empty, but must hold at least one variant"),
        ("dimensions: {dropout: {type: float, low: 0, hgih: 1}}", "dimensions.dropout.hgih: no such key of a dim"),
        ("dimensions: {learning_rate: {type: float, low: 0.1, high: 0.01}}",
         "dimensions.learning_rate.low is 0.1, but must be < high (0.01)"),
        ("dimensions: {learning_rate: [{type: float, low: 0.1, high: 0.01}]}",
         "dimensions.learning_rate.low is 0.1, but must be < high (0.01)"),
        ("dimensions: {dropout: {type: float, low: 0.5, high: 0.5}}",
         "dimensions.dropout.low is 0.5, but must be < high (0.5); a single value belongs under fixed"),
        ("dimensions: {loss: {type: choice, choices: []}}", "dimensions.loss.choices is empty"),
        ("dimensions: {dropout: {type: float, low: 0, high: 2}}", "dimensions.dropout.high is 2.0, but must be less"),
        ("dimensions: {optimiser: {type: choice, choices: [adamw, foo]}}",
         "dimensions.optimiser.choices[1] is 'foo', but must be 'adamw'"),
        (f"dimensions: {{learning_rate: {{{RATE}, when: {{optimizer: adamw}}}}}}",
         "dimensions.learning_rate.when.optimizer: no such dimension; did you mean optimiser?"),
        (f"dimensions: {{learning_rate: {{{RATE}, when: {{optimiser: adamw}}}}}}",
         "dimensions.learning_rate.when.optimiser: optimiser is neither fixed nor one of the dimensions (learn"),
        (f"dimensions: {{{OPTIMISER}, learning_rate: {{{RATE}, when: {{optimiser: lion}}}}}}",
         "dimensions.learning_rate.when.optimiser is 'lion', but optimiser cannot take that value"),
        (f"fixed: {{optimiser: adamw}}\ndimensions: {{learning_rate: {{{RATE}, when: {{optimiser: [sgd, lion]}}}}}}",
         "dimensions.learning_rate.when.optimiser is lion or sgd, but optimiser is fixed to 'adamw'"),
        (f"dimensions: {{mixup: {{type: float, low: 0, high: 1}}, learning_rate: {{{RATE}, when: {{mixup: 0}}}}}}",
         "dimensions.learning_rate.when.mixup: mixup is of type float, but a condition needs an int or a choice"),
        ("dimensions: {loss: {type: choice, choices: [focal], when: {schedule: cosine}}, "
         "schedule: {type: choice, choices: [cosine], when: {loss: focal}}}",
         "dimensions.schedule.when: schedule needs loss needs schedule, which is a cycle"),
        ("dimensions: {loss: {type: choice, choices: [focal], when: {loss: focal}}}",
         "dimensions.loss.when: loss needs loss, which is a cycle"),
        (f"dimensions: {{{OPTIMISER}, learning_rate: [{{{RATE}, when: {{optimiser: adamw}}}}, {{{RATE}}}]}}",
         "dimensions.learning_rate: variants 0 and 1 could exist at the same time"),
        (f"dimensions: {{{OPTIMISER}, learning_rate: [{{{RATE}, when: {{optimiser: adamw}}}}, "
         f"{{{RATE}, when: {{optimiser: [sgd, adamw]}}}}]}}",
         "dimensions.learning_rate: variants 0 and 1 could exist at the same time"),
        (f"dimensions: {{{OPTIMISER}, learning_rate: [{{{RATE}, when: {{optimiser: adamw}}}}, {{type: int}}]}}",
         "dimensions.learning_rate[1].low is missing"),
        ("fixed: {dropout: 0.1}\ndimensions: {dropout: {type: float, low: 0, high: 0.5}}",
         "dimensions.dropout is open, but dropout is fixed to 0.1 as well"),
        ("extends: standrd", "extends is 'standrd', but standrd: no such space; did you mean standard?"),
        ("extends: 3", "extends is 3, but must be the name or the path of a space"),
        ("extends: quick\nfixed: {epochs: -1}", "fixed.epochs is -1, but must be greater than or equal to 1"),
        ("extends: standard\nfixed: {optimiser: adam}", "optimiser is 'adam', which the space does not try"),
        ("points: {dropout: 0}", "points is {'dropout': 0}, but must be a list of mappings"),
        ("points: [3]", "points[0] is 3, but must be a mapping of dimensions to values"),
        ("points: [{drop: 0}]", "points[0].drop: no such key; did you mean dropout?"),
        ("points: [{dropout: 0}]", "points[0].dropout: this space neither searches nor fixes it; leave it out"),
        ("fixed: {epochs: 3}\npoints: [{epochs: 4}]", "points[0].epochs is 4, but epochs is fixed to 3"),
        ("dimensions: {dropout: {type: float, low: 0, high: 0.5}}\npoints: [{}, {dropout: 0.7}]",
         "points[1].dropout is 0.7, but must be in 0 to 0.5"),
        (f"dimensions: {{{OPTIMISER}, learning_rate: {{{RATE}, when: {{optimiser: adamw}}}}}}\n"
         "points: [{optimiser: sgd, learning_rate: 0.01}]",
         "points[0].learning_rate exists only when optimiser is adamw; leave it out, or give other values"),
        (f"dimensions: {{{OPTIMISER}, learning_rate: {{{RATE}, when: {{optimiser: adamw}}}}}}\n"
         "points: [{learning_rate: 0.01}]",
         "points[0].learning_rate exists only when optimiser is adamw; give optimiser too"),
        ("fixed: {phases: [{epochs: 3}]}", "fixed.phases: no such key; give the fields of each phase"),
        ("fixed: {phase1.epoch: 3}", "fixed.phase1.epoch: no such key; did you mean phase1.epochs?"),
        ("fixed: {phase1.epochs: 0}", "fixed.phase1.epochs is 0, but must be greater than or equal to 1"),
        ("fixed: {phase1.epochs: true}", "fixed.phase1.epochs is True, but must be a number"),
        ("fixed: {phase1.epochs: null}", "fixed.phase1.epochs is None, but must be a whole number"),
        ("fixed: {phase2.epochs: 3}", "phase1.epochs is missing, but every phase up to the last has its epochs"),
        ("fixed: {phase1.epochs: 3, phase2.warmup: 0.1}", "phase2.epochs is missing, but every phase up to the last"),
        ("fixed: {epochs: 1, phase1.epochs: 3, phase2.epochs: 3}", "epochs is 1, but must be at least 2: one for each"),
        ("fixed: {augmix_consistency: 12}", "augmix_consistency needs augmix > 0"),
        ("dimensions: {phase1.schedul: {type: choice, choices: [cosine]}}",
         "dimensions.phase1.schedul: no such dimension; did you mean phase1.schedule?"),
        ("dimensions: {phase1.schedule: {type: int, low: 1, high: 2}}",
         "dimensions.phase1.schedule.type is 'int', but phase1.schedule needs choice"),
        ("dimensions: {phase1.epochs: {type: float, low: 1, high: 2}}",
         "dimensions.phase1.epochs.type is 'float', but phase1.epochs needs int or choice"),
        (f"dimensions: {{phase1.learning_rate: {{{RATE}, when: {{phase1.optimizer: adamw}}}}}}",
         "dimensions.phase1.learning_rate.when.phase1.optimizer: no such dimension; did you mean phase1.optimiser?"),
        (f"fixed: {{phase1.epochs: 2}}\ndimensions: {{phase1.learning_rate: {{{RATE}}}}}\n"
         "points: [{phase1.learning_rate: 1}]",
         "points[0].phase1.learning_rate is 1.0, but must be in 0.0001 to 0.1"),
        ("fixed: {phase1.epochs: 2}\npoints: [{phase1.rate: 1}]",
         "points[0].phase1.rate: no such key; "),
        ("summary: [a]", "summary is ['a'], but must be text"),
        ("seed: 2", "seed is 2, but must be text; put it in quotes"),
        ("- epochs", "is ['epochs'], but must be a mapping with extends, summary, seed, fixed, dimensions, points"),
        ("", "is empty, but must be a mapping"),
        ("fixed: {epochs: 3", "line 1, column 18: expected ',' or '}'"),
        ("fixed:\n  epochs: 3\n  epochs: 4", "line 3, column 3: epochs is given twice"),
        ("fixed: {epochs: 3}\ndimensions: {}\nfixed: {}", "line 3, column 1: fixed is given twice"),
        ("fixed: !!python/object:os.system {}", "line 1, column 8: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        (b"fixed: {backbone: \xff}", "is not a text file in UTF-8 (byte 18)"),
        ("fixed: {backbone: \x00}", "special characters are not allowed"),
    ],
)  # fmt: skip
def test_a_broken_rule_names_file_key_and_rule(write: Write, text: str | bytes, message: str) -> None:
    path = write(text)
    assert refusal(path).startswith(f"{path}: {message}")


def test_an_error_in_the_extended_file_names_that_file(write: Write) -> None:
    path = write("fixed: {epochs: 0}", "base.yaml")
    assert refusal(write("extends: base.yaml")).startswith(f"{path}: fixed.epochs is 0")


def test_files_that_extend_each_other(write: Write) -> None:
    write("extends: b.yaml", "a.yaml")
    write("extends: c.yaml", "b.yaml")
    path = write("extends: a.yaml", "c.yaml")
    assert refusal(path).endswith("extends: c.yaml extends a.yaml extends b.yaml extends c.yaml, which is a cycle")
    assert refusal(write("extends: self.yaml", "self.yaml")).endswith("self.yaml extends self.yaml, which is a cycle")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such.yaml", f"no/such.yaml: no such file; the spaces that ship are {SHIPPED}"),
        ("such.yml", "such.yml: no such file"),
        ("quik", "quik: no such space; did you mean quick? (or give the path of a .yaml file)"),
        ("xyz", f"xyz: no such space; there are {SHIPPED} (or give the path of a .yaml file)"),
        ("", f": no such space; there are {SHIPPED}"),
    ],
)
def test_a_space_that_is_not_there(name: str, message: str) -> None:
    assert refusal(name).startswith(message)


def test_a_folder_is_not_a_space(tmp_path: Path) -> None:
    (tmp_path / "cells.yaml").mkdir()
    assert refusal(tmp_path / "cells.yaml") == f"{tmp_path / 'cells.yaml'}: cannot be read: Is a directory"


def test_the_error_holds_its_source(write: Write) -> None:
    path = write("fixed: {epochs: 0}")
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    assert caught.value.source == str(path)

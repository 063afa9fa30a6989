"""Where the symmetry of a study comes from, and that a later run keeps it without measuring again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm

from hpo.data import SplitOptions
from hpo.inspection import symmetry_probe
from hpo.search import symmetry_choice
from hpo.search.plan import Plan, create_or_open_study
from hpo.search.status import StudyReader
from hpo.search.symmetry_choice import SymmetryChoice, choose_symmetry, measured_choice, record_symmetry, symmetry_of
from search_spaces import SearchSpace, load_space
from tests.hpo.search.conftest import SPACE, Bench

MEASURED = SymmetryChoice("mirror", "measured", "it was seen", {"images": 3})


def plan_of(bench: Bench, study: str, **changes: object) -> Plan:
    fixed = {key: value for key, value in SPACE["fixed"].items() if key not in ("symmetry", "augmentation")}
    space = SearchSpace("tiny", fixed={**fixed, **changes}, dimensions=SearchSpace.from_dict(SPACE).dimensions)
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    return Plan(bench.cells, study, space, None, "accuracy", "tpe", "none", split)


@pytest.mark.postgres
def test_a_measured_symmetry_is_fixed_in_the_study_and_never_measured_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symmetry_choice, "measured_choice", lambda space, dataset: MEASURED)
    plan = plan_of(bench, "measured")
    made, choice = choose_symmetry(bench.db, plan, bench.dataset)
    assert choice == MEASURED
    assert made.space.fixed["symmetry"] == "mirror"
    study = create_or_open_study(bench.db, made, bench.dataset)
    record_symmetry(study, choice)

    monkeypatch.delattr(symmetry_choice, "measured_choice")
    again, kept = choose_symmetry(bench.db, plan, bench.dataset)
    assert again.space.fingerprint == made.space.fingerprint
    assert kept == SymmetryChoice("mirror", "study", "it was seen")
    reopened = create_or_open_study(bench.db, again, bench.dataset)
    record_symmetry(reopened, kept)
    assert symmetry_of(reopened) == MEASURED.to_dict()
    assert StudyReader(bench.db, reopened)().to_dict()["symmetry"] == MEASURED.to_dict()


@pytest.mark.postgres
def test_what_is_given_is_not_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(symmetry_choice, "measured_choice")
    plan = plan_of(bench, "given", symmetry="none")
    assert choose_symmetry(bench.db, plan, bench.dataset) == (plan, SymmetryChoice("none", "given"))


@pytest.mark.postgres
def test_a_study_from_before_measuring_keeps_its_symmetry(bench: Bench) -> None:
    """The study `tiny` was made as dihedral, and records no reason."""
    made, choice = choose_symmetry(bench.db, plan_of(bench, "tiny"), bench.dataset)
    assert choice == SymmetryChoice("dihedral", "study")
    assert made.space.fixed["symmetry"] == "dihedral"
    assert choice.line == (
        "symmetry dihedral, as the study was made: augmentation mirrors images and turns them by quarters"
    )


@pytest.mark.postgres
def test_without_pretrained_weights_nothing_is_measured_and_it_is_said(bench: Bench) -> None:
    choice = measured_choice(plan_of(bench, "random").space, bench.dataset)
    assert (choice.symmetry, choice.source) == ("none", "assumed")
    assert choice.line.startswith("symmetry none, not measured: no image is mirrored")
    assert choice.line.endswith("a measurement needs pretrained weights")


@pytest.mark.postgres
def test_pretrained_weights_are_asked(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are random here, so the probe proves nothing, but it is asked with the features of the backbone."""
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_model(timm.create_model("test_resnet", num_classes=0), str(weights))
    monkeypatch.setattr(symmetry_probe, "IMAGES", 48)
    space = plan_of(bench, "asked").space.with_fixed({"pretrained": True, "weights": str(weights)})
    choice = measured_choice(space, bench.dataset)
    assert choice.source == "measured"
    assert choice.measured is not None
    assert choice.measured["images"] == 48
    assert "of 48 training images a linear probe on test_resnet recognises" in choice.line
    assert choice.line.endswith("--set symmetry=none, mirror or dihedral decides otherwise")


def test_a_space_knows_whether_its_symmetry_was_given() -> None:
    assert load_space("standard").assumes_symmetry
    assert load_space("standard").with_fixed({"epochs": 3}).assumes_symmetry
    assert not load_space("standard").with_fixed({"symmetry": "none"}).assumes_symmetry
    assert not load_space("convnext-small-selective").assumes_symmetry
    stored = SearchSpace.from_dict(load_space("quick").to_dict())
    assert not stored.assumes_symmetry
    assert stored == load_space("quick")
    assert replace(stored, name="other").fixed["symmetry"] == "none"

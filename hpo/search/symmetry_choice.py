"""The symmetry of a study: given, kept from when the study was made, or measured on the images before it is made.

Which mirror images and turns leave labels true is a fact about the images. Where neither the space nor `--set` says it,
a probe on embeddings of the training images is asked (`hpo.inspection.symmetry_probe`), once: the choice is a
fixed value of the study's space, and later runs go on with it. Without pretrained weights nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import optuna

from hpo.data import Dataset
from hpo.search.plan import Plan
from search_spaces import SearchSpace, Symmetry, TrialConfig, read_space
from storage import Database, has_spec, open_study, read_spec, study_names

SYMMETRY = "hpo:symmetry"
"""User attribute of a study: how its symmetry was chosen."""

EFFECTS: Mapping[str, str] = {
    "none": "no image is mirrored or turned by quarters; where labels survive it, --set symmetry=mirror or dihedral",
    "mirror": "augmentation mirrors images left to right",
    "dihedral": "augmentation mirrors images and turns them by quarters",
}
"""The effect of each symmetry on the images."""

OTHERWISE = "--set symmetry=none, mirror or dihedral decides otherwise"


@dataclass(frozen=True)
class SymmetryChoice:
    """A study's symmetry and where it comes from."""

    symmetry: Symmetry
    source: Literal["given", "study", "measured", "assumed"]
    """`given` by the space or `--set`; as the existing `study` has it; `measured`; `assumed` without a measurement."""
    why: str = ""
    """The measurement in words, or why there is none."""
    measured: Mapping[str, Any] | None = None
    """The measurement, JSON-ready."""

    @property
    def line(self) -> str:
        """The choice, its effect and its reason."""
        how = {"given": "", "study": ", as the study was made", "measured": ", measured", "assumed": ", not measured"}
        reason = f"; {self.why}" if self.why else ""
        return f"symmetry {self.symmetry}{how[self.source]}: {EFFECTS[self.symmetry]}{reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def choose_symmetry(db: Database, plan: Plan, dataset: Dataset) -> tuple[Plan, SymmetryChoice | None]:
    """Return the plan with its symmetry decided, and the choice; None for a list of runs, each with its own.

    Where nothing says it, an existing study keeps its own, and a new one gets the one that its images prove.
    """
    space = plan.space
    if not isinstance(space, SearchSpace):
        return plan, None
    if not space.assumes_symmetry:
        return plan, SymmetryChoice(TrialConfig.from_dict({"symmetry": space.fixed["symmetry"]}).symmetry, "given")
    choice = _of_study(db, plan.study) or measured_choice(space, dataset)
    return replace(plan, space=space.with_fixed({"symmetry": choice.symmetry})), choice


def _of_study(db: Database, name: str) -> SymmetryChoice | None:
    """Return the choice of an existing study; None where there is none, or it is of a list of runs."""
    study = open_study(db, name) if name in study_names(db) else None
    space = read_space(read_spec(study).space) if study is not None and has_spec(study) else None
    if study is None or not isinstance(space, SearchSpace):
        return None
    return SymmetryChoice(space.largest().symmetry, "study", why=_recorded(study).get("why", ""))


def measured_choice(space: SearchSpace, dataset: Dataset) -> SymmetryChoice:
    """Measure the symmetry with the first backbone of the space; without pretrained weights it keeps the default."""
    from hpo.device import limit_threads
    from hpo.inspection.symmetry_probe import measure_symmetry
    from hpo.models.baselines import is_baseline
    from hpo.models.frozen_backbone import FrozenBackbone

    assumed = space.largest().symmetry
    name = str(space.values("backbone")[0])
    if True not in space.values("pretrained") or is_baseline(name):
        return SymmetryChoice(assumed, "assumed", "a measurement needs pretrained weights")
    weights = space.fixed.get("weights")
    config = TrialConfig.from_dict({"backbone": name, "weights": weights, "image_size": dataset.image_size})
    limit_threads()
    # On the CPU: this process starts the workers, and a GPU that it had opened would not be all theirs.
    backbone = FrozenBackbone(config)
    found = measure_symmetry(dataset.train, dataset.classes, backbone.features, backbone=name)
    if found is None:
        return SymmetryChoice(assumed, "assumed", "too few images, or too slow a backbone for this machine")
    return SymmetryChoice(found.symmetry, "measured", f"{found}; {OTHERWISE}", found.to_dict())


def record_symmetry(study: optuna.Study, choice: SymmetryChoice | None) -> None:
    """Store how the symmetry of a new study was chosen; an existing study keeps what it has."""
    if choice is not None and choice.source != "study" and not _recorded(study):
        study.set_user_attr(SYMMETRY, choice.to_dict())


def symmetry_of(study: optuna.Study) -> dict[str, Any] | None:
    """Return how the symmetry of a study was chosen, JSON-ready; None where that is not recorded."""
    return dict(_recorded(study)) or None


def _recorded(study: optuna.Study) -> Mapping[str, Any]:
    found = study.user_attrs.get(SYMMETRY)
    return found if isinstance(found, Mapping) else {}

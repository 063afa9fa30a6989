from __future__ import annotations

from pathlib import Path

import pytest

from hpo.bundle.manifest import Manifest
from hpo.experiments.compared_model import JOINED, compared_bundle

from .conftest import bundled


@pytest.mark.parametrize(("stage", "notes"), [("soup", (JOINED,)), ("exported", ()), ("retrained", ())])
def test_models_chosen_on_the_validation_part_have_a_note(
    manifest: Manifest, weights: bytes, tmp_path: Path, stage: str, notes: tuple[str, ...]
) -> None:
    folder = bundled(tmp_path / stage, manifest.model_copy(update={"stage": stage}), weights)
    found = compared_bundle(None, "mine", folder)
    assert (found.folders, found.notes) == ((folder,), notes)

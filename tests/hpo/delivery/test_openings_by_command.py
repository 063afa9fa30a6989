"""Every command that opens a test part is counted, whoever asks, and bundles carry the records of all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import hpo
from hpo.bundle.access_ledger import FILE, AccessLedger, read_lines
from hpo.bundle.bundle import Bundle, Extras, read_bundle, write_bundle
from hpo.bundle.evaluate import evaluate
from hpo.bundle.stored_metrics import new_opening, openings_of
from hpo.cli import main
from hpo.cli.delivery import copied_accesses
from hpo.data import Dataset, ImageDigests
from hpo.delivery.export import export_trial
from hpo.experiments.benchmark import Benchmark

from .conftest import SPLIT

ROOT = Path(hpo.__file__).parent


@pytest.fixture
def models(tmp_path, manifest, weights, dataset):
    """Return three bundles of different models, with the digests of their images."""
    found = []
    for number in range(3):
        changed = weights[:-1] + bytes([weights[-1] ^ number])
        write_bundle(tmp_path / str(number), manifest, changed, {}, extras=Extras(known=ImageDigests.of(dataset)))
        found.append(read_bundle(tmp_path / str(number)))
    return found


def counted(home: Path) -> set[tuple[str, str]]:
    """Return command and model of the accesses that HOME has."""
    return {(one["command"], one["model"]) for one in read_lines(home / FILE)}


def test_nothing_but_what_records_its_accesses_opens_the_test_part():
    """`Dataset.open_test` is the only door: its callers are known, and each has a test here."""
    callers = set()
    for path in ROOT.rglob("*.py"):
        text, place = path.read_text(), str(path.relative_to(ROOT))
        assert place == "data/dataset.py" or not re.search(r"\w\._test\b", text), f"{place} goes round the door"
        if ".open_test()" in text:
            callers.add(place)
    assert callers == {"bundle/evaluate.py", "delivery/retrain.py", "experiments/benchmark.py"}


def test_commands_and_programs_share_one_count_and_bundles_carry_all_records(
    models: list[Bundle], images: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(cache)
    call = ["evaluate", str(models[0].path), "--data", str(images), "--home", str(home), "--threads", "1"]
    assert CliRunner().invoke(main, [*call, "--device", "cpu"]).exit_code == 0
    benchmark = Benchmark(images, SPLIT, cache, "cpu", test=True, ledger=AccessLedger(home))
    benchmark._measure_test(hpo.load(models[1].path, "cpu"), benchmark.dataset(32))
    monkeypatch.setenv("HPO_HOME", str(home))
    found = evaluate(hpo.load(models[2].path, "cpu"), images, cache=cache)
    assert found.accesses is not None
    assert (found.accesses.count, found.accesses.models) == (3, 3)
    digests = [model.model_digest for model in models]
    assert counted(home) == set(zip(("evaluate", "compare", "evaluate"), digests, strict=True))
    assert [len(openings_of(model.path)) for model in models] == [1, 2, 3], "each has those that came before"


def test_a_program_without_a_home_records_in_the_bundle_alone(
    models: list[Bundle], images: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HPO_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert evaluate(hpo.load(models[0].path, "cpu"), images, cache=cache).openings == 1
    assert not (tmp_path / ".hpo").exists()
    (tmp_path / ".hpo").mkdir()
    evaluate(hpo.load(models[1].path, "cpu"), images, cache=cache)
    assert counted(tmp_path / ".hpo") == {("evaluate", models[1].model_digest)}


class Shared:
    """A database that holds one access to the test part `test` by somebody else."""

    def __init__(self, test: str) -> None:
        self.known = {**new_opening("compare", "x", 6, test=test, model="theirs"), "accuracy": 0.5}

    def write(self, opening: Any) -> None:
        """Do nothing."""

    def read(self, test: str) -> list[dict[str, Any]]:
        return [self.known] if test == self.known["test"] else []


@pytest.mark.parametrize("force", [False, True])
def test_an_exported_bundle_carries_the_records_of_the_database(
    study: Any, store: Any, dataset: Dataset, models: list[Bundle], tmp_path: Path, force: bool
) -> None:
    """With --force too, which keeps those of the bundle that it replaces."""
    test, out = ImageDigests.of(dataset).test_digest, tmp_path / "best"
    ledger = AccessLedger(tmp_path / "home", Shared(test))
    if force:
        write_bundle(out, models[0].manifest, models[0].model, {})
        ledger.begin(out, new_opening("evaluate", dataset.fingerprint, 6, test=test, model="ours"))
    export_trial(study, study.trials[0], store, out, force=force)
    assert copied_accesses(out, ledger) == [], "the study has no digests of its images"
    known = read_bundle(out)
    extras = Extras(known=ImageDigests.of(dataset))
    write_bundle(out, known.manifest, known.model, known.metrics, extras=extras, force=True)
    (line,) = copied_accesses(out, ledger)
    assert {one["model"] for one in openings_of(out)} == {"theirs", "ours"} if force else {"theirs"}
    assert ("2 different models" in line) == force

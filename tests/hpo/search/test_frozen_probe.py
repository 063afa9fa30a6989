"""Frozen probes: enqueued once before all others, a trial and a bundle like any other, on the features of the store."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from optuna.trial import FrozenTrial, TrialState

import hpo
from hpo.bundle.bundle import read_bundle
from hpo.data import SplitOptions, open_dataset
from hpo.data.dataset import Part
from hpo.delivery.export import altered_of
from hpo.delivery.finished_export import FinishOptions, export_finished
from hpo.delivery.retrain import RetrainOptions, retrain
from hpo.inspection.probe import fit_probe
from hpo.interruption import TrainingInterrupted
from hpo.models.feature_store import FeatureStore
from hpo.models.frozen_backbone import FrozenBackbone
from hpo.search import frozen_probe
from hpo.search.frozen_probe import FeatureSource, choose_penalty, fit_frozen_probe
from hpo.search.garbage import free
from hpo.search.plan import Plan, create_or_open_study, set_budget
from hpo.search.planned_probes import planned_probes, probe_config, probe_lines
from hpo.search.status import StudyReader
from hpo.search.strategy import make_pruner
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.trial_record import TrialRecord, is_probe
from hpo.search.worker import fold_plan
from hpo.search.worker_context import WorkerContext, keep_best
from hpo.training import FitData, Runtime
from search_spaces import PlannedTrial, SearchSpace, TrialConfig, TrialList, load_space
from storage import Database, read_spec
from tests.hpo.search.conftest import SPACE, Bench

NAME = "test_resnet"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of weights, which are random."""
    file = tmp_path_factory.mktemp("weights") / "start.safetensors"
    torch.manual_seed(0)
    safetensors.torch.save_model(timm.create_model(NAME, num_classes=0), str(file))
    return file


@pytest.fixture
def space(weights: Path) -> SearchSpace:
    return SearchSpace.from_dict(SPACE).with_fixed({"pretrained": True, "weights": str(weights)})


def made(database: Database, cells: Path, space: SearchSpace, folder: Path, **options: Any) -> Bench:
    """Return a study that begins with a probe."""
    database.initialise()
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    if folds := options.pop("folds", None):
        split = SplitOptions(seed=0, test_fraction=0.1, folds=folds)
    plan = Plan(
        cells, "probed", space, None, "accuracy", "tpe", "none", split, **{"trials": 10, "probe": True} | options
    )
    dataset = open_dataset(cells, image_size=32, cache=folder / "cache", split=split)
    study = create_or_open_study(database, plan, dataset)
    study.pruner = make_pruner("none", 2)
    set_budget(database, study, plan.trials, None)
    return Bench(database, study, dataset, folder, cells)


@pytest.fixture
def probed(database: Database, cells: Path, space: SearchSpace, tmp_path: Path) -> Bench:
    return made(database, cells, space, tmp_path)


def context(bench: Bench, space: SearchSpace, **stops: Any) -> WorkerContext:
    spec = read_spec(bench.study)
    ready = bench.context(space, **stops)
    return replace(ready, robustness=spec.robustness, folds=fold_plan(spec, space))


def only_probe(bench: Bench) -> FrozenTrial:
    (trial,) = filter(is_probe, bench.study.get_trials())
    return trial


def several(*backbones: str) -> SearchSpace:
    """Return a space with a choice of backbones."""
    return SearchSpace("several", dimensions=SearchSpace.from_dict(
        {**SPACE, "fixed": {}, "points": [], "dimensions": {"backbone": {"type": "choice", "choices": list(backbones)}}}
    ).dimensions)  # fmt: skip


def test_each_backbone_gets_a_probe_in_the_order_of_the_space_and_at_most_a_fifth_of_the_trials() -> None:
    space = several("resnet18", "mobilenetv2_035", "convnext_tiny")
    assert planned_probes(space, 50) == (("resnet18", "mobilenetv2_035", "convnext_tiny"), ())
    assert planned_probes(space, 12) == (("resnet18", "mobilenetv2_035"), ("convnext_tiny",))
    assert planned_probes(space, 4) == ((), ("resnet18", "mobilenetv2_035", "convnext_tiny"))
    assert planned_probes(load_space("quick"), 5).backbones == (TrialConfig().backbone,)


@pytest.mark.parametrize("name", ["majority-class", "cnn3-from-scratch"])
def test_random_weights_and_baselines_have_no_probe(name: str, space: SearchSpace) -> None:
    assert planned_probes(load_space(name), 50) == ((), ())
    assert planned_probes(space.with_fixed({"pretrained": False, "weights": None}), 50) == ((), ())


def test_a_trial_list_has_no_probe() -> None:
    runs = TrialList("runs", "", (PlannedTrial("one", TrialConfig()),))
    assert planned_probes(runs, 50) == ((), ())


def test_a_probe_trains_a_linear_head_on_images_as_the_space_has_them(space: SearchSpace) -> None:
    given = space.with_fixed({"background": "mask", "validation_augmented": 0.5, "normalisation": "group"})
    config = probe_config(given, NAME)
    assert (config.unfreeze_depth, config.head_layers, config.augmentation, config.epochs) == (0, 0, "none", 1)
    assert (config.background, config.validation_augmented, config.symmetry) == ("mask", 0.5, "dihedral")
    assert (config.image_size, config.weights, config.normalisation) == (32, space.fixed["weights"], "native")


@pytest.mark.postgres
def test_a_new_study_begins_with_its_probe_and_an_existing_one_gets_none(
    probed: Bench, bench: Bench, space: SearchSpace
) -> None:
    trials = probed.study.get_trials()
    assert [is_probe(trial) for trial in trials] == [True, False], "then the known-good point"
    assert (TrialRecord.of(trials[0]).probe, trials[0].state) == (NAME, TrialState.WAITING)
    plan = Plan(probed.cells, "probed", space, None, "accuracy", "tpe", "none", SplitOptions(0, 0.2, 0.1), probe=True)
    assert len(create_or_open_study(probed.db, plan, probed.dataset).get_trials()) == 2
    old = replace(plan, study="tiny", space=SearchSpace.from_dict(SPACE))
    assert not any(map(is_probe, create_or_open_study(bench.db, old, bench.dataset).get_trials()))
    without = replace(plan, study="without", probe=False)
    assert not any(map(is_probe, create_or_open_study(bench.db, without, bench.dataset).get_trials()))


@pytest.mark.postgres
def test_what_begins_a_study_is_said_while_it_waits(probed: Bench, space: SearchSpace) -> None:
    plan = planned_probes(several("a", "b"), 5)
    assert list(probe_lines(probed.study, plan)) == [
        "first, as the line to beat, a linear head on the frozen backbone: test_resnet (trial 0); it counts among "
        "the trials, --no-probe leaves it out",
        "no such probe of b: they take at most one trial in 5; a study made with more --trials has them",
    ]
    run_trial(context(probed, space), probed.claim())
    assert list(probe_lines(probed.study, plan)) == []


@pytest.mark.postgres
def test_a_probe_is_a_trial_without_parameters_and_steps_whose_predictions_are_kept(
    probed: Bench, space: SearchSpace
) -> None:
    ready = context(probed, space)
    assert run_trial(ready, probed.claim()) is TrialOutcome.COMPLETE
    trial = only_probe(probed)
    record = TrialRecord.of(trial)
    assert (trial.number, trial.state, trial.params, trial.intermediate_values) == (0, TrialState.COMPLETE, {}, {})
    assert record.config == {**probe_config(space, NAME).to_dict()}
    assert record.facts["probe"]["images"] == len(probed.dataset.train)
    best = ready.store.read(0, "best")
    logits, labels = (np.load(io.BytesIO(best.files[f"{name}.npy"])) for name in ("logits", "labels"))
    assert trial.value == pytest.approx(float((logits.argmax(axis=1) == labels).mean()))
    assert not ready.store.has(0, "latest")
    assert list((probed.folder / "cache" / "features").glob(f"{NAME}-32px-*/features.f16"))

    assert run_trial(ready, probed.claim()) is TrialOutcome.COMPLETE
    assert probed.study.get_trials()[1].params == {"learning_rate": 3e-3}
    status = StudyReader(probed.db, probed.study)()
    assert status.counts["finished"] == 2, "a probe counts as a trial"
    assert status.probe is not None
    assert (status.probe.trial, status.probe.backbone, status.probe.value) == (0, NAME, trial.value)
    assert (status.probe.tuned, status.probe.gain) == (1, status.trials[1].value - trial.value)
    document = status.to_dict()
    assert document["probe"]["trial"] == 0
    assert [row.get("probe") for row in (line.to_dict() for line in status.trials)] == [NAME, None]


@pytest.mark.postgres
def test_the_head_is_the_logistic_regression_on_stored_features(probed: Bench, space: SearchSpace) -> None:
    """One place computes features, for `hpo data` and for probes, and one function fits."""
    dataset, config = probed.dataset, probe_config(space, NAME)
    source = FeatureSource.of(dataset, probed.folder / "cache")
    data = FitData(dataset.train, dataset.val, len(dataset.classes))
    (result,) = fit_frozen_probe(config, data, Runtime(), source, penalty=1.0)
    assert result.last

    def points(part: Part) -> Any:
        return FeatureStore(probed.folder / "cache" / "features").features(
            part, FrozenBackbone(config), fingerprint=dataset.fingerprint, progress=pytest.fail
        ).batch(np.arange(len(part)))  # fmt: skip

    probe = fit_probe(points(dataset.train), dataset.train.labels, len(dataset.classes))
    weights, bias = probe.layer()
    tensors = safetensors.torch.load(result.weights())
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    assert sorted(tensor.shape for tensor in head.values()) == sorted([weights.shape, bias.shape])
    assert all((tensor == (weights if tensor.ndim == 2 else bias)).all() for tensor in head.values())


@pytest.mark.postgres
def test_an_interrupted_probe_starts_anew_and_gives_the_same(probed: Bench, space: SearchSpace) -> None:
    steps = itertools.count()
    stopped = context(probed, space, stop=lambda: next(steps) >= 2)
    assert run_trial(stopped, probed.claim()) is TrialOutcome.INTERRUPTED
    assert only_probe(probed).state == TrialState.WAITING
    assert run_trial(context(probed, space), probed.claim()) is TrialOutcome.COMPLETE
    trial = only_probe(probed)
    assert trial.number == 0
    data = FitData(probed.dataset.train, probed.dataset.val, len(probed.dataset.classes))
    (again,) = fit_frozen_probe(
        probe_config(space, NAME), data, Runtime(), FeatureSource.of(probed.dataset, probed.folder / "cache")
    )
    assert trial.value == again.metrics["accuracy"]


@pytest.mark.postgres
def test_its_bundle_predicts_and_is_fitted_once_more_on_train_and_val(probed: Bench, space: SearchSpace) -> None:
    ready = context(probed, space)
    run_trial(ready, probed.claim())
    out, again = probed.folder / "out", probed.folder / "again"
    options = FinishOptions(probed.folder / "cache", mode="none")
    manifest = export_finished(probed.db, "probed", ready.store, out, options, trial=0).manifest
    assert manifest.probe is not None
    assert manifest.probe.images == len(probed.dataset.train)
    bundle = read_bundle(out)
    assert bundle.manifest == manifest
    assert bundle.validation is not None
    val = probed.dataset.val
    logits = hpo.load(out, device="cpu").logits(val.batch(np.arange(len(val))))
    np.testing.assert_allclose(logits, bundle.validation.logits, atol=1e-4)

    final = retrain(bundle, probed.cells, again, RetrainOptions(cache=probed.folder / "cache"))
    everything = probed.dataset.train.joined(val)
    assert (final.images, final.manifest.epochs, final.manifest.stage) == (len(everything), 1, "retrained")
    assert read_bundle(again).model != bundle.model
    assert final.test is not None


@pytest.mark.postgres
def test_the_value_has_both_figures_under_robustness(
    database: Database, cells: Path, space: SearchSpace, tmp_path: Path
) -> None:
    robust = made(database, cells, space, tmp_path, robustness=0.5)
    ready = context(robust, space)
    run_trial(ready, robust.claim())
    trial = only_probe(robust)
    record = TrialRecord.of(trial)
    assert record.clean is not None
    assert record.altered is not None
    assert trial.value == pytest.approx((record.clean + record.altered) / 2)
    assert altered_of(ready.store.read(0, "best")) is not None


@pytest.mark.postgres
def test_over_folds_a_probe_has_a_value_for_each(
    database: Database, cells: Path, space: SearchSpace, tmp_path: Path
) -> None:
    folded = made(database, cells, space, tmp_path, folds=3)
    run_trial(context(folded, space), folded.claim())
    trial = only_probe(folded)
    folds = TrialRecord.of(trial).folds
    assert len(folds["values"]) == 3
    assert trial.value == fmean(folds["values"])
    (line, *_) = StudyReader(folded.db, folded.study)().trials
    assert line.folds is not None
    assert (line.folds["fold"], line.folds["of"], line.epoch) == (3, 3, 0)


@pytest.mark.postgres
def test_the_best_probe_keeps_its_checkpoint_whatever_is_better(probed: Bench, space: SearchSpace) -> None:
    ready = replace(context(probed, space), keep=1)
    run_trial(ready, probed.claim())
    for value in (0.98, 0.99):
        probed.study.tell(probed.study.ask(), value)
    ready.store.write(1, "best", {"model.safetensors": b""}, {}, token=1)
    keep_best(ready)
    assert [ready.store.has(number, "best") for number in (0, 1)] == [True, False]
    free(probed.study, ready.store, keep=1)
    assert ready.store.has(0, "best")


def points_of_two_classes(count: int, width: int = 8) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    points = rng.normal(size=(count, width)).astype(np.float32)
    points[:, 0] += 2 * labels
    return points, labels


def test_the_penalty_is_chosen_where_images_can_be_held_out() -> None:
    points, labels = points_of_two_classes(200)
    assert choose_penalty(points, labels, 2, "accuracy") in frozen_probe.PENALTIES
    assert choose_penalty(points[:1], labels[:1], 2, "accuracy") == 1.0
    noisy = np.concatenate([points, np.random.default_rng(1).normal(size=(200, 300)).astype(np.float32)], axis=1)
    assert choose_penalty(noisy, labels, 2, "accuracy") > 1.0


def test_a_linear_layer_gives_the_probabilities_of_the_probe() -> None:
    points, labels = points_of_two_classes(100)
    probe = fit_probe(points, labels, 2)
    weights, bias = probe.layer()
    logits = points @ weights.numpy().T + bias.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probe.predict(points), expected, atol=1e-5)


def test_a_fit_ends_between_two_steps_when_stopped() -> None:
    points, labels = points_of_two_classes(100)
    with pytest.raises(TrainingInterrupted):
        fit_probe(points, labels, 2, should_stop=lambda: True)


def test_of_very_many_images_a_sample_is_fitted(
    cells: Path, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(cells, image_size=32, cache=tmp_path, split=SplitOptions(0, 0.2, 0.1))
    monkeypatch.setattr(frozen_probe, "IMAGES", 20)
    data = FitData(dataset.train, dataset.val, len(dataset.classes))
    (result,) = fit_frozen_probe(probe_config(space, NAME), data, Runtime(), FeatureSource.of(dataset, tmp_path))
    assert result.facts["probe"]["images"] == 20

"""A retraining repeats the configuration on train + val for the best number of epochs and measures it once."""

import numpy as np
import pytest
import safetensors.torch

import hpo
from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import read_bundle, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.calibration_images import calibration_images
from hpo.bundle.evaluate import evaluate, evaluate_on, select
from hpo.bundle.manifest import Member, Weights
from hpo.bundle.validation import Validation
from hpo.cli.delivery_text import retrain_lines
from hpo.data import DataOrigin, ImageDigests, SplitOptions, open_dataset, split_digest
from hpo.delivery.original_weights import remember_weights, with_weights
from hpo.delivery.retrain import RetrainCallbacks, RetrainOptions, retrain
from hpo.errors import BundleError, DataError
from hpo.evaluation.metrics import report
from hpo.models import weights_digest
from hpo.models.built_model import build_model
from hpo.training import FitData, Runtime, fit

from .conftest import CONFIG, SIZE, draw


@pytest.fixture
def options(cache):
    return RetrainOptions(cache=cache)


@pytest.fixture
def weights_file(tmp_path):
    """Return a bare backbone's weights."""
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(build_model(CONFIG, 3).model.backbone.state_dict(), file)
    return file


def test_it_equals_the_first_epochs_of_a_full_run_on_train_and_val(bundle, images, dataset, options, tmp_path):
    calls = []
    callbacks = RetrainCallbacks(on_epoch=lambda result, epochs: calls.append((result.epoch, epochs)))
    result = retrain(read_bundle(bundle), images, tmp_path / "final", options, callbacks)
    everything = dataset.train.joined(dataset.val)
    epochs = fit(CONFIG, FitData(everything, None, 3), Runtime(seed=7, cache=options.cache))
    expected = [next(epochs).weights() for _ in range(2)][-1]
    assert calls == [(1, 2), (2, 2)]
    assert read_bundle(tmp_path / "final").model == expected
    assert (result.manifest.stage, result.manifest.epochs, result.images) == ("retrained", 2, len(everything))


def test_the_test_part_is_opened_once_and_measures_the_written_model(bundle, images, dataset, options, tmp_path):
    result = retrain(read_bundle(bundle), images, tmp_path / "final", options)
    locked = dataset.open_test()
    logits = hpo.load(tmp_path / "final", device="cpu").logits(locked.batch(np.arange(len(locked))))
    assert result.test.report == report(locked.labels, logits, dataset.classes)
    final = read_bundle(tmp_path / "final").metrics
    assert final["test"].items() >= result.test.report.to_dict().items()
    assert final["test"]["calibration"]["before"]["nll"] == pytest.approx(result.test.report.loss)
    assert [(one["command"], one["n"]) for one in final["test_openings"]] == [("retrain", len(locked))]
    assert read_bundle(bundle).metrics["test_openings"] == final["test_openings"]
    (proof,) = calibration_images(read_bundle(tmp_path / "final"))
    assert (proof.source, proof.compared, len(proof.images)) == ("test", 1, len(locked))
    assert proof.images.right.mean() == pytest.approx(result.test.report.accuracy)


def test_accesses_to_the_test_part_add_up(bundle, images, cache, options, tmp_path):
    evaluate(hpo.load(bundle, device="cpu"), images, cache=cache)
    result = retrain(read_bundle(bundle), images, tmp_path / "final", options)
    assert result.openings == 2
    for path in (bundle, tmp_path / "final"):
        openings = read_bundle(path).metrics["test_openings"]
        assert [one["command"] for one in openings] == ["evaluate", "retrain"]


def test_a_bundle_may_replace_itself(bundle, images, cache):
    before = read_bundle(bundle)
    result = retrain(before, images, bundle, RetrainOptions(cache=cache, force=True))
    after = read_bundle(bundle)
    assert after.manifest.stage == "retrained"
    assert (len(after.metrics["test_openings"]), result.openings) == (1, 1)


def test_without_a_test_part_nothing_is_measured(tmp_path, manifest, weights, images, cache, options):
    origin = manifest.data.model_copy(update={"test_fraction": 0.0})
    write_bundle(tmp_path / "best", manifest.model_copy(update={"data": origin}), weights, {})
    result = retrain(read_bundle(tmp_path / "best"), images, tmp_path / "final", options)
    assert (result.test, result.openings) == (None, 0)
    assert read_bundle(tmp_path / "final").metrics["test"] is None


def test_other_data_is_refused_unless_allowed(bundle, cache, tmp_path):
    other = draw(tmp_path / "other", 8, seed=9)
    with pytest.raises(DataError, match="--other-data"):
        retrain(read_bundle(bundle), other, tmp_path / "final", RetrainOptions(cache=cache))
    assert not (tmp_path / "final").exists()
    result = retrain(read_bundle(bundle), other, tmp_path / "final", RetrainOptions(cache=cache, other_data=True))
    split = SplitOptions(3, 0.2, 0.2)
    theirs = open_dataset(other, image_size=SIZE, cache=cache, split=split)
    assert result.manifest.data.fingerprint == theirs.fingerprint
    assert result.manifest.data.counts["test"] == theirs.test_count


def test_a_training_that_diverges_is_named_and_writes_nothing(tmp_path, manifest, weights, images, options):
    diverging = CONFIG.replace(optimiser="sgd", learning_rate=100.0, weight_decay=10.0)
    write_bundle(tmp_path / "best", manifest.model_copy(update={"config": diverging}), weights, {})
    with pytest.raises(BundleError, match="training ended without a model"):
        retrain(read_bundle(tmp_path / "best"), images, tmp_path / "final", options)
    assert not (tmp_path / "final").exists()


def test_the_trials_predictions_and_temperature_are_kept_as_the_trials(tmp_path, manifest, weights, images, options):
    validation = Validation(np.array([0, 1, 2, 2]), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])
    fitted = manifest.model_copy(update={"calibration": calibration_of(validation)})
    write_bundle(tmp_path / "best", fitted, weights, {}, validation=validation)
    retrain(read_bundle(tmp_path / "best"), images, tmp_path / "final", options)
    final = read_bundle(tmp_path / "final")
    assert final.manifest.calibration == fitted.calibration.model_copy(update={"fitted_on": "trial"})
    assert np.array_equal(final.validation.logits, validation.logits)


def test_other_data_leaves_neither_temperature_nor_predictions(tmp_path, manifest, weights, cache):
    validation = Validation(np.array([0, 1, 2, 2]), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]])
    fitted = manifest.model_copy(update={"calibration": calibration_of(validation)})
    write_bundle(tmp_path / "best", fitted, weights, {}, validation=validation)
    other = draw(tmp_path / "other", 8, seed=9)
    retrain(read_bundle(tmp_path / "best"), other, tmp_path / "final", RetrainOptions(cache=cache, other_data=True))
    final = read_bundle(tmp_path / "final")
    assert (final.manifest.calibration, final.validation) == (None, None)


@pytest.mark.parametrize("kind", ["ensemble", "soup"])
def test_ensembles_and_soups_are_refused_with_the_way_out(manifest, weights, images, options, tmp_path, kind):
    changes = {"stage": kind}
    if kind == "ensemble":
        member = Member(trial=4, weight=1, temperature=1, best_epoch=2, mean=(0,) * 3, std=(1,) * 3, config=CONFIG)
        changes["members"] = (member,)
    write_bundle(tmp_path / "joined", manifest.model_copy(update=changes), weights, {})
    with pytest.raises(BundleError, match=rf"is an? {kind} of several trials.*export-best --study colours --trial 4"):
        retrain(read_bundle(tmp_path / "joined"), images, tmp_path / "final", options)
    assert not (tmp_path / "final").exists()


def test_out_is_checked_before_any_work(bundle, images, options, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_text("")
    calls = []
    with pytest.raises(BundleError, match="not a bundle"):
        retrain(
            read_bundle(bundle),
            images,
            tmp_path / "mine",
            options,
            RetrainCallbacks(on_epoch=lambda *a: calls.append(a)),
        )
    assert calls == []


def test_training_starts_from_the_original_weights(manifest, weights_file, tmp_path):
    digest = weights_digest(weights_file)
    gone = CONFIG.replace(pretrained=True, weights="/nowhere/w.safetensors")
    changes = {"config": gone, "weights": Weights(file="w.safetensors", digest=digest)}
    started = manifest.model_copy(update=changes)
    with pytest.raises(BundleError, match=r"/nowhere/w\.safetensors.*--weights"):
        with_weights(started, None)
    assert with_weights(started, weights_file).config.weights == str(weights_file)
    assert with_weights(manifest, None) == manifest


def test_a_retrained_bundle_names_its_weights_and_is_retrained_again_on_this_machine(
    manifest, weights, weights_file, images, cache, tmp_path
):
    """The bundle has a name and a digest; where the file lies stays in the cache."""
    config = CONFIG.replace(pretrained=True, weights=weights_file.name)
    named = Weights(file=weights_file.name, digest=weights_digest(weights_file))
    usual = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    steps = manifest.preprocessing.model_copy(update=usual)
    changes = {"config": config, "weights": named, "preprocessing": steps}
    write_bundle(tmp_path / "best", manifest.model_copy(update=changes), weights, {})
    options = RetrainOptions(cache=tmp_path / "home", weights=weights_file)
    retrain(read_bundle(tmp_path / "best"), images, tmp_path / "final", options)
    assert str(tmp_path) not in (tmp_path / "final" / "config.json").read_text()
    final = read_bundle(tmp_path / "final").manifest
    assert final.config.weights == weights_file.name
    assert with_weights(final, None, cache=tmp_path / "home").config.weights == str(weights_file)
    with pytest.raises(
        BundleError, match=rf"{weights_file.name}, .*sha256 {named.digest[:12]}.* name it with --weights"
    ):
        with_weights(final, None, cache=tmp_path / "another home")


def test_other_weights_of_the_same_name_are_refused(manifest, weights_file, tmp_path, monkeypatch):
    config = CONFIG.replace(pretrained=True, weights="w.safetensors")
    digest = weights_digest(weights_file)
    started = manifest.model_copy(update={"config": config, "weights": Weights(file="w.safetensors", digest=digest)})
    cache = tmp_path / "home"
    remember_weights(cache, weights_file, digest)
    assert with_weights(started, None, cache=cache).config.weights == str(weights_file)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    weights_file.rename(tmp_path / "here" / "w.safetensors")
    assert with_weights(started, None, cache=cache).config.weights == str(tmp_path / "here" / "w.safetensors")
    (tmp_path / "here" / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(BundleError, match=r"is not the weights file that the trial started from .* --weights"):
        with_weights(started, None, cache=cache)


def test_other_weights_are_refused_unless_allowed(manifest, weights_file):
    with pytest.raises(BundleError, match="--other-weights"):
        with_weights(manifest, weights_file)
    allowed = with_weights(manifest, weights_file, other=True)
    assert allowed.config.pretrained
    assert allowed.weights.digest == weights_digest(weights_file)


def test_a_failing_test_loses_neither_the_model_nor_the_record_of_the_access(
    bundle, images, options, tmp_path, monkeypatch
):
    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr("hpo.delivery.retrain.measure", out_of_memory)
    with pytest.raises(MemoryError):
        retrain(read_bundle(bundle), images, tmp_path / "final", options)
    final = read_bundle(tmp_path / "final")
    assert final.manifest.stage == "retrained"
    assert [one["accuracy"] for one in final.metrics["test_openings"]] == [None]


def test_a_plateau_schedule_steps_where_it_stepped_in_the_trial(bundle, images, dataset, options, tmp_path):
    manifest = read_bundle(bundle).manifest
    config = manifest.config.replace(schedule="plateau", epochs=6)
    falling = manifest.model_copy(update={"config": config, "best_epoch": 6, "curve": (0.9, *[0.1] * 5)})
    rates = {}
    for name, changed in (("replayed", falling), ("alone", falling.model_copy(update={"curve": ()}))):
        calls = []
        write_bundle(tmp_path / name, changed, read_bundle(bundle).model, {})
        callbacks = RetrainCallbacks(on_epoch=lambda result, _, calls=calls: calls.append(result.learning_rate))
        retrain(read_bundle(tmp_path / name), images, tmp_path / f"{name}-final", options, callbacks)
        rates[name] = calls
    peak = config.learning_rate
    assert rates["replayed"] == pytest.approx([peak, peak, peak, peak / 2, peak / 2, peak / 4]), (
        "the trial's metric fell"
    )
    assert rates["alone"][:4] == pytest.approx([peak] * 4), "the training loss falls, at first at least"


def test_the_new_bundle_has_digests_of_its_images_and_accesses_add_up(bundle, images, dataset, cache, tmp_path):
    options = RetrainOptions(cache=cache, ledger=AccessLedger(tmp_path / "home"))
    result = retrain(read_bundle(bundle), images, tmp_path / "final", options)
    assert result.accesses == AccessCounts(1, 1)
    final = hpo.load(tmp_path / "final", device="cpu")
    assert final.bundle.known == ImageDigests.of(dataset)
    assert final.bundle.manifest.data.split_digest == split_digest(dataset)
    selection = select(final.bundle, images, cache=cache, split="test")
    again = evaluate_on(final, selection, ledger=options.ledger)
    assert again.accesses == AccessCounts(2, 1)
    assert "always with this model" in again.accesses.line
    trial = hpo.load(bundle, device="cpu")
    assert evaluate_on(trial, selection, ledger=options.ledger).accesses == AccessCounts(3, 2), (
        "the trial's own model is another"
    )


def test_a_replaced_bundle_leaves_its_openings_to_the_retrained_one(bundle, images, cache, manifest, weights, tmp_path):
    write_bundle(tmp_path / "final", manifest.model_copy(update={"trial": 9}), weights, {})
    evaluate(hpo.load(tmp_path / "final", device="cpu"), images, cache=cache)
    result = retrain(read_bundle(bundle), images, tmp_path / "final", RetrainOptions(cache=cache, force=True))
    assert result.accesses == AccessCounts(2, 2)


def test_test_images_that_are_trained_on_are_not_measured(tmp_path, manifest, weights, cache, options):
    folder = tmp_path / "leaking"
    draw(folder / "train", 6, seed=50)
    draw(folder / "test", 2, seed=51)
    (folder / "test" / "red" / "copy.png").write_bytes((folder / "train" / "red" / "0.png").read_bytes())
    split = manifest.data.options
    dataset = open_dataset(folder, image_size=SIZE, cache=cache, split=split)
    made = manifest.model_copy(update={"data": DataOrigin.of(dataset, split)})
    write_bundle(tmp_path / "best", made, weights, {})
    result = retrain(read_bundle(tmp_path / "best"), folder, tmp_path / "final", options)
    assert (result.left_out, result.test.report.n) == (1, 6)
    lines = retrain_lines("final", read_bundle(tmp_path / "best"), result)
    assert any(line.startswith("1 test image is a copy of images that the model has trained on") for line in lines)


def test_weights_without_the_file_beside_them_are_refused(manifest, weights_file, images, tmp_path, options):
    """The trial was normalised by the file beside its weights; without that file the network would see others."""
    started = manifest.model_copy(
        update={
            "config": CONFIG.replace(pretrained=True, weights=str(weights_file)),
            "weights": Weights(file=weights_file.name, digest=weights_digest(weights_file)),
            "preprocessing": manifest.preprocessing.model_copy(update={"mean": (0.1, 0.2, 0.3)}),
        }
    )
    write_bundle(tmp_path / "b", started, b"", {})
    with pytest.raises(BundleError, match=r"comes with mean .* but the trial had \(0\.1, 0\.2, 0\.3\).*copy the"):
        retrain(read_bundle(tmp_path / "b"), images, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()

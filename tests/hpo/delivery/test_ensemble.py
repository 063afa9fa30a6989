"""An ensemble is a bundle like any other, as good as the numbers that it was chosen by."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import hpo
from hpo.bundle.bundle import read_bundle
from hpo.bundle.evaluate import evaluate
from hpo.bundle.predict import predict
from hpo.bundle.validation import Validation
from hpo.cli.delivery_text import calibration_line, joined_lines
from hpo.data import ImageDigests
from hpo.delivery.ensemble import choose, cross_check, ensemble, write_ensemble
from hpo.delivery.ensemble_candidates import EnsembleCandidates, ensemble_candidates
from hpo.delivery.selection import halves, mean_of
from hpo.errors import BundleError
from hpo.evaluation.calibration import (
    abstention,
    fit_temperature,
    held_out,
    log_probabilities,
    probabilities,
    reliability,
)

from .conftest import CLASSES, CONFIG, SIZE, add_trial, keep

PIXELS = np.random.default_rng(5).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def joined(study, store, tmp_path):
    """Return an ensemble of trials 1, 0 and 2, with weight two for trial 1, independent of their predictions."""
    found = ensemble_candidates(study, store, 10)
    write_ensemble(found, replace(choose(found), picks=(1, 0, 1, 2)), tmp_path / "joined")
    return tmp_path / "joined"


def test_members_have_their_own_weight_temperature_and_normalisation(joined, trained):
    model = hpo.load(joined, device="cpu")
    members = model.bundle.manifest.members
    assert [(member.trial, member.weight) for member in members] == [(1, 0.5), (0, 0.25), (2, 0.25)]
    assert [network.weight for network in model.networks] == [0.5, 0.25, 0.25]
    assert model.network is model.networks[0].module
    total = np.zeros((len(PIXELS), len(CLASSES)))
    for member in members:
        total += member.weight * probabilities(alone(model, trained[member.trial]), member.temperature)
    assert np.allclose(np.exp(model.logits_of([PIXELS])), total, atol=1e-5)
    assert np.allclose(model.probabilities_of([PIXELS]), probabilities(np.log(total), model.temperature), atol=1e-5)


def alone(model, one):
    import safetensors.torch

    from hpo.models.built_model import build_model
    from hpo.models.inference import Predictor

    network = build_model(one.config, len(CLASSES), initialise=False).model
    network.load_state_dict(safetensors.torch.load(one.weights))
    return Predictor(network, mean=one.facts["mean"], std=one.facts["std"]).logits([PIXELS])


def test_stored_metrics_are_those_of_an_evaluation(joined, images, cache, dataset):
    found = read_bundle(joined)
    measured = evaluate(hpo.load(joined, device="cpu"), images, cache=cache, split="val", tta="flips")
    assert measured.report.confusion == tuple(map(tuple, found.metrics["validation"]["confusion"]))
    assert measured.report.loss == pytest.approx(found.metrics["validation"]["loss"], abs=1e-4)
    assert measured.measurement.after.nll == pytest.approx(found.manifest.calibration.after.nll, abs=1e-4)
    assert np.array_equal(found.validation.labels, dataset.val.labels)


def test_an_ensemble_predicts_from_the_command_and_batches_do_not_matter(joined, images, tmp_path):
    model = hpo.load(joined, device="cpu")
    predict(model, images, str(tmp_path / "out.json"), batch_size=7)
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    assert len(rows) == 30
    for one in model.predict(sorted(images.rglob("*.png")), batch_size=30):
        assert rows[one.name]["probabilities"] == pytest.approx(one.probabilities, abs=1e-5)
    assert model.logits([]).shape == (0, len(CLASSES))
    assert model.predict([], tta="dihedral") == []


def test_the_result_is_never_worse_than_the_best_trial_and_is_cross_checked(study, store, tmp_path):
    result = ensemble(ensemble_candidates(study, store, 10), tmp_path / "out")
    assert result.validation.joined >= result.validation.best
    assert result.held_out.n == result.validation.n
    lines = [*joined_lines("out", result), calibration_line(result.manifest)]
    assert "each half of it, chosen on the other half" in lines[2]
    assert lines[3].startswith("calibration: temperature ")


def test_the_same_trials_give_the_same_bundle(study, store, tmp_path):
    for name in ("first", "second"):
        ensemble(ensemble_candidates(study, store, 10), tmp_path / name)
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("first", "second"))
    assert first == second


def test_one_trial_that_nothing_improves_is_exported_as_it_is(study, store, tmp_path):
    members = ensemble_candidates(study, store, 10)
    choice = choose(members)
    result = write_ensemble(members, replace(choice, picks=(choice.best,) * 3), tmp_path / "out")
    found = read_bundle(tmp_path / "out").manifest
    assert (found.stage, found.trial, found.members) == ("exported", result.best, ())
    assert found == result.manifest
    assert f"trial {found.trial} of study colours alone" in joined_lines("out", result)[0]


def test_trials_that_cannot_join_are_left_out_with_a_reason(study, store, trained, dataset):
    first, labels = trained[0], dataset.val.labels
    for value in (0.99, 0.98):  # 3 and 4 have no checkpoint
        add_trial(study, CONFIG, first.facts, value)
    augmented = first.config.replace(augmentation="flips", validation_augmented=0.5)
    others = ((augmented, labels), (CONFIG.replace(image_size=64), labels), (CONFIG, labels[::-1]))
    for config, theirs in others:
        keep(store, add_trial(study, config, first.facts, value=0.5), first, theirs)
    found = ensemble_candidates(study, store, 10)
    assert [one.trial.number for one in found.found] == [0, 1, 2]
    reasons = (
        "trials 3, 4: checkpoint not kept",
        "trial 5: its trial was validated on augmented images",
        "trial 6: image size 64, but 32",
        "trial 7: validated on other images",
    )
    for line, reason in zip(found.left_out, reasons, strict=True):
        assert line.startswith(reason)


def test_trials_of_another_split_cannot_join(study, store, trained, dataset):
    known = ImageDigests.of(dataset)
    split = known.split_digest
    store.keep_images(split, known.to_bytes())
    for digest in (split, split, "0" * 32):
        number = len(study.trials)
        add_trial(study, trained[0].config, trained[0].facts, 0.99 - number / 1000, split_digest=digest)
        keep(store, number, trained[0], dataset.val.labels)
    found = ensemble_candidates(study, store, 3)
    assert [one.trial.number for one in found.found] == [3, 4]
    assert found.left_out == ("trial 5: trained and validated on another split of the images than the best trial",)
    assert found.known == known


def test_fewer_than_two_candidates_are_one_line_with_the_way_out(study, store):
    with pytest.raises(BundleError, match=r"1 of 1 complete trial can be joined, but two are needed"):
        ensemble_candidates(study, store, 1)
    store.drop([0, 1])
    with pytest.raises(BundleError, match=r"trials 0, 1: checkpoint not kept.*--keep") as caught:
        ensemble_candidates(study, store, 10)
    assert "\n" not in str(caught.value)


def test_out_is_checked_before_members_are_chosen(study, store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_text("")
    with pytest.raises(BundleError, match="not a bundle"):
        ensemble(ensemble_candidates(study, store, 10), tmp_path / "mine", force=True)


def test_an_ensemble_is_calibrated_by_members_chosen_without_the_image(study, store, tmp_path):
    found = ensemble_candidates(study, store, 10)
    choice = replace(choose(found), picks=(1, 0, 1, 2))
    fitted = write_ensemble(found, choice, tmp_path / "joined").manifest.calibration
    labels = found.labels
    unseen = np.empty((len(labels), len(CLASSES)))
    for rows in halves(labels):
        unseen[~rows] = choose(found, rows).mean[~rows]
    written = read_bundle(tmp_path / "joined")
    assert written.manifest.compared == 1, "the study has no other set of three trials"
    assert written.crossed == pytest.approx(log_probabilities(unseen), rel=1e-5)
    assert fitted.temperature == fit_temperature(labels, written.crossed)
    assert fitted.held_out.nll == pytest.approx(reliability(labels, held_out(labels, written.crossed)).nll)
    chosen_with_it = held_out(*written.validation)
    assert fitted.held_out.nll != pytest.approx(reliability(labels, chosen_with_it).nll)


def test_an_ensemble_reaches_the_accuracy_that_was_asked_for_on_new_images():
    """Its threshold is proved by members chosen without the image; by what it was chosen on, a third fall short."""
    short, unaware, n = 0, 0, 200
    for seed in range(24):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 4, n + 3_000)
        noise = generator.standard_normal((len(labels), 4)) + generator.standard_normal((30, len(labels), 4))
        logits = (3 * (3 * np.eye(4)[labels] + 0.95 * noise)).astype(np.float32)
        hits = (logits[:, :n].argmax(axis=2) == labels[:n]).sum(axis=1)
        best = logits[np.argsort(-hits, kind="stable")[:6]]
        found = known(labels[:n], best[:, :n])
        choice, crossed = choose(found), cross_check(found).logits
        members = np.stack([probabilities(*pair) for pair in zip(best[:, n:], choice.temperatures, strict=True)])
        new = log_probabilities(mean_of(members, choice.picks))
        for rows, chosen_by in ((crossed, "others"), (log_probabilities(choice.mean), "itself")):
            temperature = fit_temperature(labels[:n], rows)
            threshold = abstention(labels[:n], probabilities(rows, temperature), 0.95)
            answers = probabilities(new, temperature)
            sure = answers.max(axis=1) >= threshold.threshold if threshold else np.zeros(len(new), dtype=bool)
            fails = bool(sure.any() and (answers.argmax(axis=1) == labels[n:])[sure].mean() < 0.95)
            short, unaware = short + (fails and chosen_by == "others"), unaware + (fails and chosen_by == "itself")
    assert short <= 2
    assert unaware > 4


@pytest.mark.parametrize(("trials", "compared"), [(3, 1), (4, 2), (30, 10)])
def test_candidates_are_the_best_of_all_such_sets_of_trials(study, store, trials, compared):
    facts = study.trials[0].user_attrs["facts"]
    for number in range(3, trials):
        add_trial(study, CONFIG, facts, value=0.1 - number / 1000)
    assert ensemble_candidates(study, store, 10).compared == compared


def known(labels, logits):
    """EnsembleCandidates with these predictions (k, n, C), as far as choosing needs them."""
    found = tuple(SimpleNamespace(validation=Validation(labels, one), logits=one, altered=None) for one in logits)
    return EnsembleCandidates(None, SimpleNamespace(metric="accuracy"), None, found, ())

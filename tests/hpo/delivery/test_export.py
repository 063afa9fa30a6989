"""An export takes the right trial with everything known about it, and refuses in one line."""

import io

import numpy as np
import optuna
import pytest
import safetensors.torch
from optuna.trial import TrialState

import hpo
from hpo.bundle.bundle import read_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.manifest import RESIZE_RULE
from hpo.cli.confirm_text import ExportChoice
from hpo.cli.delivery_text import augmented_note, calibration_line
from hpo.data import ImageDigests
from hpo.delivery.export import choose_trial, export_trial, is_of_trial, tied, trial_manifest
from hpo.errors import BundleError
from hpo.evaluation.metrics import report
from hpo.search.checkpointing import checkpoint_origin
from hpo.search.ranking import rank
from storage import StudySpec, open_store, read_spec
from storage.spec import write_spec

from .conftest import CLASSES, CONFIG, SPLIT

FACTS = {
    "precision": "bf16",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.2],
    "weights": {"file": "/far/w.safetensors", "digest": "ab" * 32},
}
LABELS = np.array([0, 1, 2, 2], dtype=np.int64)
LOGITS = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "artifacts", "colours")


@pytest.fixture
def study(dataset):
    """Return a study of four trials: 0 and 2 equally good, 1 worse, 3 pruned."""
    study = optuna.create_study(study_name="colours", direction="maximize")
    data = {
        "classes": list(CLASSES), "counts": {"train": 18, "val": 6, "test": 6}, "split": dataset.split,
        "seed": SPLIT.seed, "val_fraction": SPLIT.val_fraction, "test_fraction": SPLIT.test_fraction,
        "max_unreadable": 0.1,
    }  # fmt: skip
    spec = StudySpec(
        space={}, space_fingerprint="s", data=data, data_fingerprint=dataset.fingerprint, metric="macro_f1", seed=3,
        sampler="tpe", pruner="none",
    )  # fmt: skip
    write_spec(study, spec)
    known = {"config": CONFIG.to_dict(), "best_epoch": 2, "seed": 11, "facts": FACTS, "versions": {"torch": "2"}}
    for value, state in ((0.9, "COMPLETE"), (0.5, "COMPLETE"), (0.9, "COMPLETE"), (None, "PRUNED")):
        study.add_trial(optuna.trial.create_trial(value=value, state=TrialState[state], user_attrs=known))
    return study


def keep(store, trial, weights):
    files = {"model.safetensors": weights, "logits.npy": npy(LOGITS), "labels.npy": npy(LABELS)}
    store.write(trial, "best", files, {"epoch": 2, "metrics": {}})


def test_the_first_of_the_best_complete_trials_is_chosen(study):
    assert choose_trial(study).number == 0
    assert choose_trial(study, 1).number == 1


def test_the_cheapest_of_those_that_cannot_be_told_from_the_best_is_chosen(study):
    """Six validation images tell 0.5 from 0.9 no better than by chance."""
    for parameters in (9_000, 1_000):
        known = {"config": CONFIG.to_dict(), "parameters": parameters, "seconds": 4.0, "epochs": 2}
        study.add_trial(optuna.trial.create_trial(value=0.8, user_attrs=known))
    assert choose_trial(study, "cheap").number == 5


def test_the_best_is_chosen_by_all_values_of_a_configuration(study):
    for original, value in ((None, 0.895), (4, 0.899), (0, 0.85)):
        known = {"config": CONFIG.to_dict(), **({} if original is None else {"replicate_of": original})}
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs=known))
    assert [one.trial.number for one in tied(study, rank(study.get_trials()))][:2] == [5, 2]
    assert choose_trial(study).number == 5, "0.9 is the highest value, but a single one, or one of two that differ"
    choice = ExportChoice.of(study, 5, cheap=False)
    assert choice.lines[0].startswith("with other seeds: trial 4 0.8950; mean of 2 seeds 0.8970 ± ")
    found = choice.to_dict()
    assert (found["seeds"]["trials"], found["tied"]) == ([4, 5], None)
    assert ExportChoice.of(study, 2, cheap=True).to_dict() == {"seeds": None, "tied": [5, 2, 0]}


@pytest.mark.parametrize(("number", "expected"), [(3, "trial 3 of study 'colours' is pruned"), (9, "no trial 9")])
def test_a_trial_that_cannot_be_exported_is_named(study, number, expected):
    with pytest.raises(BundleError, match=expected):
        choose_trial(study, number)


def test_a_study_without_a_complete_trial_is_named():
    with pytest.raises(BundleError, match="'empty' has no complete trial"):
        choose_trial(optuna.create_study(study_name="empty", direction="maximize"))


def test_a_bundle_holds_everything_known_about_its_trial(study, store, weights, dataset, tmp_path):
    keep(store, 0, weights)
    export_trial(study, choose_trial(study), store, tmp_path / "best")
    found = read_bundle(tmp_path / "best")
    manifest = found.manifest
    assert found.model == weights
    assert (manifest.stage, manifest.study, manifest.trial, manifest.metric) == ("exported", "colours", 0, "macro_f1")
    assert manifest.config == CONFIG.replace(precision="bf16"), "what the trial computed in, not what it asked for"
    assert (manifest.classes, manifest.seed) == (CLASSES, 11)
    assert (manifest.epochs, manifest.best_epoch) == (2, 2)
    assert manifest.preprocessing.mean == (0.5, 0.4, 0.3)
    assert manifest.preprocessing.resize == RESIZE_RULE
    assert (manifest.weights.file, manifest.weights.digest) == ("w.safetensors", "ab" * 32)
    assert (manifest.data.fingerprint, manifest.data.seed) == (dataset.fingerprint, SPLIT.seed)
    assert manifest.data.max_unreadable == 0.1
    assert found.metrics == {
        "validation": report(LABELS, LOGITS, CLASSES).to_dict(),
        "test": None,
        "test_openings": [],
    }


def test_a_bundle_is_calibrated_on_the_predictions_that_it_carries(study, store, weights, tmp_path):
    keep(store, 0, weights)
    export_trial(study, choose_trial(study), store, tmp_path / "best")
    found = read_bundle(tmp_path / "best")
    assert np.array_equal(found.validation.labels, LABELS)
    assert np.array_equal(found.validation.logits, LOGITS)
    calibration = found.manifest.calibration
    assert calibration == calibration_of(found.validation)
    assert (calibration.n, calibration.fitted_on, calibration.held_out) == (4, "validation", None)
    assert calibration.before.nll == pytest.approx(report(LABELS, LOGITS, CLASSES).loss)
    assert (calibration.temperature, calibration.after) == (1, calibration.before), "four images show nothing"
    assert calibration.best_fit < 0.6
    assert found.manifest.compared == 3, "trials with a value; the pruned one reported none"


def test_predictions_on_augmented_images_are_not_used_for_calibration(study, store, weights, tmp_path):
    config = CONFIG.replace(augmentation="flips", validation_augmented=0.3)
    known = {"config": config.to_dict(), "best_epoch": 2, "seed": 11, "facts": FACTS, "versions": {"torch": "2"}}
    study.add_trial(optuna.trial.create_trial(value=0.95, user_attrs=known))
    keep(store, 4, weights)
    manifest, _ = export_trial(study, choose_trial(study), store, tmp_path / "best")
    assert manifest.calibration is None
    assert read_bundle(tmp_path / "best").metrics["validation"]["augmented"] == 0.3, "beside a test on plain images"
    assert "on augmented images (validation_augmented is 0.3)" in augmented_note(manifest)
    assert "not calibrated: its trial was validated on augmented images" in calibration_line(manifest)
    with pytest.raises(BundleError, match=r"augmented images \(validation_augmented is 0.3\)"):
        hpo.load(tmp_path / "best", device="cpu").abstention(0.9)


def test_a_checkpoint_that_is_gone_is_named(study, store, tmp_path):
    with pytest.raises(BundleError, match=r"trial 1 of study 'colours' cannot be exported.*--artifacts"):
        export_trial(study, choose_trial(study, 1), store, tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_a_trial_that_recorded_too_little_is_named(study, store, weights, tmp_path):
    study.add_trial(optuna.trial.create_trial(value=1.0))
    keep(store, 4, weights)
    with pytest.raises(BundleError, match="trial 4 of study 'colours' recorded no 'facts'"):
        export_trial(study, choose_trial(study), store, tmp_path / "best")


def recorded(study, number, **changes):
    """Return the trial with other user attributes than it has."""
    trial = study.get_trials()[number]
    trial.user_attrs = {**trial.user_attrs, **changes}
    return trial


def version(store, weights, epoch, trial=0, **notes):
    """Write a `best` of trial 0 whose weights end in a byte of their own."""
    files = {"model.safetensors": weights, "logits.npy": npy(LOGITS), "labels.npy": npy(LABELS)}
    return store.write(trial, "best", files, {"epoch": epoch, "metrics": {}, **notes})


def damage(tmp_path, name):
    (path,) = (tmp_path / "artifacts").rglob(f"{name}/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_an_older_epoch_never_replaces_a_damaged_one(study, store, weights, tmp_path):
    version(store, weights, 1)
    damage(tmp_path, version(store, weights, 2))
    with pytest.raises(
        BundleError, match=r"trial 0 of .*checksum.*epoch 1, but the trial's best epoch is 2"
    ) as refused:
        export_trial(study, choose_trial(study), store, tmp_path / "best")
    assert "another --trial" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "best").exists()


def test_the_version_of_the_recorded_epoch_is_taken_though_a_newer_one_is_there(study, store, weights, tmp_path):
    version(store, weights, 2)
    version(store, b"of an epoch that the successor did not reach again", 3)
    manifest, _ = export_trial(study, choose_trial(study), store, tmp_path / "best")
    assert manifest.best_epoch == 2
    assert read_bundle(tmp_path / "best").model == weights


def test_the_older_version_of_the_recorded_epoch_is_used_where_the_newer_is_damaged(study, store, weights, tmp_path):
    version(store, weights, 2)
    damage(tmp_path, version(store, weights, 2))
    export_trial(study, choose_trial(study), store, tmp_path / "best")
    assert read_bundle(tmp_path / "best").model == weights


def test_a_checkpoint_with_another_value_than_the_trial_recorded_is_refused(study, store, weights, tmp_path):
    version(store, weights, 2, metrics={"macro_f1": 0.7})
    trial = recorded(study, 0, best_metrics={"macro_f1": 0.9})
    with pytest.raises(BundleError, match=r"its macro_f1 is 0\.7, but the trial recorded 0\.9"):
        export_trial(study, trial, store, tmp_path / "best")
    version(store, weights, 2, metrics={"macro_f1": 0.9})
    export_trial(study, trial, store, tmp_path / "best")


@pytest.mark.parametrize(
    ("config", "seed", "expected"),
    [
        (CONFIG.replace(learning_rate=0.07), 11, r"of a trial of study 'b' whose learning_rate is 0\.07"),
        (CONFIG, 12, r"of a trial of study 'b' whose seed is 12, not 11"),
    ],
)
def test_a_checkpoint_of_another_study_with_the_same_id_is_refused(
    study, store, weights, tmp_path, config, seed, expected
):
    origin = checkpoint_origin("b", config, seed)
    files = {"model.safetensors": weights, "logits.npy": npy(LOGITS), "labels.npy": npy(LABELS)}
    store.write(0, "best", files, {"epoch": 2, "metrics": {}, "trial": origin})
    with pytest.raises(BundleError, match=expected):
        export_trial(study, choose_trial(study), store, tmp_path / "best")


def test_the_weights_file_may_lie_elsewhere_on_each_machine(study, store, weights, tmp_path):
    here = CONFIG.replace(pretrained=True, weights="/here/w.safetensors")
    there = here.replace(weights="/there/w.safetensors")
    files = {"model.safetensors": weights, "logits.npy": npy(LOGITS), "labels.npy": npy(LABELS)}
    store.write(0, "best", files, {"epoch": 2, "metrics": {}, "trial": checkpoint_origin("a", there, 11)})
    export_trial(study, recorded(study, 0, config=here.to_dict()), store, tmp_path / "best")


def test_a_bundle_is_of_its_trial_under_any_study_name_and_of_no_other(study, store, weights, tmp_path):
    keep(store, 0, weights)
    export_trial(study, choose_trial(study), store, tmp_path / "best")
    found = read_bundle(tmp_path / "best").manifest
    spec = read_spec(study)
    assert is_of_trial(found, trial_manifest("renamed", spec, choose_trial(study)))
    other = CONFIG.replace(learning_rate=0.07).to_dict()
    assert not is_of_trial(found, trial_manifest("colours", spec, recorded(study, 0, config=other)))
    assert not is_of_trial(found, trial_manifest("colours", spec, recorded(study, 0, seed=12)))
    assert not is_of_trial(found, trial_manifest("colours", spec, recorded(study, 0, best_epoch=1)))


def with_split(study, split_digest):
    """Add the best trial, which recorded the digest of its split, and return its number."""
    known = {"config": CONFIG.to_dict(), "best_epoch": 2, "seed": 11, "facts": FACTS, "versions": {"torch": "2"}}
    metrics = {"best_metrics": {"macro_f1": 0.97}, "split_digest": split_digest}
    study.add_trial(optuna.trial.create_trial(value=0.97, user_attrs={**known, **metrics}))
    return len(study.trials) - 1


def test_a_bundle_knows_the_images_that_its_trial_was_made_with(study, store, weights, dataset, tmp_path):
    known = ImageDigests.of(dataset)
    number = with_split(study, known.split_digest)
    store.keep_images(known.split_digest, known.to_bytes())
    keep(store, number, weights)
    export_trial(study, choose_trial(study, number), store, tmp_path / "best")
    found = read_bundle(tmp_path / "best")
    assert found.known == known
    assert found.manifest.data.split_digest == known.split_digest


@pytest.mark.parametrize("content", [None, b"torn", ImageDigests().to_bytes()])
def test_missing_or_damaged_digests_are_reported_and_the_model_is_exported(
    study, store, weights, dataset, tmp_path, caplog, content
):
    digest = ImageDigests.of(dataset).split_digest
    number = with_split(study, digest)
    if content is not None:
        store.keep_images(digest, content)
    keep(store, number, weights)
    export_trial(study, choose_trial(study, number), store, tmp_path / "best")
    assert read_bundle(tmp_path / "best").known is None
    assert "the bundle has no digests of its images" in caplog.text


def test_a_trial_of_an_earlier_version_says_that_its_images_are_not_known(study, store, weights, tmp_path, caplog):
    keep(store, 0, weights)
    export_trial(study, choose_trial(study), store, tmp_path / "best")
    assert read_bundle(tmp_path / "best").known is None
    assert "an earlier version of hpo trained it" in caplog.text


def test_no_path_of_this_machine_leaves_with_a_bundle(study, store, weights, tmp_path):
    here = CONFIG.replace(pretrained=True, weights="/home/ada/private/w.safetensors")
    keep(store, 0, weights)
    export_trial(study, recorded(study, 0, config=here.to_dict()), store, tmp_path / "best")
    for file in ("config.json", "metrics.json", "classes.json"):
        assert "/home/ada" not in (tmp_path / "best" / file).read_text()
        assert str(tmp_path) not in (tmp_path / "best" / file).read_text()
    assert read_bundle(tmp_path / "best").manifest.config.weights == "w.safetensors"


def test_a_checkpoint_without_a_usable_model_is_refused(study, store, weights, tmp_path):
    tensors = {name: tensor * float("nan") for name, tensor in safetensors.torch.load(weights).items()}
    for content, expected in ((b"no weights", "holds no weights"), (safetensors.torch.save(tensors), "holds NaN")):
        keep(store, 0, content)
        with pytest.raises(BundleError, match=rf"{expected}.*name another --trial"):
            export_trial(study, choose_trial(study), store, tmp_path / "best")

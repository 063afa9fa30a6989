"""From a bundle, a study and their images to the page."""

import io
import json
import re

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from hpo.bundle.bundle import read_bundle, write_bundle
from hpo.bundle.corrupted_measurement import keep_record
from hpo.bundle.corrupted_records import RobustnessRecord
from hpo.data.synthetic import write_cells
from hpo.errors import BundleError, DataError
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.intervals import Score
from hpo.evaluation.metrics import report
from hpo.evaluation.robustness import FamilyScore, Robustness
from hpo.report.build import report_bundle, report_study
from search_spaces import load_space
from storage import Limits, StudySpec, create_study, open_store, read_spec

from .conftest import CONFIG, SPLIT, section_of


def test_with_images_every_section_has_content(cells):
    page = report_bundle(cells.bundle, cells.images, cells.options)
    assert 'class="missing"' not in page
    for key in ("data", "confusion", "saliency"):
        assert "data:image/png;base64," in section_of(page, key)
    robustness = section_of(page, "robustness")
    for name in ("noise", "grid-mask", "channel-shuffle", "stain-deposits", "light-and-focus"):
        assert name in robustness
    assert robustness.count("<svg") == 2
    saliency = section_of(page, "saliency")
    assert saliency.count("<img") >= 4
    assert "Right: a typical image of each class" in saliency


def test_images_of_a_mistake_are_those_of_the_matrix(cells):
    section = section_of(report_bundle(cells.bundle, cells.images, cells.options), "confusion")
    pairs = read_bundle(cells.bundle).metrics["validation"]["worst_pairs"]
    assert section.count('<div class="pair">') == len(pairs)
    assert section.count("<img") == sum(min(pair["count"], 8) for pair in pairs)


def test_without_images_the_page_says_how_to_add_them(cells):
    page = report_bundle(cells.bundle, None, cells.options)
    assert "<img" not in page
    for key in ("data", "confusion", "saliency", "robustness"):
        assert "--data DATA" in section_of(page, key)


def test_the_test_part_stays_locked(cells, monkeypatch):
    from hpo.data import Dataset

    before = cells.metrics()
    monkeypatch.setattr(Dataset, "open_test", lambda self: pytest.fail("the test part was opened"))
    report_bundle(cells.bundle, cells.images, cells.options)
    assert cells.metrics() == before


def test_figures_of_a_retrained_model_on_its_training_images_say_so(cells, tmp_path, monkeypatch):
    from hpo.data import Dataset

    bundle = read_bundle(cells.bundle)
    manifest = bundle.manifest.model_copy(update={"stage": "retrained"})
    metrics = {**bundle.metrics, "test": report(*bundle.validation, bundle.manifest.classes).to_dict()}
    write_bundle(tmp_path / "final", manifest, bundle.model, metrics, validation=bundle.validation)
    monkeypatch.setattr(Dataset, "open_test", lambda self: pytest.fail("the test part was opened"))
    page = report_bundle(tmp_path / "final", cells.images, cells.options)
    for key, title in (("saliency", "Where the model looks"), ("robustness", "Robustness")):
        assert f"{title} (on images it was trained on)</h2>" in section_of(page, key)
        assert "has trained on these images" in section_of(page, key)
    assert "The images of the test part are not shown" in section_of(page, "confusion")
    assert "<img" not in section_of(page, "confusion")


def test_a_measurement_under_corruptions_that_the_bundle_keeps_needs_no_images(cells):
    bundle = read_bundle(cells.bundle)
    score, families = Score.of(0.5, 40), []
    for name, kind in (("seen", "noise"), ("unseen", "motion")):
        families.append(FamilyScore(name, 1, score, tuple(Condition(kind, s, 8, 8 - s) for s in range(1, 6))))
    for part, count in (("test", 2), ("val", 1)):
        result = Robustness(40, 90, Score.of(0.9, 40), tuple(families[:count]))
        record = RobustnessRecord(f"2026-01-0{count}", part, part, bundle.manifest.data.fingerprint, result)
        keep_record(cells.bundle, record)
    page = report_bundle(cells.bundle, None, cells.options)
    section = section_of(page, "robustness")
    for words in ("motion", "0.5000", "40 test images (of 90, chosen at random)", "Errors are 3.8 times"):
        assert words in section
    assert "Under unseen corruptions" in page
    write_json(cells.bundle / "metrics.json", lambda stored: stored["corrupted"].pop(0))
    section = section_of(report_bundle(cells.bundle, None, cells.options), "robustness")
    assert "Not measured: corruptions that no search sees." in section
    assert "40 validation images" in section


def write_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_other_images_are_refused(cells, tmp_path):
    write_cells(tmp_path / "other", 48, size=32, seed=9)
    with pytest.raises(DataError, match="the model was made with other images than"):
        report_bundle(cells.bundle, tmp_path / "other", cells.options)


def test_an_invalid_bundle_is_refused(cells, tmp_path):
    with pytest.raises(BundleError, match="no such folder"):
        report_bundle(tmp_path / "nothing", None, cells.options)


def test_two_reports_are_the_same_but_for_the_time(cells):
    one, two = (report_bundle(cells.bundle, cells.images, cells.options) for _ in range(2))
    assert re.sub(r"Made on .* UTC", "", one) == re.sub(r"Made on .* UTC", "", two)


@pytest.fixture
def study(database, cells):
    """Return a study of three trials with a checkpoint of the best in a store: made by hand, as if trained."""
    database.initialise()
    bundle = read_bundle(cells.bundle)
    origin = bundle.manifest.data
    space = load_space("quick").with_fixed({"backbone": CONFIG.backbone, "image_size": CONFIG.image_size})
    spec = StudySpec(
        space=space.to_dict(), space_fingerprint=space.fingerprint, metric="accuracy", seed=SPLIT.seed, sampler="tpe",
        pruner="none", data_fingerprint=origin.fingerprint,
        data={
            "classes": list(bundle.manifest.classes), "counts": {"train": 57, "val": 19, "test": 20},
            "split": origin.split, "seed": SPLIT.seed, "val_fraction": SPLIT.val_fraction,
            "test_fraction": SPLIT.test_fraction, "max_unreadable": 0.05,
        },
    )  # fmt: skip
    made = create_study(database, "by hand", spec, limits=Limits(trials=3))
    facts = {"precision": "fp32", "mean": [0.5] * 3, "std": [0.5] * 3, "weights": None}
    known = {"config": CONFIG.to_dict(), "best_epoch": 2, "seed": 11, "facts": facts, "versions": {"torch": "2"}}
    rate = {"learning_rate": FloatDistribution(1e-4, 1e-1)}
    for value in (0.5, 0.9, 0.7):
        made.add_trial(
            create_trial(
                value=value, params={"learning_rate": value / 10}, distributions=rate, user_attrs=known,
                intermediate_values={1: value / 2, 2: value},
            )
        )  # fmt: skip
    return made


def stored(study, cells, root):
    """Return a store with the checkpoint of trial 1."""
    bundle = read_bundle(cells.bundle)
    store = open_store(root, read_spec(study).id)
    files = {"model.safetensors": bundle.model}
    for name, array in (("logits", bundle.validation.logits), ("labels", bundle.validation.labels)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[f"{name}.npy"] = buffer.getvalue()
    store.write(1, "best", files, {"epoch": 2, "metrics": {}})
    return store


@pytest.mark.postgres
def test_a_study_is_shown_with_its_best_trial(study, database, cells, tmp_path):
    page = report_study(database, study, stored(study, cells, tmp_path / "artifacts"), cells.images, cells.options)
    assert "trial 1, mobilenetv2_035 at 32 pixels" in page
    assert "best (trial 1)" in section_of(page, "curves")
    assert "--study &#39;by hand&#39; --trial 1" in section_of(page, "configuration")
    assert "3 finished trials so far" in section_of(page, "importance")
    for key in ("data", "confusion", "saliency"):
        assert "<img" in section_of(page, key)


@pytest.mark.postgres
def test_a_study_whose_best_checkpoint_is_gone_shows_only_the_search(study, database, cells, tmp_path):
    store = open_store(tmp_path / "elsewhere", read_spec(study).id)
    page = report_study(database, study, store, None, cells.options)
    assert "trial 1 of study &#39;by hand&#39; cannot be exported" in section_of(page, "classes")
    assert "0.9000" in page[: page.index("<main>")]
    assert "<svg" in section_of(page, "history")

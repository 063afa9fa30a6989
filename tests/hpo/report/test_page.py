"""The whole page: sections, escaping, no external references, a bounded size."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from optuna.trial import create_trial

from hpo.evaluation.calibration import probabilities, reliability
from hpo.evaluation.metrics import report
from hpo.report.build import bundle_page, study_page
from hpo.report.model_data import ModelData
from hpo.report.page import MOST_BYTES, render
from hpo.report.study_data import Importance
from hpo.search.ranking import rank
from hpo.search.trial_record import TrialRecord
from search_spaces import load_space

from .conftest import CONFIG, make_bundle, make_study, make_validation, section_of

CLASSES = ("blue", "green", "red")
SECTIONS = (
    "data", "history", "noise", "importance", "parallel", "curves", "configuration", "classes", "confusion",
    "calibration", "sets", "saliency", "robustness", "cost",
)  # fmt: skip
NASTY = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x_1$ & '\u2028\x07")


class Reader(HTMLParser):
    """Tags, attributes and ids of a page, and whether every element is closed."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.attributes, self.ids = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(trials=24, classes=CLASSES, *, found=None):
    facts = replace(make_study(trials, classes=classes), importance=found)
    return render(study_page(facts, ModelData(make_bundle(classes)), None, ""))


@pytest.fixture(scope="module")
def page():
    return page_of(found=Importance({"learning_rate": 0.8, "dropout": 0.2}, 4, 20))


def test_every_section_is_there_and_linked(page):
    assert tuple(re.findall(r'<section id="(\w+)"', page)) == SECTIONS
    assert set(re.findall(r'<a href="#(\w+)"', page)) == set(SECTIONS)


def test_the_page_is_well_formed(page):
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))


def test_there_are_no_external_references_and_no_scripts(page):
    reader = Reader(page)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(reader.tags)
    assert not re.search(r"https?:|//\w|@import", page)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", page))


def test_the_values_of_several_seeds_are_in_the_key_figures_and_the_history():
    facts = make_study(8)
    best = next(trial for trial in facts.trials if trial.number == facts.best)
    again = replace(
        best, number=8, value=(best.value or 0) - 0.01, record=replace(best.record, replicate_of=best.number)
    )
    attributes = {"replicate_of": best.number}
    frozen = [create_trial(value=best.value), create_trial(value=again.value, user_attrs=attributes)]
    frozen[0].number, frozen[1].number = best.number, 8
    found = render(study_page(replace(facts, trials=[*facts.trials, again], ranked=rank(frozen)), None, None, ""))
    assert "Mean accuracy over seeds" in found[: found.index("<main>")]
    history = section_of(found, "history")
    assert "1 trial has the parameters of an earlier one and a fresh seed" in history
    assert f"as trial {best.number}, fresh seed: " in history
    assert "under 2 seeds: mean" in history


def test_key_figures_stand_on_top(page):
    top = page[: page.index("<main>")]
    for words in (
        "Validation accuracy",
        "95 % interval",
        "Macro F1",
        "Calibration error",
        "Finished trials",
        "Training time",
    ):
        assert words in top
    assert "a little too good" in top, "the best of many on the validation part flatters"


@pytest.mark.parametrize(("key", "words"), [
    ("data", ("110: 80 train, 20 validation, 10 test, locked", "stratified", "blue", "--data DATA")),
    ("history", ("best complete trial so far", "The best trials", "optimiser", "complete", "pruned")),
    ("importance", ("the best 4 of 20 finished trials", "80\N{NO-BREAK SPACE}%", "a hint")),
    ("parallel", (">learning<", "not used", "Pruned trials count")),
    ("curves", ("best (trial", "ends early was pruned")),
    ("configuration", ("hpo run DATA", "--space quick", "hpo export-best --study colours", "hpo retrain best/")),
    ("classes", ("precision", "recall", "95 % interval", "balanced accuracy")),
    ("confusion", ("predicted", "taken for", "--data DATA")),
    ("calibration", ("as trained", "Brier", "log-likelihood", "fitted on 200 validation images")),
    ("saliency", ("hpo report colours --data DATA",)),
    ("robustness", ("hpo report colours --data DATA",)),
    ("cost", ("per epoch", "saved by pruning", "peak memory", "1.0 GB", "500 images/s")),
])  # fmt: skip
def test_a_section_has_its_content(page, key, words):
    section = section_of(page, key)
    for word in words:
        assert word in section


@pytest.mark.parametrize("name", NASTY)
def test_names_are_escaped(name):
    page = page_of(6, (name, "green", "red"))
    reader = Reader(page)
    assert "script" not in reader.tags
    assert not [attribute for attribute, _ in reader.attributes if attribute.startswith("on")]
    assert "<img src=x" not in page
    assert "\x07" not in page


def test_names_of_studies_and_settings_are_escaped():
    study = replace(make_study(6), name=NASTY[0])
    trials = [replace(t, params={NASTY[1]: i}, record=TrialRecord(reason=NASTY[0])) for i, t in enumerate(study.trials)]
    page = render(study_page(replace(study, trials=trials), ModelData(make_bundle(CLASSES)), None, ""))
    assert "script" not in Reader(page).tags
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(("trials", "classes"), [(5_000, 3), (40, 100), (1, 2)])
def test_every_size_gives_a_page_of_bounded_size(trials, classes):
    names = tuple(f"class number {i} with a long and winding name" for i in range(classes))
    page = page_of(trials, names)
    assert len(page.encode()) < MOST_BYTES / 2, "the other half is for pictures"
    assert Reader(page).open == []
    if trials == 5_000:
        assert "400 of" in section_of(page, "parallel")
        assert "1,500 of" in section_of(page, "history")
    if classes == 100:
        assert "numbered as in the table" in section_of(page, "confusion")
        scores = section_of(page, "classes")
        assert scores.count("<tr") == 101
        assert '<td class="number faint">100</td>' in scores


def test_a_study_without_a_trial_gives_a_page():
    page = render(study_page(make_study(0), None, None, "study 'colours' has no complete trial among 0"))
    assert "No trial has reported a value yet." in section_of(page, "history")
    assert "no complete trial among 0" in section_of(page, "classes")
    assert "there is none to export" in section_of(page, "configuration")
    assert "no complete trial yet" in page[: page.index("<main>")]


def test_a_study_made_with_findings_shows_what_was_left_out():
    study = make_study(3)
    findings = {
        "drops": {"outlier": [f"a/{i}.png" for i in range(9)], "copy": ["<b>b</b>.png"]}, "source": "found.csv",
        "parts": {"val": ["c.png"]},
    }  # fmt: skip
    spec = study.spec.model_copy(update={"data": {**study.spec.data, "findings": findings}})
    section = section_of(render(study_page(replace(study, spec=spec), None, None, "none")), "data")
    for words in (
        "Left out by found.csv: 10 images: 9 outlier, 1 copy; 1 moved to another part",
        "a/0.png",
        "and 4 more",
    ):
        assert words in section
    assert "&lt;b&gt;b&lt;/b&gt;.png" in section
    assert "Decided by findings" not in section_of(page_of(3), "data")


def test_a_study_over_a_trial_list_has_no_importance():
    facts = make_study(4)
    runs = [replace(trial, params={"run": f"run {trial.number}"}) for trial in facts.trials]
    page = render(study_page(replace(facts, trials=runs), ModelData(make_bundle(CLASSES)), None, ""))
    assert "nothing was searched" in section_of(page, "importance")
    assert "nothing was searched" in section_of(page, "parallel")


def test_a_bundle_shows_its_test_accesses():
    bundle = make_bundle(CLASSES, stage="retrained")
    openings = [{"date": "2026-01-02T03:04:05", "command": "retrain", "data": "f" * 64, "n": 10, "accuracy": 0.9}]
    test = bundle.metrics["validation"] | {"accuracy": 0.9, "interval": [0.6, 0.98], "n": 10}
    page = render(
        bundle_page(
            ModelData(
                replace(bundle, metrics={**bundle.metrics, "test": test, "test_openings": openings}), "s3://cells/best"
            ),
            None,
        )
    )
    top, origin = page[: page.index("<main>")], section_of(page, "origin")
    assert "Test accuracy" in top
    assert "Validation accuracy of the trial" in top
    assert "2026-01-02 03:04 UTC" in origin
    assert "0.9000" in origin
    assert "hpo retrain s3://cells/best --data DATA" in origin
    assert "<h1>best</h1>" in top
    assert "history" not in Reader(page).ids


def test_a_bundle_without_test_access_says_so():
    page = render(bundle_page(ModelData(make_bundle(CLASSES), "best"), None))
    assert "this model has not been tested yet" in section_of(page, "origin")


def test_a_bundle_without_predictions_says_how_to_get_them():
    bundle = replace(make_bundle(CLASSES), validation=None, metrics={})
    page = render(bundle_page(ModelData(bundle, "best"), None))
    for key in ("classes", "confusion", "calibration"):
        assert 'class="missing"' in section_of(page, key)
    assert "export" in section_of(page, "calibration")


def test_an_ensemble_names_its_members_and_its_gain():
    member = {
        "temperature": 1.1, "best_epoch": 2, "mean": (0.5,) * 3, "std": (0.5,) * 3,
        "config": make_bundle(CLASSES).manifest.config,
    }  # fmt: skip
    bundle = make_bundle(CLASSES, stage="ensemble", members=[member | {"trial": t, "weight": 0.5} for t in (4, 9)])
    comparison = {"n": 200, "metric": "accuracy", "best": 0.9, "joined": 0.9375, "gained": 9, "lost": 1}
    joined = {"best_trial": 4, "validation": comparison, "held_out": None}
    page = render(
        bundle_page(ModelData(replace(bundle, metrics={**bundle.metrics, "joined": joined}), "s3://cells/best"), None)
    )
    origin = section_of(page, "origin")
    for words in ("Members", "0.500", "0.9375", "images that it was weighed on", "hpo ensemble --study colours"):
        assert words in origin


def test_calibration_is_that_of_the_bundle():
    """Of an ensemble the bundle alone knows what members that were chosen without the image are worth."""
    bundle = make_bundle(CLASSES)
    known = bundle.manifest.calibration
    worse = known.held_out.model_copy(update={"ece": 0.0777, "nll": 0.7531})
    manifest = bundle.manifest.model_copy(update={"calibration": known.model_copy(update={"held_out": worse})})
    section = section_of(
        render(bundle_page(ModelData(replace(bundle, manifest=manifest), "best"), None)), "calibration"
    )
    assert "0.0777" in section
    assert "0.7531" in section


def test_predictions_on_augmented_images_are_not_used_for_calibration():
    config = make_bundle(CLASSES).manifest.config.replace(augmentation="colour", validation_augmented=0.5)
    page = render(bundle_page(ModelData(make_bundle(CLASSES, config=config), "best"), None))
    assert "augmented images" in section_of(page, "calibration")


def of_bundle(stage, *, test=True, calibrated=True, n=200, **changes):
    """Return the page of a bundle; its test part, where it has one, has other figures than its validation part."""
    bundle = make_bundle(CLASSES, n, stage=stage, **changes)
    metrics = dict(bundle.metrics)
    if test:
        found = make_validation(len(CLASSES), 137, seed=9)
        rows = probabilities(found.logits)
        scaled = {
            "temperature": 1.5 if calibrated else None, "before": reliability(found.labels, rows).to_dict(),
            "after": reliability(found.labels, probabilities(found.logits, 1.5)).to_dict(),
        }  # fmt: skip
        metrics["test"] = {**report(*found, CLASSES).to_dict(), "calibration": scaled}
    return metrics, render(bundle_page(ModelData(replace(bundle, metrics=metrics), "final"), None))


OF_THE_TRIAL = (
    "These figures are of trial 4 of study colours, where this model has its recipe from, and not of this model"
)


def test_the_page_of_a_retrained_model_shows_that_model_on_the_test():
    metrics, page = of_bundle("retrained")
    test, validation = metrics["test"], metrics["validation"]
    assert test["macro_f1"] != validation["macro_f1"]
    for key in ("classes", "confusion", "calibration"):
        assert "the test part" in section_of(page, key)
        assert OF_THE_TRIAL not in section_of(page, key)
    classes = section_of(page, "classes")
    for name in CLASSES:
        assert f"{test['classes'][name]['f1']:.3f}" in classes
    assert f"{test['macro_f1']:.4f}" in classes
    assert f"{validation['macro_f1']:.4f}" not in classes
    assert f"{test['calibration']['before']['ece']:.4f}" in section_of(page, "calibration")
    assert "the temperature of trial 4 of study colours, another model" in section_of(page, "calibration")
    top = page[: page.index("<main>")]
    assert f"{test['macro_f1']:.4f}" in top
    assert f"{validation['macro_f1']:.4f}" not in top
    assert "mean over the classes, test part" in top
    assert "Validation accuracy of the trial" in top
    assert f"{validation['accuracy']:.4f}" in top
    rows = section_of(page, "data")
    assert all(f">{validation['classes'][name]['support']}<" in rows for name in CLASSES), (
        "validation, as its column says"
    )


def test_without_a_test_every_figure_of_a_retrained_model_is_marked_as_that_of_its_trial():
    _, page = of_bundle("retrained", test=False)
    for key in ("classes", "confusion", "calibration"):
        assert OF_THE_TRIAL in section_of(page, key)
    top = page[: page.index("<main>")]
    for name in ("Validation accuracy", "Macro F1", "Calibration error"):
        assert f"{name} of the trial" in top


def test_a_retrained_model_without_a_temperature_says_so():
    _, page = of_bundle("retrained", calibrated=False)
    assert "not calibrated: no temperature is applied" in section_of(page, "calibration")
    assert "Calibration error" not in page[: page.index("<main>")]


def test_a_test_from_before_probabilities_were_measured_there_says_so():
    bundle = make_bundle(CLASSES, stage="retrained")
    metrics = {**bundle.metrics, "test": report(*make_validation(len(CLASSES), 50, seed=9), CLASSES).to_dict()}
    page = render(bundle_page(ModelData(replace(bundle, metrics=metrics), "final"), None))
    assert "retrain it again" in section_of(page, "calibration")
    assert "test part" in section_of(page, "classes")


@pytest.mark.parametrize(("stage", "words"), [
    ("exported", "chosen this model&#39;s epoch"), ("soup", "chosen the trials of this soup"),
])  # fmt: skip
def test_figures_that_chose_the_model_say_so(stage, words):
    _, page = of_bundle(stage, test=False, ingredients=(1, 4) if stage == "soup" else ())
    assert words in page[: page.index("<main>")]
    assert OF_THE_TRIAL not in page


def test_figures_on_augmented_images_say_so():
    config = CONFIG.replace(augmentation="colour", validation_augmented=0.3)
    _, page = of_bundle("exported", test=False, config=config)
    assert "mean over the classes, validation part, augmented images" in page[: page.index("<main>")]
    for key in ("classes", "confusion"):
        assert "Not plain images: its trial was validated on augmented images" in section_of(page, key)
    _, page = of_bundle("retrained", config=config)
    assert "augmented images" not in section_of(page, "classes"), "the test part is of plain ones"


def test_the_temperature_on_the_page_is_the_one_that_is_applied():
    bundle = make_bundle(CLASSES, 12)
    stored = bundle.manifest.calibration.model_copy(update={"temperature": 0.9, "best_fit": 0.07})
    manifest = bundle.manifest.model_copy(update={"calibration": stored})
    page = render(bundle_page(ModelData(replace(bundle, manifest=manifest), "best"), None))
    section = section_of(page, "calibration")
    assert "The temperature is 0.900, fitted on 12 validation images (0.07 fits these best; kept closer to 1" in section


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_a_temperature_of_one_that_changes_nothing_is_said_once(temperature):
    bundle = make_bundle(CLASSES)
    before = reliability(bundle.validation.labels, probabilities(bundle.validation.logits))
    known = bundle.manifest.calibration
    same = known.held_out.model_copy(update={"ece": before.ece, "brier": before.brier, "nll": before.nll})
    stored = known.model_copy(update={"temperature": temperature, "held_out": same})
    manifest = bundle.manifest.model_copy(update={"calibration": stored, "temperature": temperature})
    section = section_of(
        render(bundle_page(ModelData(replace(bundle, manifest=manifest), "best"), None)), "calibration"
    )
    once = temperature == 1
    assert section.count(f"{before.ece:.4f}") == (1 if once else 2)
    assert ("it changes no probability" in section) == once
    assert ("with temperature" in section) != once


def test_no_path_of_this_machine_is_on_a_page():
    config = CONFIG.replace(weights="/home/ada/w.safetensors")
    _, page = of_bundle("exported", test=False, config=config)
    study = make_study(24, space=load_space("quick").with_fixed({"weights": "/home/ada/w.safetensors"}).to_dict())
    trials = [replace(t, record=replace(t.record, config=config.to_dict())) for t in study.trials]
    both = page + render(study_page(replace(study, trials=trials), None, None, "no model"))
    assert "/home/ada" not in both
    assert "--weights w.safetensors" in both

"""From options to a plan: contradictions are refused, no option is ignored."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpo.data import SplitOptions
from hpo.device import device_count, resolve_device
from hpo.errors import DataError, HpoError, ModelError, UsageError
from hpo.search.earlier_spaces import earlier_space, earlier_spaces, with_earlier_space, with_stored_space
from hpo.search.plan import (
    Plan,
    check_models,
    create_or_open_study,
    keep_or_lift_deadline,
    open_data,
    open_study_data,
    origin_of,
    refuse_another_search,
    refuse_other_normalisation,
    set_budget,
)
from hpo.search.resolved_space import resolve_space
from hpo.search.strategy import first_judged
from hpo.search.symmetry_choice import SymmetryChoice, record_symmetry
from hpo.search.worker import WorkerOptions, failures_at_the_end, work
from hpo.search.worker_context import Deadline
from search_spaces import SearchSpace, SpaceError, load_space
from storage import Control, StudyError, Worker, read_limits, read_spec, set_control
from storage.spec import write_spec
from tests.hpo.search.conftest import Bench


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a weights file that names its architecture; its content is not read."""
    (tmp_path / "w.safetensors").write_bytes(b"")
    (tmp_path / "w.json").write_text(json.dumps({"architecture": "mobilenetv2_035"}))
    return tmp_path / "w.safetensors"


def test_weights_choose_the_backbone_where_nothing_else_does(weights: Path) -> None:
    space = resolve_space("quick", weights=weights)
    assert space.fixed["backbone"] == "mobilenetv2_035"
    assert space.fixed["weights"] == str(weights.resolve())
    assert resolve_space("quick", weights=weights, backbone="resnet18").fixed["backbone"] == "resnet18"


@pytest.mark.parametrize(
    ("backbone", "fixed", "expected"),
    [
        ("resnet18", ["backbone=resnet34"], "--backbone resnet18 contradicts --set backbone=resnet34"),
        (None, ["epochs=3", "epochs=4"], "--set epochs=4 contradicts --set epochs=3"),
        (None, ["epochs"], "must be KEY=VALUE"),
        (None, ["=3"], "must be KEY=VALUE"),
    ],
)
def test_contradictions_are_refused(backbone: str | None, fixed: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        resolve_space("quick", backbone=backbone, fixed=fixed)


@pytest.mark.parametrize("fixed", ["pretrained=false", "weights=other.safetensors"])
def test_weights_that_contradict_the_space_are_refused(weights: Path, fixed: str) -> None:
    with pytest.raises(UsageError, match=f"contradicts --set {fixed.split('=', maxsplit=1)[0]}"):
        resolve_space("quick", weights=weights, fixed=[fixed])


def test_weights_of_another_network_do_not_replace_the_one_that_a_preset_names(weights: Path) -> None:
    with pytest.raises(UsageError, match=r"names tf_efficientnetv2_l; give --backbone mobilenetv2_035"):
        resolve_space("efficientnetv2-l-two-phase", weights=weights)
    space = resolve_space("efficientnetv2-l-two-phase", weights=weights, backbone="mobilenetv2_035")
    assert space.fixed["weights"] == str(weights.resolve())


@pytest.mark.parametrize("preset", ["random-guess", "cnn3-from-scratch"])
def test_a_preset_from_scratch_takes_no_weights(weights: Path, preset: str) -> None:
    with pytest.raises(UsageError, match=f"{preset} starts from random weights"):
        resolve_space(preset, weights=weights)


def test_trials_are_judged_from_their_last_phase_on() -> None:
    assert first_judged(load_space("quick")) == 1
    assert first_judged(load_space("efficientnetv2-l-two-phase")) == 11
    assert first_judged(load_space("efficientnetv2-l-two-phase").with_fixed({"epochs": 3})) == 2


def test_every_value_of_a_discrete_field_is_possible() -> None:
    space = SearchSpace.from_dict(
        {
            "name": "sizes",
            "dimensions": {
                "backbone": {"type": "choice", "choices": ["resnet18", "resnet34"]},
                "image_size": {"type": "int", "low": 64, "high": 128, "step": 32, "when": {"backbone": ["resnet18"]}},
            },
            "fixed": {"epochs": 3},
            "points": [],
        }
    )
    assert space.values("epochs") == [3]
    assert space.values("backbone") == ["resnet18", "resnet34"]
    assert space.values("image_size") == [64, 96, 128, 224], "with resnet34 it is the default"
    assert space.values("batch_size") == [64]


PHASED: dict[str, Any] = {
    "name": "phased",
    "fixed": {"pretrained": False, "image_size": 32, "unfreeze_depth": 0.0, "phase1.epochs": 2, "phase2.epochs": 4},
    "dimensions": {
        "backbone": {"type": "choice", "choices": ["test_resnet", "test_vit"]},
        "normalisation": {"type": "choice", "choices": ["native", "group"], "when": {"backbone": ["test_resnet"]}},
        "phase2.unfreeze_depth": {"type": "float", "low": 0.5, "high": 1.0, "step": 0.1},
        "phase2.schedule": {"type": "choice", "choices": ["plateau", None]},
    },
    "points": [],
}


def test_every_value_of_a_field_of_a_phase_is_possible_and_the_epochs_are_their_sum() -> None:
    space = SearchSpace.from_dict(PHASED)
    assert space.values("epochs") == [6]
    assert space.values("phase2.schedule") == [None, "plateau"]
    assert space.values("phase1.schedule") == [None], "what the run has"
    head = {"phase1.epochs": {"type": "int", "low": 1, "high": 3}}
    opened = SearchSpace.from_dict({**PHASED, "fixed": {"phase2.epochs": 4}, "dimensions": head})
    assert opened.values("epochs") == [5, 6, 7]


def test_each_backbone_is_built_in_each_of_its_normalisations_in_the_deepest_phase() -> None:
    found = check_models(SearchSpace.from_dict(PHASED), 4)
    assert set(found) == {"test_resnet (native)", "test_resnet (group)", "test_vit"}
    assert all(check.trainable == check.parameters for check in found.values())


def test_a_normalisation_that_a_backbone_lacks_is_refused_before_a_study_exists() -> None:
    anywhere = {**PHASED["dimensions"], "normalisation": {"type": "choice", "choices": ["native", "group"]}}
    with pytest.raises(ModelError, match="normalisation is 'group'"):
        check_models(SearchSpace.from_dict({**PHASED, "dimensions": anywhere}), 4)


def test_epochs_that_leave_a_phase_without_any_are_refused_before_a_study_exists(tmp_path: Path) -> None:
    (tmp_path / "phased.yaml").write_text("fixed: {phase1.epochs: 2, phase2.epochs: 4}")
    path = str(tmp_path / "phased.yaml")
    assert resolve_space(path, fixed=["epochs=2", "phase2.warmup=0.1"]).values("epochs") == [2]
    with pytest.raises(SpaceError, match=r"^epochs is 1, but must be at least 2: one for each phase$"):
        resolve_space(path, fixed=["epochs=1"])
    with pytest.raises(SpaceError, match=r"^phase2.learning_rat: no such key; did you mean phase2.learning_rate\?$"):
        resolve_space(path, fixed=["phase2.learning_rat=1e-3"])


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:²", "cuda:-1", "auto:1", "cuda:99", "cpu:0"])
def test_a_missing_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="device is"):
        resolve_device(name)


def test_a_named_device_is_one_device() -> None:
    assert resolve_device("cpu") == "cpu"
    assert device_count("cpu") == device_count("cuda:0") == 1


@pytest.mark.postgres
def test_a_budget_stays_until_it_is_changed_and_a_passed_deadline_is_dropped(bench: Bench) -> None:
    limits = set_budget(bench.db, bench.study, 7, timedelta(hours=1))
    assert set_budget(bench.db, bench.study, None, None) == limits
    assert Deadline(bench.db, bench.study).has_passed() is False
    set_budget(bench.db, bench.study, None, timedelta(0))
    deadline = Deadline(bench.db, bench.study)
    assert deadline.has_passed()
    assert set_budget(bench.db, bench.study, None, None).deadline is None
    deadline.read()
    assert not deadline.has_passed()
    assert read_limits(bench.study).trials == 7


@pytest.mark.postgres
def test_failures_at_the_end_of_a_study_are_counted_across_restarts(bench: Bench) -> None:
    from optuna.trial import TrialState

    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL):
        trial = bench.study.ask()
        trial.report(0.5, step=1)
        bench.study.tell(trial, state=state)
    assert failures_at_the_end(bench.study) == 2


@pytest.mark.postgres
def test_five_failed_trials_in_a_row_end_the_worker(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.trial import TrialState

    import hpo.search.worker as worker_module
    from hpo.search.trial import TrialOutcome
    from storage import Claim

    def fail(context: object, claim: Claim) -> TrialOutcome:
        bench.db.storage.set_trial_state_values(claim.lease.trial_id, TrialState.FAIL)
        return TrialOutcome.FAILED

    monkeypatch.setattr(worker_module, "run_trial", fail)
    with pytest.raises(HpoError, match="5 trials failed one after another"):
        worker_module._claim_and_train_trials(bench.context(tiny_space))
    assert len([t for t in bench.study.get_trials() if t.state == TrialState.FAIL]) == 5


def other_plan(bench: Bench, data: Path, space: SearchSpace) -> Plan:
    return Plan(data, "tiny", space, None, "accuracy", "tpe", "none", bench_split(bench))


def bench_split(bench: Bench) -> SplitOptions:
    return origin_of(read_spec(bench.study)).options


@pytest.mark.postgres
def test_a_study_says_what_changed_in_its_data(
    bench: Bench, cells: Path, tiny_space: SearchSpace, tmp_path: Path
) -> None:
    more = shutil.copytree(cells, tmp_path / "more")
    image = next(path for path in sorted(more.rglob("*")) if path.is_file() and path.suffix != ".csv")
    Image.open(image).transpose(Image.Transpose.ROTATE_180).save(image.with_name("new.png"))
    plan = other_plan(bench, more, tiny_space)
    dataset = open_data(plan, tmp_path / "cache")
    with pytest.raises(DataError, match=r"study 'tiny' was made with other images than .*1 image more \(81, then 80\)"):
        create_or_open_study(bench.db, plan, dataset)
    spec = read_spec(bench.study)
    with pytest.raises(DataError, match=r"study .tiny. was made with other images than .*1 image more"):
        open_study_data(more, spec, 32, tmp_path / "cache", name="tiny")
    create_or_open_study(bench.db, replace(plan, data=cells), bench.dataset)


@pytest.mark.postgres
def test_a_study_made_with_the_names_of_classes_as_written_goes_on(
    bench: Bench, cells: Path, tiny_space: SearchSpace
) -> None:
    spec = read_spec(bench.study)
    write_spec(bench.study, spec.model_copy(update={"data_fingerprint": "e" * 64}))
    dataset = replace(bench.dataset, earlier_fingerprint="e" * 64)
    create_or_open_study(bench.db, other_plan(bench, cells, tiny_space), dataset)
    assert read_spec(bench.study).data_fingerprint == "e" * 64


@pytest.mark.postgres
@pytest.mark.parametrize(("kept", "level"), [(None, 65535), (16383, 16383)])
def test_images_of_16_bits_are_opened_by_the_white_level_of_the_study(
    bench: Bench, tiny_space: SearchSpace, tmp_path: Path, kept: int | None, level: int
) -> None:
    """A study of an earlier version has no white level, which means 65535."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 4096, (8, 8)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / "deep" / name / f"{number}.png")
    spec = read_spec(bench.study)
    write_spec(bench.study, spec.model_copy(update={"data": {**spec.data, "white_level": kept}}))
    plan = other_plan(bench, tmp_path / "deep", tiny_space)
    dataset = open_data(plan, tmp_path / "cache", db=bench.db)
    assert dataset.white_level == level
    assert any(f"{level} is taken for white" in note for note in dataset.notes)
    assert open_data(replace(plan, study="new"), tmp_path / "cache", db=bench.db).white_level == 4095


@pytest.mark.postgres
def test_a_worker_that_splits_the_same_images_otherwise_claims_no_trial(
    bench: Bench, cells: Path, tiny_space: SearchSpace, tmp_path: Path
) -> None:
    spec = read_spec(bench.study)
    elsewhere = spec.model_copy(update={"data": {**spec.data, "split_digest": "0" * 32}})
    write_spec(bench.study, elsewhere)
    with pytest.raises(DataError, match="but here other images validate or test"):
        work(bench.db, WorkerOptions(cells, "tiny", tmp_path / "cache", tmp_path / "artifacts", "cpu"))
    assert not [trial for trial in bench.study.get_trials() if trial.state.name != "WAITING"]
    with pytest.raises(DataError, match="but here other images validate or test"):
        create_or_open_study(bench.db, other_plan(bench, cells, tiny_space), bench.dataset)


@pytest.mark.postgres
def test_a_study_without_a_digest_of_its_split_goes_on_and_says_so(
    bench: Bench, cells: Path, tiny_space: SearchSpace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = read_spec(bench.study)
    added = ("split_digest", "class_counts")
    old = {key: value for key, value in spec.data.items() if key not in added}
    write_spec(bench.study, spec.model_copy(update={"data": old}))
    create_or_open_study(bench.db, other_plan(bench, cells, tiny_space), bench.dataset)
    set_control(bench.db, bench.study, Control.STOP)
    work(bench.db, WorkerOptions(cells, "tiny", tmp_path / "cache", tmp_path / "artifacts", "cpu"))
    assert sum("no digest of its split" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_the_earlier_form_of_a_space_is_what_the_command_gave_then(name: str) -> None:
    earlier = earlier_space(name, fixed=("epochs=3",))
    assert earlier is not None
    assert (earlier.fixed["symmetry"], earlier.fixed["epochs"]) == ("dihedral", 3)
    assert "flips" in earlier.values("augmentation")
    assert earlier_space(name, fixed=("symmetry=none",)) is None
    assert earlier_space(name, fixed=("augmentation=flips",)) is not None  # refused today


def test_every_earlier_form_of_a_space_is_known() -> None:
    """Before `symmetry` `quick` had flips, then slight warps, now mixtures too."""
    forms = earlier_spaces("quick", fixed=("epochs=3",))
    assert [form.fixed["augmentation"] for form in forms] == ["flips", "geometric"]
    assert [form.fixed["symmetry"] for form in forms] == ["dihedral", "none"]
    (named,) = earlier_spaces("quick", fixed=("symmetry=mirror",))
    assert (named.fixed["symmetry"], named.fixed["augmentation"]) == ("mirror", "geometric")
    assert earlier_spaces("quick", fixed=("augmentation=mixture",))[-1].fixed["augmentation"] == "mixture"


def test_the_earlier_form_of_a_preset_is_found_whether_or_not_symmetry_is_named() -> None:
    """Presets of seeds 000 and 003 had balanced sampling before oversampling to a count was a field."""
    for name in ("convnext-xlarge-augmix", "convnext-large-last-layers"):
        for fixed in ((), ("symmetry=dihedral",), ("symmetry=none",)):
            earlier = earlier_space(name, fixed=fixed)
            assert earlier is not None
            assert earlier.fixed["balanced_sampling"] is True
            assert earlier.fixed["symmetry"] == ("none" if "symmetry=none" in fixed else "dihedral")
            assert "background" not in earlier.open
        assert earlier_space(name, fixed=("oversample_to=100",)) is None, "no study of before has it"


@pytest.mark.postgres
def test_a_study_from_before_symmetry_goes_on_as_it_was_made_by_the_same_command(bench: Bench) -> None:
    """The study holds a space without symmetry; today's command asks for none, and then for one by name."""
    old = read_spec(bench.study)
    stored = {**old.space, "fixed": {k: v for k, v in old.space["fixed"].items() if k != "symmetry"}}
    write_spec(bench.study, old.model_copy(update={"space": stored}))
    earlier = SearchSpace.from_dict(stored)
    asked = earlier.with_fixed({"symmetry": "none", "augmentation": "geometric"})
    split = SplitOptions(seed=0, val_fraction=0.2, test_fraction=0.1)
    plan = Plan(bench.cells, "tiny", asked, None, "accuracy", "tpe", "none", split, earlier=(earlier,))
    made, note = with_earlier_space(bench.db, plan)
    assert made.space == earlier
    assert note is not None
    assert note.endswith("goes on so: symmetry=dihedral, augmentation=flips")
    assert create_or_open_study(bench.db, made, bench.dataset)._study_id == bench.study._study_id
    record_symmetry(bench.study, SymmetryChoice("dihedral", "given"))
    assert with_earlier_space(bench.db, plan) == (made, note)
    named = replace(plan, earlier=())
    assert with_earlier_space(bench.db, named) == (named, None)
    with pytest.raises(StudyError, match="another search space"):
        create_or_open_study(bench.db, named, bench.dataset)
    assert with_earlier_space(bench.db, replace(plan, study="new")) == (replace(plan, study="new"), None)


@pytest.mark.postgres
def test_a_study_that_measured_its_symmetry_is_not_taken_for_one_of_before(bench: Bench) -> None:
    """Its space is then that of a study from when all images were mirrored and turned."""
    measured = SearchSpace.from_dict(read_spec(bench.study).space)
    asked = measured.with_fixed({"symmetry": "none", "augmentation": "geometric"})
    record_symmetry(bench.study, SymmetryChoice("dihedral", "measured", "it was seen"))
    plan = replace(other_plan(bench, bench.cells, asked), earlier=(measured,))
    assert with_earlier_space(bench.db, plan) == (plan, None)


@pytest.mark.postgres
def test_a_study_that_measured_its_symmetry_goes_on_with_the_edition_of_its_space(bench: Bench) -> None:
    """Its space is an edition that leaves the symmetry open, with the one that was measured."""
    stored = SearchSpace.from_dict(read_spec(bench.study).space)
    values = {name: value for name, value in stored.fixed.items() if name != "symmetry"} | {"augmentation": "geometric"}
    edition = SearchSpace("tiny", fixed=values, dimensions=stored.dimensions)
    chosen = edition.with_fixed({"symmetry": "mirror"})
    changed = {"space": chosen.to_dict(), "space_fingerprint": chosen.fingerprint}
    write_spec(bench.study, read_spec(bench.study).model_copy(update=changed))
    record_symmetry(bench.study, SymmetryChoice("mirror", "measured", "it was seen"))
    asked = SearchSpace("tiny", fixed={**values, "weight_decay": 0.5}, dimensions=stored.dimensions)
    plan = replace(other_plan(bench, bench.cells, asked), earlier=(edition,))
    made, note = with_earlier_space(bench.db, plan)
    assert made.space == edition
    assert note is not None
    assert note.startswith("study tiny was made with an earlier tiny, and goes on so")


@pytest.mark.postgres
def test_weights_without_the_file_beside_them_are_refused(bench: Bench, weights: Path) -> None:
    """The digest is of the weights alone; mean and std are in a file of their own."""
    stored = read_spec(bench.study).model_copy(update={"weights_normalisation": [[0.5] * 3, [0.25] * 3]})
    with pytest.raises(
        HpoError, match=r"give no mean and std, but gave mean \[0\.5, .* copy the \.json or config\.json"
    ):
        refuse_other_normalisation(stored, weights)
    weights.with_suffix(".json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.25] * 3}))
    refuse_other_normalisation(stored, weights)
    with pytest.raises(HpoError, match="but gave no mean and std where the study was made"):
        refuse_other_normalisation(stored.model_copy(update={"weights_normalisation": []}), weights)
    refuse_other_normalisation(stored.model_copy(update={"weights_normalisation": None}), weights)  # not recorded


@pytest.fixture
def over() -> Worker:
    """Return a run of this machine whose process has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return Worker(pid=process.pid)


def test_a_deadline_of_an_interrupted_run_is_lifted_and_reported(bench: Bench, over: Worker) -> None:
    assert keep_or_lift_deadline(bench.db, bench.study) is None
    set_budget(bench.db, bench.study, 7, timedelta(hours=1), run=over)
    line = keep_or_lift_deadline(bench.db, bench.study)
    assert line is not None
    assert re.search(r"an earlier --timeout would end it at .*\d\d:\d\d; no worker holds a trial.* lifted", line)
    limits = read_limits(bench.study)
    assert (limits.trials, limits.deadline, limits.run, limits.confirm.within(50)) == (7, None, None, 3)
    assert keep_or_lift_deadline(bench.db, bench.study) is None


def test_a_deadline_is_lifted_where_another_process_has_the_pid_of_its_run(bench: Bench) -> None:
    """In a container the pid of every run is often 1."""
    set_budget(bench.db, bench.study, 7, timedelta(hours=1), run=Worker())
    assert "lifted" in str(keep_or_lift_deadline(bench.db, bench.study))


@pytest.mark.parametrize(
    "run",
    [None, Worker(pid=os.getppid()), Worker(pid=2**22 + 1, place="another machine")],
    ids=["of hpo init", "of a run that lasts", "of a run elsewhere, which may last"],
)
def test_a_deadline_that_may_be_in_force_is_kept_and_reported(bench: Bench, run: Worker | None) -> None:
    limits = set_budget(bench.db, bench.study, 7, timedelta(hours=1), run=run)
    assert re.match(
        r"ends at .*\d\d:\d\d, by .*; --timeout TIME sets", str(keep_or_lift_deadline(bench.db, bench.study))
    )
    assert read_limits(bench.study) == limits


def test_a_deadline_is_kept_while_the_study_is_paused(bench: Bench, over: Worker) -> None:
    limits = set_budget(bench.db, bench.study, 7, timedelta(hours=8), run=over)
    set_control(bench.db, bench.study, Control.PAUSE)
    kept = keep_or_lift_deadline(bench.db, bench.study)
    assert "as the study is paused" in str(kept)
    assert read_limits(bench.study) == limits


def test_the_run_that_set_the_deadline_is_kept_when_only_the_trials_change(bench: Bench, over: Worker) -> None:
    set_budget(bench.db, bench.study, 7, timedelta(hours=1), run=over)
    assert set_budget(bench.db, bench.study, 9, None, run=Worker()).run == over


def test_a_deadline_is_kept_while_other_workers_train_and_reported(bench: Bench) -> None:
    limits = set_budget(bench.db, bench.study, 7, timedelta(hours=1), run=Worker())
    bench.claim()
    line = keep_or_lift_deadline(bench.db, bench.study)
    assert line is not None
    assert re.match(r"ends at .*\d\d:\d\d, by an earlier --timeout", line)
    assert read_limits(bench.study) == limits


@pytest.mark.postgres
def test_a_study_goes_on_with_its_own_space_where_the_command_names_none(bench: Bench) -> None:
    """Else the backbone of `standard` would be built, and its weights fetched, before the spaces are compared."""
    stored = read_spec(bench.study)
    asked = replace(other_plan(bench, bench.cells, load_space("standard")), study="tiny", names_space=False)
    plan, note = with_stored_space(bench.db, asked)
    assert plan.space.fingerprint == stored.space_fingerprint
    assert note == f"study tiny goes on with the space that it was made with: {plan.space.name}"
    named = replace(asked, names_space=True)
    assert with_stored_space(bench.db, named) == (named, None)
    new = replace(asked, study="new")
    assert with_stored_space(bench.db, new) == (new, None)
    same = replace(asked, space=plan.space)
    assert with_stored_space(bench.db, same) == (same, None)


@pytest.mark.postgres
def test_what_differs_from_the_study_is_said_before_weights_are_looked_for(
    bench: Bench, cells: Path, tiny_space: SearchSpace
) -> None:
    plan = other_plan(bench, cells, tiny_space)
    refuse_another_search(bench.db, plan)
    refuse_another_search(bench.db, replace(plan, study="new", metric="loss"))
    for changed, word in (
        ({"space": load_space("standard")}, "search space"),
        ({"metric": "f1"}, "metric"),
        ({"weights_digest": "0" * 32}, "weights file"),
        ({"robustness": 0.5}, "robustness"),
        ({"split": replace(plan.split, folds=3)}, "number of folds"),
        ({"pruner": "hyperband"}, "pruner"),
    ):
        with pytest.raises(StudyError, match=f"study 'tiny' exists with another {word}"):
            refuse_another_search(bench.db, replace(plan, **changed))

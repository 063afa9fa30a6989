from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection

from storage import (
    Database,
    Limits,
    StudyError,
    StudySpec,
    check_study_name,
    create_study,
    give_own_id,
    open_database,
    open_study,
    read_limits,
    read_spec,
    studies_with_same_id,
    study_names,
)
from storage.spec import write_spec

pytestmark = pytest.mark.postgres
POINTS = [{"learning_rate": 0.003}, {"learning_rate": 0.01}]


def without_id(spec: StudySpec) -> StudySpec:
    return spec.model_copy(update={"id": ""})


def create(url: str, spec: StudySpec) -> str:
    with open_database(url, home=Path("unused")) as database:
        return create_study(database, "cells", spec, POINTS).study_name


def test_six_concurrent_processes_create_a_study_once_with_its_points(
    database: Database, database_url: str, spec: StudySpec, at_once: Any
) -> None:
    assert at_once(6, create, database_url, spec) == ["cells"] * 6
    study = open_study(database, "cells")
    assert [trial.system_attrs["fixed_params"] for trial in study.trials] == POINTS
    assert without_id(read_spec(study)) == spec
    assert study.direction == StudyDirection.MAXIMIZE


def test_what_was_written_is_read(database: Database, spec: StudySpec) -> None:
    create_study(database, "cells", spec)
    assert without_id(read_spec(open_study(database, "cells"))) == spec


def test_every_creation_gives_a_new_id_and_opening_keeps_it(database: Database, spec: StudySpec) -> None:
    first = read_spec(create_study(database, "Blood Cells / 2", spec)).id
    assert re.fullmatch(r"blood-cells-2-[0-9a-f]{8}", first)
    assert read_spec(create_study(database, "Blood Cells / 2", spec)).id == first
    optuna.delete_study(study_name="Blood Cells / 2", storage=database.storage)
    copied = spec.model_copy(update={"id": first})
    assert read_spec(create_study(database, "Blood Cells / 2", copied)).id != first


def test_a_new_study_has_its_limits_when_it_can_be_opened_and_an_existing_one_keeps_its_own(
    database: Database, spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Limits] = []

    def noting(study: optuna.Study, spec: StudySpec) -> None:
        seen.append(read_limits(study))
        write_spec(study, spec)

    monkeypatch.setattr("storage.studies.write_spec", noting)
    create_study(database, "cells", spec, limits=Limits(trials=3))
    assert seen == [Limits(trials=3)]
    assert read_limits(create_study(database, "cells", spec, limits=Limits(trials=5))) == Limits(trials=3)
    assert read_limits(create_study(database, "leaves", spec)) == Limits()


def test_studies_are_listed_in_the_order_of_their_creation(database: Database, spec: StudySpec) -> None:
    for name in ("b", "a", "ümläut 'quoted' / 🔬"):
        create_study(database, name, spec)
    assert study_names(database) == ["b", "a", "ümläut 'quoted' / 🔬"]


def test_a_missing_study_is_reported_with_the_ones_that_exist(database: Database, spec: StudySpec) -> None:
    with pytest.raises(StudyError, match=r"no study 'cells' .*there is none yet"):
        open_study(database, "cells")
    create_study(database, "leaves", spec)
    with pytest.raises(StudyError, match="the studies are leaves"):
        open_study(database, "cells")


WRONG_NAMES = ["", " ", "a\nb", "x" * 121, "nul\0", " padded", "padded\t", "zero\u200bwidth", "\ud800"]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_names_that_look_alike_or_cannot_be_typed_are_refused(name: str) -> None:
    with pytest.raises(StudyError, match=r"must be 1 to 120 printable characters .*--study") as caught:
        check_study_name(name)
    assert f"study name {name!r:.100}" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x", "x" * 120, "ümläut 'quoted' / 🔬", "日本"])
def test_any_other_name_is_accepted(name: str) -> None:
    check_study_name(name)


def test_a_study_is_not_created_under_an_invalid_name(database: Database, spec: StudySpec) -> None:
    with pytest.raises(StudyError, match="120 printable characters"):
        create_study(database, " padded", spec)
    assert study_names(database) == []


Change = Callable[[StudySpec], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda s: {
                "space_fingerprint": "6" * 64,
                "space": {
                    **s.space,
                    "name": "other",
                    "dimensions": {"learning_rate": [{**s.space["dimensions"]["learning_rate"][0], "high": 0.2}]},
                },
            },
            r"another search space \(dimensions\.learning_rate\.0\.high: stored 0\.1, asked 0\.2\).*--study",
        ),
        (
            lambda s: {"space_fingerprint": "6" * 64, "space": {**s.space, "fixed": {"epochs": 8, "dropout": 0.1}}},
            r"another search space \(fixed\.dropout: stored nothing, asked 0\.1\)",
        ),
        (
            lambda s: {"data_fingerprint": "e" * 64, "data": {**s.data, "classes": ["a", "c"]}},
            r"another data set \(classes\.1: stored b, asked c\).*DATA",
        ),
        (lambda s: {"data_fingerprint": "e" * 64}, r"another data set \(stored d+.*, asked e+"),
        (lambda s: {"metric": "macro_f1"}, r"another metric \(stored accuracy, asked macro_f1\)"),
        (lambda s: {"seed": 1}, r"another seed \(stored 0, asked 1\).*--seed"),
        (lambda s: {"weights_digest": "abc"}, r"another weights file \(stored None, asked abc\).*--weights"),
        (lambda s: {"data": {**s.data, "seed": 1}}, r"another seed of the split \(stored 0, asked 1\).*--seed"),
        (lambda s: {"data": {**s.data, "val_fraction": 0.3}}, r"another validation fraction .*0\.3.*--val-fraction"),
        (lambda s: {"data": {**s.data, "test_fraction": 0.3}}, r"another test fraction .*0\.3.*--test-fraction"),
        (
            lambda s: {"data": {**s.data, "max_unreadable": 0.5}},
            r"unreadable images \(stored 0\.05, asked 0\.5\).*--max-unreadable",
        ),
        (lambda s: {"sampler": "random"}, r"another sampler \(stored tpe, asked random\).*--sampler"),
        (lambda s: {"pruner": "none"}, r"another pruner \(stored successive-halving, asked none\).*--pruner"),
    ],
)
def test_another_search_under_the_same_name_is_refused_and_changes_nothing(
    database: Database, spec: StudySpec, change: Change, expected: str
) -> None:
    create_study(database, "cells", spec, POINTS)
    with pytest.raises(StudyError, match=expected) as caught:
        create_study(database, "cells", spec.model_copy(update=change(spec)), POINTS)
    assert "\n" not in str(caught.value)
    assert without_id(read_spec(open_study(database, "cells"))) == spec
    assert len(open_study(database, "cells").trials) == 2


@pytest.mark.parametrize("moment", ["study", "mark", "point"])
def test_an_interrupted_creation_is_repeated(database: Database, spec: StudySpec, moment: str) -> None:
    study = optuna.create_study(study_name="cells", storage=database.storage, direction="maximize")
    if moment != "study":
        study.set_user_attr("hpo:creating", True)
    if moment == "point":
        study.enqueue_trial({"learning_rate": 0.05})
    created = create_study(database, "cells", spec, POINTS)
    assert [trial.system_attrs["fixed_params"] for trial in created.trials] == POINTS
    assert without_id(read_spec(created)) == spec


def test_a_study_of_another_program_is_not_changed(database: Database, spec: StudySpec) -> None:
    theirs = optuna.create_study(study_name="cells", storage=database.storage)
    theirs.enqueue_trial({"x": 1})
    with pytest.raises(StudyError, match="was not made by hpo; give another name"):
        create_study(database, "cells", spec)
    assert len(theirs.trials) == 1


def test_a_spec_of_another_version_is_refused(database: Database, spec: StudySpec) -> None:
    study = create_study(database, "cells", spec)
    study.set_user_attr("hpo:spec", {**spec.model_dump(), "version": 2})
    with pytest.raises(StudyError, match=r"another version of hpo \(spec 2, here 1\)"):
        read_spec(study)
    study.set_user_attr("hpo:spec", {"version": 1, "space": 3})
    with pytest.raises(StudyError, match="cannot be read"):
        read_spec(study)


def copied(database: Database, spec: StudySpec) -> tuple[optuna.Study, optuna.Study]:
    """Return a study and a copy of it by optuna, which has the id of the first."""
    first = create_study(database, "first", spec)
    optuna.copy_study(
        from_study_name="first", from_storage=database.storage, to_storage=database.storage, to_study_name="second"
    )
    return first, open_study(database, "second")


def test_a_copy_gets_a_new_id_and_the_original_keeps_its_id(
    database: Database, spec: StudySpec, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = copied(database, spec)
    shared = read_spec(first).id
    assert read_spec(second).id == shared
    assert [study.study_name for study in studies_with_same_id(first)] == ["second"]
    assert give_own_id(database, first).id == shared
    own = give_own_id(database, second)
    assert own == read_spec(second)
    assert re.fullmatch(r"second-[0-9a-f]{8}", own.id)
    assert without_id(own) == without_id(read_spec(first))
    assert studies_with_same_id(first) == studies_with_same_id(second) == []
    assert "'second' is a copy of 'first'" in caplog.text
    assert give_own_id(database, second) == own, "once"


def test_init_and_run_give_a_copy_a_new_id_too(database: Database, spec: StudySpec) -> None:
    first, second = copied(database, spec)
    create_study(database, "second", spec)
    assert read_spec(second).id != read_spec(first).id


def test_a_copy_whose_original_was_deleted_keeps_the_id_and_the_files(database: Database, spec: StudySpec) -> None:
    first, second = copied(database, spec)
    shared = read_spec(first).id
    optuna.delete_study(study_name="first", storage=database.storage)
    assert give_own_id(database, second).id == shared


def own_id(url: str, name: str) -> str:
    with open_database(url, home=Path("unused")) as database:
        return give_own_id(database, open_study(database, name)).id


def test_workers_that_start_at_once_on_a_copy_agree_on_its_id(
    database: Database, database_url: str, spec: StudySpec, at_once: Any
) -> None:
    first, _ = copied(database, spec)
    ids = set(at_once(4, own_id, database_url, "second"))
    assert len(ids) == 1
    assert ids != {read_spec(first).id}

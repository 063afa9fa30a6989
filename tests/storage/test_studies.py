from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection

from storage import Database, StudyError, StudySpec, create_study, open_database, open_study, read_spec, study_names

pytestmark = pytest.mark.postgres
POINTS = [{"learning_rate": 0.003}, {"learning_rate": 0.01}]


def create(url: str, spec: StudySpec) -> str:
    with open_database(url, home=Path("unused")) as database:
        return create_study(database, "cells", spec, POINTS).study_name


def test_a_study_is_created_once_with_its_points_though_six_processes_create_it(
    database: Database, database_url: str, spec: StudySpec, at_once: Any
) -> None:
    assert at_once(6, create, database_url, spec) == ["cells"] * 6
    study = open_study(database, "cells")
    assert [trial.system_attrs["fixed_params"] for trial in study.trials] == POINTS
    assert read_spec(study) == spec
    assert study.direction == StudyDirection.MAXIMIZE


def test_what_was_written_is_read(database: Database, spec: StudySpec) -> None:
    create_study(database, "cells", spec)
    assert read_spec(open_study(database, "cells")) == spec


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


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201, "nul\0", " padded"])
def test_names_that_cannot_be_told_apart_or_typed_are_refused(database: Database, spec: StudySpec, name: str) -> None:
    with pytest.raises(StudyError, match="1 to 200 printable characters"):
        create_study(database, name, spec)
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
    ],
)
def test_another_search_under_the_same_name_is_refused_and_changes_nothing(
    database: Database, spec: StudySpec, change: Change, expected: str
) -> None:
    create_study(database, "cells", spec, POINTS)
    with pytest.raises(StudyError, match=expected) as caught:
        create_study(database, "cells", spec.model_copy(update=change(spec)), POINTS)
    assert "\n" not in str(caught.value)
    assert read_spec(open_study(database, "cells")) == spec
    assert len(open_study(database, "cells").trials) == 2


@pytest.mark.parametrize("change", [{"sampler": "random"}, {"pruner": "none"}])
def test_sampler_and_pruner_may_change(database: Database, spec: StudySpec, change: dict[str, str]) -> None:
    create_study(database, "cells", spec)
    assert create_study(database, "cells", spec.model_copy(update=change)).study_name == "cells"


@pytest.mark.parametrize("moment", ["study", "mark", "point"])
def test_a_creation_that_was_killed_half_way_is_made_anew(database: Database, spec: StudySpec, moment: str) -> None:
    study = optuna.create_study(study_name="cells", storage=database.storage, direction="maximize")
    if moment != "study":
        study.set_user_attr("hpo:creating", True)
    if moment == "point":
        study.enqueue_trial({"learning_rate": 0.05})
    created = create_study(database, "cells", spec, POINTS)
    assert [trial.system_attrs["fixed_params"] for trial in created.trials] == POINTS
    assert read_spec(created) == spec


def test_a_study_that_somebody_else_made_is_left_alone(database: Database, spec: StudySpec) -> None:
    theirs = optuna.create_study(study_name="cells", storage=database.storage)
    theirs.enqueue_trial({"x": 1})
    with pytest.raises(StudyError, match="was not made by hpo; give another name"):
        create_study(database, "cells", spec)
    assert len(theirs.trials) == 1


def test_a_spec_of_another_version_is_not_guessed_at(database: Database, spec: StudySpec) -> None:
    study = create_study(database, "cells", spec)
    study.set_user_attr("hpo:spec", {**spec.model_dump(), "version": 2})
    with pytest.raises(StudyError, match=r"another version of hpo \(spec 2, here 1\)"):
        read_spec(study)
    study.set_user_attr("hpo:spec", {"version": 1, "space": 3})
    with pytest.raises(StudyError, match="cannot be read"):
        read_spec(study)

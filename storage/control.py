"""What all workers of a study are told: to run, to pause, to stop. They hear it with every renewal of a lease."""

from __future__ import annotations

from enum import StrEnum

import optuna
from sqlalchemy import Connection, text

from storage.database import Database


class Control(StrEnum):
    """What a study's workers are told."""

    RUN = "run"
    PAUSE = "pause"
    """Put your trial back, stay, and wait."""
    STOP = "stop"
    """Put your trial back and leave."""


_SET = text(
    "INSERT INTO hpo_studies (study_id, control) VALUES (:study, :control) "
    "ON CONFLICT (study_id) DO UPDATE SET control = excluded.control"
)
_GET = text("SELECT control FROM hpo_studies WHERE study_id = :study")


def set_control(db: Database, study: optuna.Study, control: Control) -> Control:
    """Tell all workers of `study`, those to come too; gives what they were told before."""
    with db.engine.begin() as connection:
        before = control_of(connection, study._study_id)
        connection.execute(_SET, {"study": study._study_id, "control": control.value})
    return before


def get_control(db: Database, study: optuna.Study) -> Control:
    """What the workers of `study` are told."""
    with db.engine.connect() as connection:
        return control_of(connection, study._study_id)


def control_of(connection: Connection, study_id: int) -> Control:
    """What the workers of the study are told; a study of which nothing was said runs."""
    return Control(connection.execute(_GET, {"study": study_id}).scalar_one_or_none() or Control.RUN)

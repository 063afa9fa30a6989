"""The command that founded a study over a list of runs, kept with it: nothing else says how the list came to be."""

from __future__ import annotations

import optuna

_KEY = "hpo:command"


def remember_command(study: optuna.Study, command: str) -> None:
    """Keep `command` with the study, unless it has one. It must hold no password: the dashboard shows it."""
    if _KEY not in study.user_attrs:
        study.set_user_attr(_KEY, command)


def founding_command(study: optuna.Study) -> str:
    """The command that is kept with the study; empty where there is none."""
    return str(study.user_attrs.get(_KEY, ""))

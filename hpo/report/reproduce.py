"""The exact commands that reproduce a study, its best model and the measurement on the test part."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hpo.bundle.calibrate import joining_command
from hpo.data.changes import DataChanges
from hpo.hints import hint
from hpo.private_paths import public_command, public_path
from hpo.report.study_data import StudyData
from hpo.search.plan import DEFAULT_ROBUSTNESS, DEFAULT_TRIALS
from hpo.search.planned_probes import planned_probes
from search_spaces import SearchSpace, SpaceError, load_space
from storage import DEFAULT_TOP, Confirmation, StudySpec

SPACE_FILE = "space.yaml"


@dataclass(frozen=True)
class Command:
    """One command and its purpose."""

    purpose: str
    text: str


@dataclass(frozen=True)
class Recipe:
    """Commands, and the search space as a file if it is not in the catalogue."""

    commands: Sequence[Command]
    space_file: str = ""


def study_recipe(study: StudyData, trial: int | None) -> Recipe:
    """Return how to search again, export the trial and retrain it; for a trial list, the command that created it."""
    name = study.name
    commands, file = [], ""
    if "entries" not in study.spec.space:
        words, file = _search_words(study)
        commands.append(Command("search again, under a name of its own", _lines("hpo run DATA", words)))
    elif study.command:
        commands.append(Command("train the same runs: the command that made this study", public_command(study.command)))
    if trial is not None:
        commands += delivery(name, trial)
    return Recipe(commands, file)


def delivery(study: str, trial: int) -> list[Command]:
    """Return the commands from a trial to a model measured on the test part."""
    best = hint("export-best", study=study, trial=trial, out="best/")
    return [
        Command("write this trial as a bundle", best),
        Command(
            "train it on train + val, and test it once on the locked test part",
            "hpo retrain best/ --data DATA --out final/",
        ),
    ]


def joining(study: str, *, soup: bool) -> Command:
    """Return the command that joins trials of a study to one model."""
    return Command("join the trials of the study again", joining_command(study, soup=soup, out="joint/"))


def finished(study: str) -> Command:
    """Return the command that exports the best trial of a study with what helps without training."""
    return Command("make the model from the study again", hint("export-best", study=study, out="best/"))


def bundle_recipe(path: str, *, retrained: bool) -> Recipe:
    """Return the commands for a bundle; only a test part can measure a `retrained` one."""
    part, on = ("test", "the test part; the access is recorded") if retrained else ("val", "the validation part")
    return Recipe(
        [
            Command("train the configuration again and test it", hint("retrain", path, data="DATA", out="again/")),
            Command(f"measure the model on {on}", hint("evaluate", path, data="DATA", split=part)),
            Command("classify images", hint("predict", path, "IMAGES", out="predictions.csv")),
        ]
    )


def _search_words(study: StudyData) -> tuple[list[str], str]:
    spec = study.spec
    space, file = _space_words(spec)
    data = spec.data
    robustness = "" if spec.robustness == DEFAULT_ROBUSTNESS else f" --robustness {spec.robustness:g}"
    words = [
        f"--study {shlex.quote(study.name + '-again')}",
        *space,
        f"--metric {spec.metric}{robustness} --sampler {spec.sampler} --pruner {spec.pruner} --seed {spec.seed}"
        f"{_probe_word(study)}",
        f"--val-fraction {data['val_fraction']:g} --test-fraction {data['test_fraction']:g}",
        f"--max-unreadable {data['max_unreadable']:g}",
    ]
    # Studies without groups or folds do not have these keys.
    words += [
        f"--{name.replace('_', '-')} {shlex.quote(str(data[name]))}" for name in ("group_by", "folds") if data.get(name)
    ]
    words += _cleaning_words(data.get("findings") or {})
    return [*words, *_budget_words(study)], file


def _budget_words(study: StudyData) -> list[str]:
    """Return the limit of trials, and what is confirmed of them where that is not the default."""
    usual = 0 if study.spec.data.get("folds") else Confirmation(DEFAULT_TOP, asked=False).within(study.limit)
    confirm = [] if study.confirm == usual else [f"--confirm {study.confirm}"]
    return [*([f"--trials {study.limit}"] if study.limit else []), *confirm]


def _probe_word(study: StudyData) -> str:
    """Return ` --no-probe` where a new study would begin with frozen probes that this one has not."""
    has = any(trial.record.probe for trial in study.trials)
    would = planned_probes(SearchSpace.from_dict(study.spec.space), study.limit or DEFAULT_TRIALS).backbones
    return " --no-probe" if would and not has else ""


def _cleaning_words(stored: Mapping[str, Any]) -> list[str]:
    """Return the options for the decisions on single images; a table must be at hand."""
    table, options = DataChanges.from_json(stored).table_and_options
    return [*([f"--findings {shlex.quote(table)}"] if table else []), *options]


def _space_words(spec: StudySpec) -> tuple[list[str], str]:
    """Return the options that name the space, and the content of the file that they need, if any."""
    stored = SearchSpace.from_dict(spec.space)
    named = _named_space(stored)
    base = named or stored
    changed = {key: value for key, value in stored.fixed.items() if base.fixed.get(key) != value}
    words = [f"--space {shlex.quote(stored.name) if named else SPACE_FILE}"]
    weights = stored.fixed.get("weights")
    if weights is not None:
        words.append(f"--weights {shlex.quote(public_path(str(weights)))}")
        changed = {key: value for key, value in changed.items() if key not in ("weights", "pretrained")}
    if "backbone" in changed:
        words.append(f"--backbone {shlex.quote(str(changed.pop('backbone')))}")
    words += [f"--set {shlex.quote(f'{key}={_plain(value)}')}" for key, value in changed.items()]
    return words, "" if named else _as_file(stored.to_dict())


def _named_space(stored: SearchSpace) -> SearchSpace | None:
    """Return the space of the catalogue that equals the stored one with the same values fixed, or None."""
    try:
        named = load_space(stored.name)
        changed = {key: value for key, value in stored.fixed.items() if named.fixed.get(key) != value}
        same = named.with_fixed(changed).fingerprint == stored.fingerprint
    except SpaceError:
        return None
    return named if same else None


def _as_file(space: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in space.items() if key != "name" and value not in (None, [], {}, "")}
    kept["fixed"] = {key: value for key, value in space["fixed"].items() if key != "weights"}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(start: str, words: Sequence[str]) -> str:
    """Return a long command as shell text in several lines."""
    return " \\\n    ".join([start, *words])

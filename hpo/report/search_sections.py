"""Sections about a search: history, importance, parallel coordinates, curves, best configuration, cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from hpo.evaluation.intervals import plus_minus
from hpo.private_paths import public_config
from hpo.report import search_figures, wording
from hpo.report.page import Section
from hpo.report.reproduce import study_recipe
from hpo.report.search_figures import MOST_AXES, parallel
from hpo.report.study_data import FEWEST, StudyData, TrialData
from hpo.search.trial_record import TrialRecord

MOST_ROWS = 10
"""Trials in the table of the best."""

LISTED = "The trials are runs from a list: nothing was searched."


def search_sections(study: StudyData) -> list[Section]:
    """Return the sections with importance, parallel coordinates and learning curves."""
    return [importance(study), coordinates(study), curves(study)]


def history(study: StudyData) -> Section:
    """Return the section with the value over trials, and a table of the best."""
    title = "Search history"
    valued = [trial for trial in study.trials if trial.value is not None]
    if not valued:
        return Section("history", title, missing="No trial has reported a value yet.")
    return Section(
        "history", title,
        {
            "svg": search_figures.history(study.trials, study.spec.value_name),
            "counts": study.counts,
            "thinned": _thinned(len(valued), search_figures.MOST_POINTS),
            "below": _below_axis([trial.value or 0.0 for trial in valued]),
            "metric": study.spec.value_name,
            "made_of": value_sentence(study),
            "probe": _line_to_beat(study),
            "best": [_row(trial) for trial in study.best_first[:MOST_ROWS]],
            "seeds": seeds_sentence(study),
            "failures": _failures(study.trials),
            "folds": study.folds,
        },
    )  # fmt: skip


def _below_axis(values: Sequence[float]) -> str:
    """Return the note on values below the axis of the chart."""
    floor = search_figures.floor_of(values)
    below = sum(value < floor for value in values)
    return f"{wording.counted(below, 'trial')} below {floor:.3g} drawn at the lower edge." if below else ""


def seeds_sentence(study: StudyData) -> str:
    """Return what fresh seeds gave for the best configuration; "" in a study without replicates."""
    again = sum(trial.record.replicate_of is not None for trial in study.trials)
    if not again or not study.ranked:
        return ""
    best, trained = study.ranked[0], wording.counted(again, "trial has", "trials have")
    how = f"{trained} the parameters of an earlier one and a fresh seed; the table is in the order of configurations. "
    if len(best.values) < 2:
        return f"{how}The best one was trained under one seed alone."
    values = ", ".join(f"{value:.4f}" for value in best.values)
    return (
        f"{how}The best one has {values} under {len(best.values)} seeds: mean {best.mean:.4f}, lower bound "
        f"{best.lower:.4f}. The trial with the highest of these values is the model."
    )


def _failures(trials: Sequence[TrialData]) -> list[tuple[int, str]]:
    """Return number and reason of the first trials that failed."""
    failed = [trial for trial in trials if trial.state == "failed"]
    return [(trial.number, trial.record.reason or "no reason recorded") for trial in failed[:MOST_ROWS]]


def _row(trial: TrialData) -> dict[str, Any]:
    return {
        "number": trial.number,
        "value": plus_minus(trial.value or 0.0, trial.error),
        "epochs": "probe" if trial.record.probe else len(trial.curve),
        "time": wording.span(trial.seconds),
        "params": tried(trial),
        "figures": [f"{figure:.4f}" for figure in (trial.record.clean, trial.record.altered) if figure is not None],
    }


def _line_to_beat(study: StudyData) -> list[str]:
    """Return sentences about the best frozen probe; none where no probe is complete."""
    lines = study.probe.lines(study.spec.value_name) if study.probe else []
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def tried(trial: TrialData) -> str:
    """Return the parameters of a trial, after the number of the trial that it repeats."""
    if trial.record.probe:
        return f"frozen probe of {trial.record.probe}"
    params = ", ".join(f"{name} {wording.value(value)}" for name, value in trial.params.items())
    original = trial.record.replicate_of
    return params if original is None else f"as trial {original}, fresh seed: {params}"


def value_sentence(study: StudyData) -> str:
    """Return what a trial's value is made of; "" where it is the metric on clean images."""
    weight, metric = study.spec.robustness, study.spec.metric
    if not weight:
        return ""
    return (
        f"The value is {1 - weight:.4g} times the {metric} on clean validation images plus {weight:g} times that on "
        "altered ones."
    )


def _thinned(count: int, most: int) -> str:
    """Return the note for a chart that draws only some of the trials."""
    if count <= most:
        return ""
    return f"{most:,} of {count:,} trials are drawn: the best {most // 4:,}, and of the others every n-th."


def importance(study: StudyData) -> Section:
    """Return the section about the importance of parameters."""
    title = "What mattered"
    if not study.searches:
        return Section("importance", title, missing=LISTED)
    found = study.importance
    if found is None:
        count = sum(study.counts.get(state, 0) for state in ("complete", "pruned"))
        reason = f"{wording.counted(count, 'finished trial')} so far; importance is computed from {FEWEST} on"
        return Section("importance", title, missing=f"{reason}. From fewer it would be noise.")
    values = {
        "svg": search_figures.importance(found.shares),
        "best": found.best,
        "trials": found.trials,
        "hint": found.trials < 5 * FEWEST,
    }
    return Section("importance", title, values)


def coordinates(study: StudyData) -> Section:
    """Return the section with parallel coordinates of the trials."""
    title = "Parameters together"
    finished = [t for t in study.trials if t.value is not None and t.state in ("complete", "pruned")]
    names = _varied(finished, study.importance.shares if study.importance else {})
    if not study.searches:
        return Section("parallel", title, missing=LISTED)
    if len(finished) < 2 or not names:
        return Section("parallel", title, missing="There are no two finished trials that differ in a parameter.")
    shown = search_figures.thinned(finished, search_figures.MOST_LINES)
    return Section(
        "parallel", title,
        {
            "svg": parallel(shown, names, study.best, study.spec.value_name),
            "thinned": _thinned(len(finished), search_figures.MOST_LINES),
            "left_out": ", ".join(names[MOST_AXES:]),
            "pruned": any(t.state == "pruned" for t in finished),
        },
    )  # fmt: skip


def _varied(trials: Sequence[TrialData], importance: Mapping[str, float]) -> list[str]:
    """Parameters with more than one value, the most important first; of equals those that most trials have."""
    values: dict[str, list[str]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            values.setdefault(name, []).append(str(value))
    # A parameter of optuna's may be one variant of a field: `learning_rate[adamw]`.
    shares: dict[str, float] = {}
    for name, share in importance.items():
        field = name.partition("[")[0]
        shares[field] = shares.get(field, 0.0) + share
    varied = [name for name, seen in values.items() if len(set(seen)) > 1]
    return sorted(varied, key=lambda name: (-shares.get(name, 0.0), -len(values[name])))


def curves(study: StudyData) -> Section:
    """The metric after each epoch of all trials."""
    curved = [trial for trial in study.trials if trial.curve]
    if not curved:
        return Section("curves", "Learning curves", missing="No trial has finished an epoch yet.")
    values = {
        "svg": search_figures.learning_curves(study.trials, study.best, study.spec.value_name),
        "thinned": _thinned(len(curved), search_figures.MOST_LINES),
        "folds": study.folds,
        "made_of": value_sentence(study),
    }
    return Section("curves", "Learning curves", values)


def best_configuration(study: StudyData) -> Section:
    """The best trial's configuration and how to get it again."""
    trial = study.best_trial
    recipe = study_recipe(study, trial.number if trial else None)
    searched = set(trial.params) if trial else set()
    config = dict(trial.record.config) if trial else {}
    return Section(
        "configuration", "Best trial, and how to get it again",
        {
            "trial": trial.number if trial else None,
            "facts": _origin_facts(study, trial),
            "groups": configuration_groups(config, searched),
            "recipe": recipe,
        },
    )  # fmt: skip


def configuration_groups(config: Mapping[str, Any], searched: set[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the settings in two groups, searched and fixed; those of phases as `phase1.learning_rate`."""
    flat = {name: value for name, value in public_config(config).items() if name != "phases"}
    for number, phase in enumerate(config.get("phases") or (), start=1):
        flat |= {f"phase{number}.{name}": value for name, value in phase.items()}
    groups: dict[str, list[tuple[str, str]]] = {"searched": [], "fixed" if searched else "all settings": []}
    open_title, fixed_title = groups
    for name, value in flat.items():
        groups[open_title if name in searched else fixed_title].append((name, wording.value(value)))
    return [(title, items) for title, items in groups.items() if items]


def _origin_facts(study: StudyData, trial: TrialData | None) -> list[tuple[str, str]]:
    spec, record = study.spec, trial.record if trial else TrialRecord()
    rows = [
        ("space", f"{spec.space.get('name')}, fingerprint {spec.space_fingerprint[:12]}"),
        ("data", f"fingerprint {spec.data_fingerprint[:12]}"),
        ("weights", f"digest {spec.weights_digest[:12]}" if spec.weights_digest else "no file given"),
        ("seed", f"study {spec.seed}" + (f", trial {record.seed}" if record.seed is not None else "")),
    ]
    if record.versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())))
    return rows


def cost(study: StudyData) -> Section:
    """Return the section about time, epochs, memory, devices."""
    trained = [trial for trial in study.trials if trial.curve]
    if not trained:
        return Section("cost", "Time and cost", missing="No trial has finished an epoch yet.")
    ended = any(t.state == "complete" and t.ended is not None and t.value is not None for t in study.trials)
    values = {
        "rows": _cost_rows(study, trained),
        "svg": search_figures.progress(study.trials, study.spec.value_name) if ended else "",
    }
    return Section("cost", "Time and cost", values)


def _cost_rows(study: StudyData, trained: Sequence[TrialData]) -> list[tuple[str, str, str]]:
    """Return rows of name, value, remark."""
    total = sum(trial.seconds for trial in study.trials)
    per_epoch = [trial.seconds / len(trial.curve) for trial in trained]
    per_trial = [trial.seconds for trial in trained if trial.state == "complete"] or [t.seconds for t in trained]
    rows = [
        ("training, all trials", wording.span(total), f"{total / 3_600:.2f} device hours"),
        _wall_clock(study),
        ("per complete trial", wording.span(median(per_trial)), _between(per_trial)),
        ("per epoch", wording.span(median(per_epoch)), _between(per_epoch)),
        _speed([trial.record for trial in trained]),
        _saved(study, trained),
        *_device_rows([trial.record for trial in trained]),
    ]
    return [row for row in rows if row is not None]


def _speed(records: Sequence[TrialRecord]) -> tuple[str, str, str] | None:
    speeds = [record.images_per_second for record in records if record.images_per_second]
    return ("training speed", f"{median(speeds):,.0f} images/s", "median of the trials") if speeds else None


def _device_rows(records: Sequence[TrialRecord]) -> Iterator[tuple[str, str, str]]:
    """Yield the peak memory and the devices, if recorded."""
    if memory := max((record.peak_memory for record in records), default=0):
        yield "peak memory", wording.size(memory), "of the process; on a GPU of the device"
    if devices := sorted({record.device for record in records if record.device}):
        yield "device", ", ".join(devices), ", ".join(sorted({one.precision for one in records if one.precision}))


def _wall_clock(study: StudyData) -> tuple[str, str, str] | None:
    """Return the time from the first start to the last end, or None before a trial has ended."""
    ended = [trial for trial in study.trials if trial.state in ("complete", "pruned", "failed")]
    times = [trial.ended for trial in ended if trial.ended is not None]
    if times:
        return "wall clock", wording.span(max(times)), "first start to last end"
    return ("wall clock", "unknown", "the starts of its trials were recorded in another time zone") if ended else None


def _between(seconds: Sequence[float]) -> str:
    return f"median; {wording.span(min(seconds))} to {wording.span(max(seconds))}"


def _saved(study: StudyData, trained: Sequence[TrialData]) -> tuple[str, str, str] | None:
    """Return the epochs and time saved by pruning, by the seconds per epoch of each pruned trial."""
    pruned = [trial for trial in trained if trial.saved]
    if not pruned:
        return None
    epochs = sum(trial.saved for trial in pruned)
    spent = sum(len(trial.curve) for trial in study.trials)
    time = sum(trial.saved * trial.seconds / len(trial.curve) for trial in pruned)
    return (
        "saved by pruning", wording.counted(epochs, "epoch"),
        f"{wording.percent(epochs / (epochs + spent))} of those of full runs, about {wording.span(time)}",
    )  # fmt: skip

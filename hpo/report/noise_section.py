"""The section about the noise of a search: what of its best value will hold, and which trials may be as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpo.evaluation.best_of_many import ALPHA
from hpo.evaluation.intervals import plus_minus
from hpo.report import wording
from hpo.report.page import Section
from hpo.report.search_sections import tried
from hpo.report.study_data import StudyData, TrialData
from hpo.search.noise import Rival, StudyNoise
from storage import Convergence

TITLE = "How sure is the best value"

MOST_ALIKE = 12
"""Trials in the table of those that cannot be told from the best."""

_ROLES = {
    "first": "the first trial",
    "default": "the first known-good point of the space",
    "probe": "the best probe, a linear head on a frozen backbone",
}


def noise_section(study: StudyData) -> Section:
    """Return the section; without predictions of the trials it says why there is none."""
    noise = study.noise
    if noise is None:
        return Section("noise", TITLE, missing="There is no complete trial yet.")
    if not noise.images:
        why = "The best trial kept no predictions on single images: it was trained by an earlier version of hpo."
        return Section("noise", TITLE, missing=why)
    trials = {trial.number: trial for trial in study.trials}
    values = {
        "rows": [*_promise_rows(study, noise), *_test_rows(study.test_results)],
        "rivals": _rival_rows(noise.rivals),
        "alike": [_alike_row(trials[number]) for number in noise.alike[:MOST_ALIKE]],
        "more": max(0, len(noise.alike) - MOST_ALIKE),
        "verdict": _verdict(noise),
        "metric": study.spec.value_name,
        "converged": _converged(study.converged),
        "level": f"{ALPHA:g}",
        "compared": noise.compared,
    }
    return Section("noise", TITLE, values)


def _promise_rows(study: StudyData, noise: StudyNoise) -> list[tuple[str, str, str]]:
    """Return rows of name, value, remark: what the search promises, and what is to be expected."""
    name = study.spec.value_name.replace("_", " ").replace("f1", "F1")
    rows = [
        (f"{name} of trial {noise.trial}", plus_minus(noise.value, noise.error), "as measured by the search"),
    ]
    if noise.expected is not None:
        luck = noise.value - noise.expected
        remark = f"the best of {noise.compared + 1} is {luck:.4f} too high by selection, as estimated"
        rows.append(("expected to hold", plus_minus(noise.expected, noise.error), remark))
    if noise.fresh is not None:
        count = wording.counted(len(noise.fresh.trials), "other seed")
        remark = f"mean of {count}; the search measured {noise.fresh.promised:.4f}"
        rows.append(("trained again", plus_minus(noise.fresh.mean, noise.fresh.error), remark))
    return rows


def _test_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (
            "accuracy on the test part", f"{float(one['accuracy']):.4f}",
            f"hpo {one['command']}, {str(one['date'])[:10]}, n {int(one['n']):,}",
        )
        for one in results
    ]  # fmt: skip


def _rival_rows(rivals: Sequence[Rival]) -> list[tuple[str, str, str]]:
    """Return who, its value, and the probability that the best trial is worse; a trial with two roles once."""
    by_trial = {rival.trial: [one for one in rivals if one.trial == rival.trial] for rival in rivals}
    return [
        (
            f"trial {number}, {' and '.join(_ROLES[one.role] for one in group)}"
            + (", which was pruned" if group[0].pruned else ""),
            f"{group[0].value:.4f}",
            _chance(group[0].chance),
        )
        for number, group in by_trial.items()
    ]


def _chance(chance: float) -> str:
    return f"under {wording.percent(0.01)}" if chance < 0.01 else wording.percent(chance)


def _alike_row(trial: TrialData) -> dict[str, str]:
    return {
        "number": str(trial.number),
        "value": plus_minus(trial.value or 0.0, trial.error),
        "time": wording.span(trial.seconds),
        "params": tried(trial),
    }


def _verdict(noise: StudyNoise) -> str:
    """Return how many trials may be as good as the best, in a sentence."""
    where = f"on the same {noise.images:,} validation images"
    if not noise.compared:
        return f"There is no other complete trial to compare trial {noise.trial} with."
    if not noise.alike:
        others = wording.counted(noise.compared, "other complete trial")
        return f"Trial {noise.trial} leads {others} by more than chance {where}."
    if len(noise.alike) == noise.compared > 1:
        return f"None of the {noise.compared} other complete trials can be told from trial {noise.trial} {where}."
    alike = wording.counted(len(noise.alike), "other complete trial")
    return f"{alike} of {noise.compared} cannot be told from trial {noise.trial} {where}."


def _converged(found: Convergence | None) -> str:
    if found is None:
        return ""
    return (
        f"The search ended after {wording.counted(found.trials, 'finished trial')}: further ones were expected to gain "
        f"{found.gain:.4f} together, less than the standard error, {found.error:.4f}."
    )

"""Replicates in words: what a study will train again or trained again, and what the best is worth by all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

    from hpo.search.ranking import RankedConfiguration
    from hpo.search.status import StudyStatus, TrialStatus
    from storage import Limits


def rung_line(limits: Limits) -> str:
    """Return which trials a study trains again at its end, and when; "" where it trains none."""
    top = limits.confirm.within(limits.trials)
    if not top or (limits.trials is None and limits.deadline is None):
        return ""
    which = "the best trial" if top == 1 else f"the best {top} trials"
    if limits.trials is None:
        return f"{which} will be trained again with fresh seeds before the time is up"
    when = f"as trial {limits.trials}" if top == 1 else f"as the last {top} of {limits.trials} trials"
    sooner = ", or sooner, where there is time for it" if limits.deadline else ""
    return f"{which} will be trained again with fresh seeds, {when}{sooner}"


def budget_lines(limits: Limits) -> list[str]:
    """Return what the budget does for the confirmation of the best trials: the rung, or why it is small or missing."""
    line, confirm = rung_line(limits), limits.confirm
    top = confirm.within(limits.trials)
    if confirm.asked and top < confirm.top:
        few = f"--confirm {confirm.top} is more than half of {limits.trials} trials"
        return [f"{few}: {line}" if line else f"{few}: none will be trained again"]
    return [f"{line} (--confirm {top}; --confirm 0 for none)"] if line else []


def confirm_lines(status: StudyStatus) -> list[str]:
    """Return what is trained again, or will be, in a line of the status; nothing where nothing is."""
    again = [line.state for line in status.trials if line.replicate_of is not None]
    if again:
        count = "1 trial has" if len(again) == 1 else f"{len(again)} trials have"
        return [f"{count} the parameters of an earlier one and a fresh seed; complete: {again.count('complete')}"]
    line = rung_line(status.limits)
    return [line] if line else []


def replicate_text(line: TrialStatus) -> str:
    """Return which trial this one tries again; "" where it is no replicate."""
    return "" if line.replicate_of is None else f"trial {line.replicate_of} with a fresh seed"


def seed_notes(status: StudyStatus) -> list[str]:
    """Return what is known of the best configuration under several seeds, and why a higher value is not the best."""
    return choice_lines(status.ranked) if status.winner else []


def choice_lines(ranked: Sequence[RankedConfiguration]) -> list[str]:
    """Return how the best configuration was chosen, and why a higher value is not the best."""
    best = ranked[0]
    top = max(ranked, key=lambda one: one.trial.value or 0.0)
    notes = [f"trial {best.trial.number}: {seeds_in_words(best)}"]
    if top is not best and (top.trial.value or 0.0) > (best.trial.value or 0.0):
        notes.append(f"trial {top.trial.number} had {top.trial.value:.4f}, but {seeds_in_words(top)}")
    return notes


@dataclass(frozen=True)
class ExportChoice:
    """How an exported trial was chosen, if by more than its value: by several seeds, or as a cheap one."""

    lines: Sequence[str]
    seeds: Mapping[str, Any] | None
    """The values of its configuration, as `RankedConfiguration.to_dict` gives them; None with one seed."""
    tied: Sequence[int] | None
    """The trials among which it was the cheapest, the best first; None where that was not asked for."""

    @classmethod
    def of(cls, study: optuna.Study, number: int, *, cheap: bool) -> ExportChoice:
        """Return how trial `number` of the study was chosen."""
        from hpo.delivery.export import tied
        from hpo.search.ranking import configuration_of, rank

        ranked = rank(study.get_trials(deepcopy=False))
        alike = tied(study, ranked) if cheap else []
        own = configuration_of(ranked, number)
        return cls(
            [*other_seeds_lines(ranked, number), *(cheap_lines(alike) if cheap else ())],
            own.to_dict() if own is not None and len(own.values) > 1 else None,
            [one.trial.number for one in alike] if cheap else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return `seeds` and `tied`, JSON-ready."""
        return {"seeds": self.seeds, "tied": self.tied}


def other_seeds_lines(ranked: Sequence[RankedConfiguration], number: int) -> list[str]:
    """Return what the other seeds of a trial gave; nothing where it was trained under one."""
    from hpo.search.ranking import configuration_of

    own = configuration_of(ranked, number)
    if own is None or len(own.values) < 2:
        return []
    others = ", ".join(f"trial {one.number} {one.value:.4f}" for one in own.trials if one.number != number)
    return [f"with other seeds: {others}; {seeds_in_words(own)}"]


def cheap_lines(tied: Sequence[RankedConfiguration]) -> list[str]:
    """Return between which configurations the cheapest was chosen, and what it and the best cost."""
    from hpo.search.ranking import ModelCost, cheapest

    chosen, best = cheapest(tied), tied[0]
    if len(tied) == 1:
        return ["no other trial is as good as the best within the noise: it is the cheapest"]
    costs = [f"trial {one.trial.number} {one.mean:.4f}, {ModelCost.of(one.trial)}" for one in (chosen, best)]
    of = f"the cheapest of {len(tied)} configurations that cannot be told from the best: {costs[0]}"
    return [of if chosen is best else f"{of}; the best: {costs[1]}"]


def seeds_in_words(one: RankedConfiguration) -> str:
    """Return `mean of 2 seeds 0.9790 ± 0.0025, lower bound 0.9765`; ± is the standard error over seeds."""
    count = len(one.values)
    mean = f"mean of {count} seeds {one.mean:.4f}" if count > 1 else f"1 seed, {one.mean:.4f}"
    return f"{mean} ± {one.standard_error or 0.0:.4f}, lower bound {one.lower:.4f}"

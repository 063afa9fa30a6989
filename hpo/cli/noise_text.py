"""Lines about the noise of a study: which trials cannot be told from the best, what of it will hold, why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from hpo.search.noise import Rival, StudyNoise
    from hpo.search.status import StudyStatus

NAMED = 8
"""Trials that a line names; of more, so many."""

ROLES = {"first": "the first", "default": "the space's default", "probe": "the best probe"}
"""Role of a trial -> in words."""


def noise_lines(status: StudyStatus) -> list[Text]:
    """Return what is known of the best trial beside its value; nothing for trials that kept no predictions."""
    noise = status.noise
    if noise is None or status.best is None or noise.trial != status.best.number:
        return []
    lines = alike_line(noise), _luck_line(noise), _rivals_line(noise), _fresh_line(noise)
    return [Text(line, style="dim") for line in lines if line]


def alike_line(noise: StudyNoise) -> str:
    """Return which trials cannot be told from the best: `3 others cannot be told from it on …: trials 4, 9, 12`."""
    if not noise.compared:
        return ""
    where = f"on the same {noise.images:,} images"
    if not noise.alike:
        others = "the other complete trial" if noise.compared == 1 else f"all {noise.compared} other complete trials"
        return f"it leads {others} by more than chance {where}"
    count = len(noise.alike)
    return f"{count} other{'s' if count > 1 else ''} cannot be told from it {where}: {trials_named(noise.alike)}"


def trials_named(numbers: Sequence[int]) -> str:
    """Return `trial 4`, `trials 4, 9, 12`, or `trials 0, 1, 2 and 14 more`."""
    from hpo.data.names import shortened

    return f"trial{'s' if len(numbers) > 1 else ''} {shortened([str(number) for number in numbers], NAMED)}"


def _luck_line(noise: StudyNoise) -> str:
    """Return what is expected to hold of the value."""
    if noise.expected is None:
        return ""
    from hpo.evaluation.intervals import plus_minus

    expected = plus_minus(noise.expected, noise.error)
    return f"expected to hold of it: {expected} (the best of {noise.compared + 1} is partly luck)"


def _rivals_line(noise: StudyNoise) -> str:
    """Return how likely it is that the search has made it worse: `chance that it is worse than trial 0 (…): 3 %`."""
    chances = {rival.trial: rival.chance for rival in noise.rivals}
    named = [f"than {who}: {_percent(chances[number])}" for number, who in rivals_in_words(noise.rivals)]
    return f"chance that it is worse {', '.join(named)}" if named else ""


def _percent(chance: float) -> str:
    return "under 1 %" if chance < 0.01 else f"{100 * chance:.0f} %"


def rivals_in_words(rivals: Sequence[Rival]) -> list[tuple[int, str]]:
    """Return each rival's number with what it is: `trial 0 (the first, the space's default)`."""
    roles: dict[int, list[str]] = {}
    for rival in rivals:
        roles.setdefault(rival.trial, []).append(ROLES[rival.role])
    pruned = {rival.trial for rival in rivals if rival.pruned}
    return [
        (number, f"trial {number} ({', '.join([*names, *(['pruned early'] if number in pruned else [])])})")
        for number, names in roles.items()
    ]


def _fresh_line(noise: StudyNoise) -> str:
    if noise.fresh is None:
        return ""
    from hpo.evaluation.intervals import plus_minus

    count = len(noise.fresh.trials)
    seeds = "another seed" if count == 1 else f"{count} other seeds"
    mean = plus_minus(noise.fresh.mean, noise.fresh.error)
    return f"trained again with {seeds}: {mean}, where the search measured {noise.fresh.promised:.4f}"


def converged_line(status: StudyStatus) -> str:
    """Return why the study ended before its limits; empty where it did not."""
    found = status.limits.converged
    if found is None:
        return ""
    of = "" if status.limits.trials is None else f" of {status.limits.trials}"
    return (
        f"converged after {found.trials}{of} trials: further ones are expected to gain {found.gain:.4f} together, the "
        f"standard error is {found.error:.4f}; `hpo run` with --no-until-converged goes on"
    )

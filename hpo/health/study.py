"""The study and its data: expired leases, trials that nobody can take, what its workers are told, other images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import HpoError
from hpo.health.check import Check, amiss, well
from hpo.hints import hint
from search_spaces import SpaceError, read_space
from storage import Control, StorageError, get_control, holdings, open_study, read_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from storage import Database, Holding


def check_study(db: Database, name: str) -> Iterator[Check]:
    """The study, its leases, what its workers are told."""
    try:
        study = open_study(db, name)
        read_spec(study)
        db.require_schema()
        before = _running(study)
        leases = holdings(db, study)
        running = before & _running(study)  # not those that began or ended while we looked
        control = get_control(db, study)
    except StorageError as error:
        yield amiss("study", error)
        return
    yield told(name, control)
    yield leased(name, leases, running)


def told(name: str, control: Control) -> Check:
    """Whether the study's workers may work."""
    if control is Control.RUN:
        return well("study", f"{name} is there, and its workers may work")
    state = "paused" if control is Control.PAUSE else "stopped"
    return amiss("study", f"{name} is {state}", f"`{hint('resume', study=name)}` lets workers go on")


def leased(name: str, leases: Sequence[Holding], running: set[int]) -> Check:
    """Whether every running trial has a living holder."""
    held = [lease for lease in leases if lease.state == "held"]
    expired = [lease.number for lease in held if lease.left < 0]
    bare = sorted(running - {lease.number for lease in held})
    reap = f"`{hint('reap', study=name)}`"
    if bare:
        return amiss("leases", f"trials without a lease run: {_numbers(bare)}", f"{reap} puts them back")
    if expired:
        detail = f"trials whose workers are not heard of any more: {_numbers(expired)}"
        return amiss("leases", detail, f"the next worker takes them over; where none comes, {reap} puts them back")
    return well("leases", f"the workers of {len(held)} running trials are heard of" if held else "no trial runs")


def check_data(data: Path, db: Database | None, study: str | None, cache: Path) -> Check:
    """DATA: a layout that hpo reads, images of each class that can be decoded, and with a study its images."""
    from hpo.data.opening import look

    try:
        # How many images may be unreadable is the study's to say, where there is one.
        seen = look(data) if db is None or study is None else look(data, max_unreadable=1)
        tried = "all decoded" if seen.decoded == seen.images else f"{seen.decoded:,} of them decoded"
        found = f"{data}: {seen.images:,} images of {len(seen.summary.classes)} classes, {tried}"
        if db is not None and study is not None:
            _same_images(data, open_study(db, study), cache)
            found += f", those that {study} was made with"
    except (HpoError, SpaceError, OSError) as error:
        return amiss("data", error)
    except StorageError:
        return well("data", f"{found}; whether they are the study's is not known", seen.summary)
    return well("data", found, seen.summary)


def _same_images(data: Path, study: optuna.Study, cache: Path) -> None:
    """Raise DataError for other images than the study's; those not seen on this host before are decoded now."""
    from hpo.search.plan import open_study_data, possible

    spec = read_spec(study)
    size = min(possible(read_space(spec.space), "image_size"))
    open_study_data(data, spec, size, cache, name=study.study_name)


def _running(study: optuna.Study) -> set[int]:
    from optuna.trial import TrialState

    return {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown

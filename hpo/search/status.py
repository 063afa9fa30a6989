"""The status of a study as one frozen value: what `hpo status`, its --json and the live view of `hpo run` show.

Also what all readers of trials share: which trial is best, and times as aware datetimes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.line_to_beat import LineReader, LineToBeat
from hpo.search.noise import NoiseReader, StudyNoise
from hpo.search.ranking import RankedConfiguration, rank
from hpo.search.symmetry_choice import symmetry_of
from hpo.search.trial_record import TrialRecord, best_probe
from search_spaces import Space, TrialList, read_space
from storage import Control, Database, LeaseInfo, Limits, StudySpec, get_control, lease_infos, read_limits, read_spec

if TYPE_CHECKING:
    from hpo.data.changes import DataChanges

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
"""The word for each state, in status, tables and JSON."""


@dataclass(frozen=True)
class TrialStatus:
    """The status of one trial."""

    number: int
    state: str
    value: float | None
    """Best reported value so far; with folds the mean over the finished ones; None before the first report."""
    epoch: int
    epochs: int
    curve: Sequence[float]
    params: Mapping[str, Any]
    seconds: float
    reason: str | None
    worker: str | None
    violated: Sequence[str] = ()
    """Constraints that the trial broke: diverged, memory."""
    folds: Mapping[str, Any] | None = None
    """Folds of the trial: `fold` in training from 1, `of` so many, the `values` of the finished ones, and from two on
    the `standard_error` of their mean; `epoch` is then that of the fold. None without folds."""
    figures: Mapping[str, Any] | None = None
    """Figures that make the value in a study with a robustness above 0: `clean` and `altered`, and how both went from
    epoch to epoch, `clean_curve` and `altered_curve`. None without robustness."""
    probe: str | None = None
    """The backbone that a frozen probe measures, which has neither epochs nor parameters; None for other trials."""
    replicate_of: int | None = None
    """Number of the first trial with the same parameters; None where there is none before."""

    standard_error: float | None = None
    """Standard error of the value of a finished trial without folds, over samples of images; None if not known."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-ready; what not every study or trial has only where there is any."""
        lists = {"curve": list(self.curve), "params": dict(self.params), "violated": list(self.violated)}
        rare = ("folds", "probe", "replicate_of", "standard_error")
        values = {key: value for key, value in {**vars(self), **lists}.items() if key not in rare or value is not None}
        figures = values.pop("figures") or {}
        return {**values, **figures}

    @property
    def error(self) -> float | None:
        """The standard error of the value, over the folds or over samples of images; None where it is not known."""
        error: float | None = self.folds.get("standard_error") if self.folds else self.standard_error
        return error

    @property
    def pair(self) -> tuple[float, float] | None:
        """The figures on clean and on altered images that the value is made of; None where it is one figure alone."""
        found = self.figures or {}
        return (found["clean"], found["altered"]) if found.get("clean") is not None else None


@dataclass(frozen=True)
class StudyStatus:
    """The status of a study at one moment."""

    study: str
    metric: str
    space: str
    limits: Limits
    now: datetime
    trials: Sequence[TrialStatus]
    best: TrialStatus | None
    """The trial of the best configuration: of those with its parameters the one with the highest value."""
    leases: Sequence[LeaseInfo] = ()
    """The leases that a worker holds, ordered by the number of their trial."""
    redone: float = 0.0
    """Epochs that were trained again after interruptions, all trials together."""
    control: Control = Control.RUN
    """The command that the study's workers follow."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """How the images are split: `split` in words, and `group_by` and `folds`, None where they are not given."""
    symmetry: Mapping[str, Any] | None = None
    """How the symmetry was chosen, as `SymmetryChoice.to_dict` gives it; None where that is not recorded."""
    changes: DataChanges | None = None
    """The decisions on single images that the study's data follow; None without any."""
    robustness: float = 0.0
    """Weight of altered images in the value of a trial."""
    probe: LineToBeat | None = None
    """The best frozen probe, and whether tuning beats it; None where no probe is complete."""
    noise: StudyNoise | None = None
    """The noise of the best trial's value; None before there is one."""
    ranked: Sequence[RankedConfiguration] = ()
    """The configurations with a complete trial, the best first."""

    @property
    def value_name(self) -> str:
        """The name of a trial's value: the metric, or `value` where it is made of that on two kinds of images."""
        return "value" if self.robustness else self.metric

    @property
    def winner(self) -> RankedConfiguration | None:
        """The best configuration with its values, in a study that trained one under several seeds; else None."""
        best = next(iter(self.ranked), None)
        return best if best is not None and best.noise is not None else None

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.limits.deadline is not None and self.now >= self.limits.deadline

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state; `asked` counts all but the waiting, `finished` the complete, pruned and failed ones."""
        states = {name: sum(trial.state == name for trial in self.trials) for name in STATES.values()}
        finished = states["complete"] + states["pruned"] + states["failed"]
        return {"asked": finished + states["running"], "finished": finished} | states

    def to_dict(self) -> dict[str, Any]:
        """Return the document of `hpo status --json`; its keys are stable."""
        best = self.best
        return {
            "study": self.study,
            "trials": self.counts,
            "best": best and _best_to_dict(best, self.winner),
            "metric": self.metric,
            "robustness": self.robustness,
            "space": self.space,
            "limit": {
                "trials": self.limits.trials,
                "deadline": self.limits.deadline and self.limits.deadline.isoformat(),
                "confirm": self.limits.confirm.within(self.limits.trials),
            },
            **self._noise_to_dict(),
            "running": [trial.to_dict() for trial in self.trials if trial.state == "running"],
            "failures": [
                {"trial": trial.number, "reason": trial.reason} for trial in self.trials if trial.state == "failed"
            ],
            "leases": [_lease_to_dict(lease) for lease in self.leases],
            "redone": self.redone,
            "control": self.control.value,
            "data": dict(self.data),
            **({"symmetry": dict(self.symmetry)} if self.symmetry else {}),
            **({"probe": self.probe.to_dict()} if self.probe else {}),
            "changes": self.changes.counts() if self.changes else None,
        }

    def _noise_to_dict(self) -> dict[str, Any]:
        """Return why the study ended before its limits, and the noise of its best value; each may be None."""
        converged = self.limits.converged
        return {"converged": converged and asdict(converged), "noise": self.noise and self.noise.to_dict()}


class StudyReader:
    """Reads the status of one study repeatedly; the status of a finished trial is computed once."""

    def __init__(self, db: Database, study: optuna.Study) -> None:
        db.require_schema()
        self._db, self._study = db, study
        self._spec = read_spec(study)
        self._space = read_space(self._spec.space)
        self._changes = _changes_of(self._spec)
        self._line_to_beat = LineReader(self._spec.metric, self._spec.robustness)
        points = [] if isinstance(self._space, TrialList) else self._space.enqueue_points()
        self._noise = NoiseReader(self._spec.metric, self._spec.robustness, points[0] if points else None)
        self._finished: dict[int, TrialStatus] = {}

    def __call__(self) -> StudyStatus:
        """Return the status now: trials in one query of optuna's, leases, limits, by the database's clock."""
        now = self._db.now()
        trials = self._study.get_trials(deepcopy=False)
        ranked = rank(trials)
        leases = lease_infos(self._db, self._study)
        # A requeued trial has cost time until the last renewal of its lease.
        last_renewals = {lease.number: now - timedelta(seconds=lease.age) for lease in leases if lease.state == "free"}
        return StudyStatus(
            study=self._study.study_name,
            metric=self._spec.metric,
            robustness=self._spec.robustness,
            space=self._space.name,
            limits=read_limits(self._study),
            now=now,
            trials=[self._trial_status(trial, last_renewals.get(trial.number, now)) for trial in trials],
            best=self._trial_status(ranked[0].trial, now) if ranked else None,
            noise=self._noise(trials, ranked[0].trial) if ranked else None,
            ranked=ranked,
            leases=[lease for lease in leases if lease.state == "held"],
            redone=sum(lease.redone for lease in leases),
            control=get_control(self._db, self._study),
            data={key: self._spec.data.get(key) for key in ("split", "group_by", "folds")},
            symmetry=symmetry_of(self._study),
            changes=self._changes,
            probe=self._line_to_beat([trial for one in ranked for trial in one.trials], trials),
        )

    def _trial_status(self, trial: FrozenTrial, until: datetime) -> TrialStatus:
        if trial.number not in self._finished:
            status = _trial_status(trial, self._space, until)
            if not trial.state.is_finished():
                return status
            self._finished[trial.number] = status
        return self._finished[trial.number]


def _changes_of(spec: StudySpec) -> DataChanges | None:
    if not (stored := spec.data.get("findings")):
        return None
    from hpo.data.changes import DataChanges  # with hpo.data, which is slow to import

    return DataChanges.from_json(stored) or None


def _best_to_dict(best: TrialStatus, winner: RankedConfiguration | None) -> dict[str, Any]:
    folds = {"folds": dict(best.folds)} if best.folds else {}
    pair = dict(zip(("clean", "altered"), best.pair, strict=True)) if best.pair else {}
    probe = {"probe": best.probe} if best.probe else {}
    seeds = {"seeds": winner.to_dict()} if winner else {}
    value = {"trial": best.number, "value": best.value, **pair}
    return {**value, "params": dict(best.params), **folds, **probe, **seeds}


def _lease_to_dict(lease: LeaseInfo) -> dict[str, Any]:
    names = {"attempts": "takings"}  # the documented key
    kept = {
        names.get(key, key): value for key, value in vars(lease).items() if key not in ("number", "state", "claimed_at")
    }
    return {"trial": lease.number, "claimed_at": lease.claimed_at.isoformat(), **kept}


def _trial_status(trial: FrozenTrial, space: Space, until: datetime) -> TrialStatus:
    record = TrialRecord.of(trial)
    finished = _finished_folds(record.folds, trial.intermediate_values)
    curve = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    reached = max(trial.intermediate_values, default=0)
    if record.probe:  # reports no step
        reached = len(finished) * int(record.folds.get("steps", 0))
    epoch, folds = _fold_reached(record.folds, reached, finished)
    so_far = fmean(finished) if finished else max(curve, default=None)
    return TrialStatus(
        number=trial.number,
        state=STATES[trial.state],
        value=trial.value if trial.state == TrialState.COMPLETE else so_far,
        epoch=0 if record.probe else epoch,
        epochs=0 if record.probe else int(record.config.get("epochs", space.fixed.get("epochs", 0))),
        curve=curve,
        params=space.searched(trial.params),
        seconds=record.seconds or _seconds(trial, until),
        reason=record.reason,
        worker=record.worker,
        violated=sorted(name for name, value in trial.constraints.items() if value > 0),
        folds=folds,
        figures=_figures(record),
        probe=record.probe,
        standard_error=None if record.folds else record.standard_error,
        replicate_of=record.replicate_of,
    )


def _figures(record: TrialRecord) -> dict[str, Any] | None:
    """Return what the trial's value is made of; None without robustness, or before the first report."""
    if record.clean is None:
        return None
    steps = sorted(record.clean_curve, key=int)
    return {
        "clean": record.clean,
        "altered": record.altered,
        "clean_curve": [record.clean_curve[step] for step in steps],
        "altered_curve": [record.altered_curve[step] for step in steps],
    }


def _finished_folds(recorded: Mapping[str, Any], reported: Mapping[int, float]) -> list[float]:
    """Return the value of each finished fold: as recorded at the trial's end, else from what it has reported.

    What is reported at the end of a fold is the mean over this and the folds before. Empty without folds.
    """
    if not recorded or recorded.get("values"):
        return list(recorded.get("values") or ())
    steps = int(recorded["steps"])
    ends = {(step - 1) // steps: step for step in sorted(reported)}
    means = [reported[step] for fold, step in ends.items() if fold < max(ends) or step == (fold + 1) * steps]
    sums = [0.0, *(count * mean for count, mean in enumerate(means, start=1))]
    return [round(after - before, 9) for before, after in pairwise(sums)]  # differences of sums are not exact


def _fold_reached(
    recorded: Mapping[str, Any], step: int, finished: Sequence[float]
) -> tuple[int, dict[str, Any] | None]:
    """Return the epoch, and what is shown of the folds, at the last reported step; None without folds."""
    if not recorded:
        return step, None
    before = max(0, step - 1) // recorded["steps"]
    error = recorded.get("standard_error") or (stdev(finished) / len(finished) ** 0.5 if len(finished) > 1 else None)
    shown = {"fold": before + 1, "of": recorded["count"], "values": list(finished), "standard_error": error}
    return step - before * recorded["steps"], shown


def _seconds(trial: FrozenTrial, until: datetime) -> float:
    """Return the seconds from the trial's start to its end, or to `until` where it has not ended.

    0 where the start was recorded wrongly: earlier versions wrote local time where optuna expects UTC.
    """
    if trial.datetime_start is None:
        return 0.0
    end = moment(trial.datetime_complete) if trial.datetime_complete else until
    return max(0.0, (end - moment(trial.datetime_start)).total_seconds())


def moment(time_of_trial: datetime) -> datetime:
    """Return a time that optuna gives, naive and in this host's time zone, as an aware one.

    Naive times must not be subtracted: where clocks are put back, one hour is missing from the difference. Within
    the hour that comes twice optuna does not say which it means, and the first is taken.
    """
    return time_of_trial.astimezone(UTC)


def best_first(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, those of the best configuration first (`ranking.rank`).

    In a study without replicates that is the highest value first, the earliest of equals first.
    """
    return [trial for configuration in rank(trials) for trial in configuration.trials]


def kept_first(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the finished trials in the order in which they keep their checkpoints, those that never will left out.

    The complete ones come first, as in `best_first`, then the pruned ones by their best epoch: their weights may enter
    a soup or an ensemble. Those that broke a constraint, such as diverged ones, are left out.
    """
    trials = list(trials)
    pruned = [
        trial
        for trial in trials
        if trial.state == TrialState.PRUNED
        and trial.intermediate_values
        and not any(value > 0 for value in trial.constraints.values())
    ]
    pruned.sort(key=lambda trial: (-max(trial.intermediate_values.values()), trial.number))
    return [*best_first(trials), *pruned]


def keeping_checkpoints(trials: Iterable[FrozenTrial], keep: int) -> list[FrozenTrial]:
    """Return the trials that keep their checkpoints: the first `keep` of `kept_first`, and the best frozen probe."""
    ranked = kept_first(trials)
    return [*ranked[:keep], *filter(None, [best_probe(ranked)])]

"""Effects of frozen probes on the proposals of a sampler: they are no observations, and they tell hopeless backbones.

A probe has no parameters. Were it among the trials that TPE divides into good and bad, it would take the place of a
good trial and tell nothing of where that lies; so the sampler never sees it.

A backbone whose probe is hopeless gets fewer trials, and never none: features that separate the classes badly are
mostly, but not surely, a bad start. Over data sets the accuracy of such a probe ranks pretrained networks much as
fine-tuning does (Kornblith et al. 2019, arXiv 1805.08974), but the first by the probe is often not the first when
tuned (Renggli et al. 2022, arXiv 2010.06402; You et al. 2021, LogME, arXiv 2102.11005: rank correlations of 0.5 to
0.8). Hence a wide margin, and a part of the trials in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.search.trial_record import TrialRecord, is_probe
from hpo.seeds import derive_seed

HOPELESS_ERRORS = 2.0
"""A probe is hopeless if it leaves so many times the errors of the best probe, or more, …"""

HOPELESS_GAP = 0.05
"""… and its value is so far below that of the best probe: between good backbones twice as few errors say little."""

KEPT = 4
"""One in so many proposals of a hopeless backbone stays; the others get another backbone."""

BACKBONE = "backbone"


def hopeless_backbones(trials: Sequence[FrozenTrial]) -> Mapping[str, float]:
    """Return the values of the probes that are far below the best one, by backbone."""
    values = {
        str(TrialRecord.of(trial).probe): trial.value
        for trial in trials
        if trial.state == TrialState.COMPLETE and is_probe(trial) and trial.value is not None
    }
    best = max(values.values(), default=0.0)
    return {name: value for name, value in values.items() if is_hopeless(value, best)}


def is_hopeless(value: float, best: float) -> bool:
    """Return whether the value of a probe is far below that of the best probe."""
    return best - value >= HOPELESS_GAP and 1 - value >= HOPELESS_ERRORS * (1 - best)


def aware_of_probes(sampler_of: Callable[[int], BaseSampler], seed: int) -> Callable[[int], BaseSampler]:
    """Return a function like `sampler_of`, from the number of a trial to its sampler, for a study with probes."""
    return lambda number: ProbeAwareSampler(sampler_of(number), derive_seed(seed, BACKBONE, number))


class ProbeAwareSampler(BaseSampler):
    """Proposes what `sampler` proposes from the trials that are no probes, with fewer trials of hopeless backbones.

    Given parameters, of a known-good point or an enqueued trial, are never changed.
    """

    def __init__(self, sampler: BaseSampler, seed: int) -> None:
        self._sampler = sampler
        self._generator = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions of what `sample_relative` proposes."""
        return self._sampler.infer_relative_search_space(_without_probes(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters that are proposed together."""
        proposed = self._sampler.sample_relative(_without_probes(study), trial, search_space)
        return {name: self._steered(study, name, value, search_space[name]) for name, value in proposed.items()}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a parameter that is proposed by itself."""
        value = self._sampler.sample_independent(_without_probes(study), trial, param_name, param_distribution)
        return self._steered(study, param_name, value, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Prepare the sampler for a trial."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Let the sampler see how a trial ended."""
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Reseed the sampler."""
        self._sampler.reseed_rng()

    def _steered(self, study: optuna.Study, name: str, value: Any, distribution: BaseDistribution) -> Any:
        """Return `value`, or another backbone in place of a hopeless one."""
        if name.partition("[")[0] != BACKBONE or not isinstance(distribution, CategoricalDistribution):
            return value
        hopeless = hopeless_backbones(study._get_trials(deepcopy=False, use_cache=True))
        others = [choice for choice in distribution.choices if choice not in hopeless]
        if value not in hopeless or not others or self._generator.integers(KEPT) == 0:
            return value
        return others[int(self._generator.integers(len(others)))]


class _StudyWithoutProbes:
    """The study as a sampler sees it: all attributes are its own, but its trials are those without probes."""

    def __init__(self, study: optuna.Study) -> None:
        self._whole = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        """Return the trials, as optuna's own method does, without probes."""
        return [trial for trial in self._whole.get_trials(*args, **options) if not is_probe(trial)]

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        return [trial for trial in self._whole._get_trials(*args, **options) if not is_probe(trial)]


def _without_probes(study: optuna.Study) -> optuna.Study:
    """Return the study for a sampler, which only reads it, as optuna gives one bracket of a study to a sampler."""
    view: Any = _StudyWithoutProbes(study)
    return view  # type: ignore[no-any-return]

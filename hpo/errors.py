"""The errors of hpo. The user can mend each of them: one line, exit code 2, a traceback only with --debug.

HpoError
├── DataError       the data set cannot be used as it is
├── ModelError      an unknown backbone, weights that do not fit
│   └── HubError      a hub that cannot be reached
├── BundleError     a folder is not a bundle, or does not fit the data
└── UsageError      options that contradict each other

TrialEnded          an outcome: a trial cannot win any more (NaN, collapse), for the given `reason`
└── InfeasibleError   the trial does not fit into the memory, and neither would a similar one
TrainingInterrupted an outcome, in hpo.interruption: the caller's `should_stop` returned True
"""

from __future__ import annotations

from typing import ClassVar


class HpoError(Exception):
    """Base of the errors whose message is written for the user."""


class DataError(HpoError):
    """The data set cannot be used as it is."""


class ModelError(HpoError):
    """A backbone is unknown, or its weights do not fit or cannot be obtained."""


class HubError(ModelError):
    """The hub of pretrained weights cannot be reached; the configuration may be valid."""


class BundleError(HpoError):
    """A folder is not a bundle, or the bundle does not fit the data."""


class UsageError(HpoError):
    """Options that contradict each other, or a value out of its range."""


class TrialEnded(Exception):  # noqa: N818 - an outcome, not an error
    """A trial cannot win any more; `reason` is stored with the trial."""

    constraint: ClassVar[str] = "diverged"
    """The constraint that the trial violates, for samplers that model constraints."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class InfeasibleError(TrialEnded):
    """A trial does not fit into the memory, not even one image at a time."""

    constraint = "memory"

"""Errors of what is done. Every one is the user's to mend: one line, exit code 2, a traceback only with --debug.

HpoError
├── DataError       the data set cannot be used as it is
├── ModelError      an unknown backbone, weights that do not fit
│   └── HubError      a hub that cannot be reached
├── BundleError     a folder is not a bundle, or does not fit the data
└── UsageError      options that contradict each other

TrialEnded          not an error of the user's: a trial cannot win any more (NaN, collapse); `reason` says why
└── InfeasibleError   nor can any like it: it does not fit into the memory
TrainingInterrupted not an error at all: the caller's `should_stop` said so
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    pass


class HpoError(Exception):
    """Base of the errors whose message is written for the person at the keyboard."""


class DataError(HpoError):
    """The data set cannot be used as it is."""


class ModelError(HpoError):
    """A backbone is unknown, or its weights do not fit or cannot be had."""


class HubError(ModelError):
    """The hub of pretrained weights cannot be reached: no configuration is to blame."""


class BundleError(HpoError):
    """A folder is not a bundle, or the bundle does not fit the data."""


class UsageError(HpoError):
    """Options that contradict each other, or a value out of its range."""


class TrialEnded(Exception):  # noqa: N818 - an outcome, not an error
    """A trial cannot win any more; `reason` is written into the trial."""

    constraint: ClassVar[str] = "diverged"
    """The constraint that the trial breaks, for samplers that model them."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class InfeasibleError(TrialEnded):
    """A trial does not fit into the memory, not even one image at a time."""

    constraint = "memory"

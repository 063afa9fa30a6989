"""Errors of what is done. Every one is the user's to mend: one line, exit code 2, a traceback only with --debug.

HpoError
├── DataError       the data set cannot be used as it is
├── ModelError      an unknown backbone, weights that do not fit, a hub that cannot be reached
├── BundleError     a folder is not a bundle, or does not fit the data
└── UsageError      options that contradict each other

TrialEnded          not an error of the user's: a trial cannot win any more (NaN, collapse); `reason` says why
TrainingInterrupted not an error at all: the caller's `should_stop` said so
"""


class HpoError(Exception):
    """Base of the errors whose message is written for the person at the keyboard."""


class DataError(HpoError):
    """The data set cannot be used as it is."""


class ModelError(HpoError):
    """A backbone is unknown, or its weights do not fit or cannot be had."""


class BundleError(HpoError):
    """A folder is not a bundle, or the bundle does not fit the data."""


class UsageError(HpoError):
    """Options that contradict each other, or a value out of its range."""


class TrialEnded(Exception):  # noqa: N818 - an outcome, not an error
    """A trial cannot win any more; `reason` is written into the trial."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class TrainingInterrupted(Exception):  # noqa: N818 - an outcome, not an error
    """Training stopped between two steps because `should_stop()` returned True."""

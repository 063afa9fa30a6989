"""A wrong wall clock in this process, as on a host whose time was never set."""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any

_OURS = ("hpo", "storage", "search_spaces", "optuna", "logging")


def shift_clock(seconds: float) -> None:
    """Shift every wall clock that hpo and optuna read by `seconds`. The monotonic clock stays as it is."""
    delta, real_time, real = datetime.timedelta(seconds=seconds), time.time, datetime.datetime

    class Shifted(real):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real.now(tz) + delta

        @classmethod
        def utcnow(cls) -> Any:
            return real.now(datetime.UTC).replace(tzinfo=None) + delta

    time.time = lambda: real_time() + seconds
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS and getattr(module, "datetime", None) is real:
            module.datetime = Shifted  # type: ignore[attr-defined]
    datetime.datetime = Shifted  # type: ignore[misc]

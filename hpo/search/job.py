"""How one worker process is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """How one worker is started: its arguments after `hpo worker`, its environment, where it writes its log."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path

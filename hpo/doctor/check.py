"""The result of one check: it passed, or how to mend what failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.data import DataSummary


@dataclass(frozen=True)
class Check:
    """One line of `hpo doctor`."""

    what: str
    ok: bool
    detail: str
    """The finding, with its values."""
    fix: str = ""
    """The way out of a failed check, if the detail does not name it."""
    summary: DataSummary | None = None
    """The description of a data set: shown below the line, and under `data` in JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        data = {"data": self.summary.to_json()} if self.summary else {}
        return {"what": self.what, "ok": self.ok, "detail": self.detail, "fix": self.fix or None, **data}


def passed(what: str, detail: str, summary: DataSummary | None = None) -> Check:
    """Return a check that passed."""
    return Check(what, True, detail, summary=summary)


def failed(what: str, detail: str | Exception, fix: str = "") -> Check:
    """Return a check that failed. The message of an error names the way out itself, after a semicolon."""
    if isinstance(detail, Exception):
        detail, _, fix = str(detail).partition("; ")
    return Check(what, False, detail, fix)

"""What a look at one thing found: that it is well, or how to mend it."""

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
    """What was found, with its values."""
    fix: str = ""
    """The way out, where something is to be mended and the detail does not name it."""
    summary: DataSummary | None = None
    """Of a data set: told below the line, and under `data` in JSON."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        data = {"data": self.summary.to_json()} if self.summary else {}
        return {"what": self.what, "ok": self.ok, "detail": self.detail, "fix": self.fix or None, **data}


def passed(what: str, detail: str, summary: DataSummary | None = None) -> Check:
    """Nothing to mend."""
    return Check(what, True, detail, summary=summary)


def failed(what: str, detail: str | Exception, fix: str = "") -> Check:
    """Something to mend; an error's line names the way out itself, after a semicolon."""
    if isinstance(detail, Exception):
        detail, _, fix = str(detail).partition("; ")
    return Check(what, False, detail, fix)

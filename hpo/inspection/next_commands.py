"""The commands that act on the findings of an inspection, with the options that it had itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hpo.hints import hint
from hpo.inspection.inspect_data import IMAGE_SIZE, DataInspection, InspectionOptions

TABLE = "findings.csv"
"""The table of findings where none was written."""

RANDOM = "from random weights, as none can be fetched here; --weights FILE starts from better ones"
"""Why a command has `--set pretrained=false`."""

_HOME = Path(".hpo")
"""The default of --home, which no command needs."""


@dataclass(frozen=True)
class NextCommands:
    """Commands to paste: each runs as it stands, in the folder of the command that names it."""

    path: Path
    options: InspectionOptions = field(default_factory=InspectionOptions)
    random_weights: bool = False
    """Whether a search has to start from random weights, since those of timm could not be fetched."""
    home: Path | None = None
    """The folder HOME; None for the default."""

    @classmethod
    def of(cls, found: DataInspection, home: Path | None = None) -> NextCommands:
        """Return the commands that follow an inspection."""
        return cls(found.data.path, found.options, found.unfetched, home)

    def run(self, **decisions: object) -> str:
        """Return the command that searches the data under `decisions` on single images, as `clean=True`."""
        pretrained = "pretrained=false" if self.random_weights else None
        name = self.path.stem or "NAME"
        return hint(
            "run", self.path, study=name, **self._network, set=pretrained, group_by=self.options.group_by, **decisions,
            home=self._home,
        )  # fmt: skip

    def data(self, table: str = TABLE) -> str:
        """Return the command that inspects the data again and writes the findings to `table`."""
        options = self.options
        return hint(
            "data", self.path, **self._network, group_by=options.group_by,
            image_size=None if options.image_size == IMAGE_SIZE else options.image_size,
            no_embeddings=None if options.embeddings else True, out=table, home=self._home,
        )  # fmt: skip

    def lines(self, table: Path | None) -> Iterator[str]:
        """Yield the commands: a run with the `table` that was written, else those that write and use one."""
        why = f"    # {RANDOM}" if self.random_weights else ""
        if table is not None:
            yield f"{self.run(findings=table)}{why}"
            return
        yield f"{self.run(clean=True)}{why}"
        yield f"{self.data()}    # to look, edit, and then"
        yield self.run(findings=TABLE)

    @property
    def _network(self) -> dict[str, object]:
        return {"backbone": self.options.backbone, "weights": self.options.weights}

    @property
    def _home(self) -> Path | None:
        return None if self.home == _HOME else self.home

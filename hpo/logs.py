"""What a worker writes while it works: lines with a time on stderr."""

from __future__ import annotations

import logging


def log_to_stderr(level: int) -> None:
    """Our own lines from `level` on, warnings of everybody else's."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)  # of its pools' life nobody wants to read
    for package in ("hpo", "storage"):
        logging.getLogger(package).setLevel(level)
    logging.getLogger("storage.connections").setLevel(logging.WARNING)  # a pool of SQLAlchemy's too

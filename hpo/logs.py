"""The log of a worker: lines with a time on stderr."""

from __future__ import annotations

import logging


def log_to_stderr(level: int) -> None:
    """Log lines of hpo and storage from `level` on, and warnings of other packages, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)  # its pools log every connection
    for package in ("hpo", "storage"):
        logging.getLogger(package).setLevel(level)
    logging.getLogger("storage.connections").setLevel(logging.WARNING)  # the same for our connections

"""The fixtures of tests/hpo/training: small sets of coloured squares and a fast configuration."""

from tests.hpo.training.conftest import (
    CLASSES,
    SIZE,
    coloured,
    config,
    data,
    one_thread,
    part_of,
    short_collections,
)

__all__ = ["CLASSES", "SIZE", "coloured", "config", "data", "one_thread", "part_of", "short_collections"]

"""What may be tried: typed configurations, the spaces that they are drawn from, and the files that declare them.

Knows no database, no optuna and no torch.
"""

from search_spaces.conditions import parameter_name
from search_spaces.config import (
    BEFORE,
    Activation,
    AugmentationFamily,
    ClassWeights,
    Loss,
    Normalisation,
    Precision,
    Symmetry,
    TrialConfig,
)
from search_spaces.dimensions import Choice, Dimension, Float, Int, Trial, dimension_from_dict
from search_spaces.errors import SpaceError
from search_spaces.explain import Row, describe, rows
from search_spaces.fields import parse_value
from search_spaces.loader import catalog, earlier_edition, load_space
from search_spaces.phased import check_given
from search_spaces.phases import Optimiser, Phase, Schedule, Unfreezing
from search_spaces.roster import RUN, Entry, Roster, Space, read_space, trial_seed, with_weights
from search_spaces.space import SearchSpace

__all__ = [
    "BEFORE",
    "RUN",
    "Activation",
    "AugmentationFamily",
    "Choice",
    "ClassWeights",
    "Dimension",
    "Entry",
    "Float",
    "Int",
    "Loss",
    "Normalisation",
    "Optimiser",
    "Phase",
    "Precision",
    "Roster",
    "Row",
    "Schedule",
    "SearchSpace",
    "Space",
    "SpaceError",
    "Symmetry",
    "Trial",
    "TrialConfig",
    "Unfreezing",
    "catalog",
    "check_given",
    "describe",
    "dimension_from_dict",
    "earlier_edition",
    "load_space",
    "parameter_name",
    "parse_value",
    "read_space",
    "rows",
    "trial_seed",
    "with_weights",
]

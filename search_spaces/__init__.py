"""Search spaces: typed configurations, the spaces that they are drawn from, and the files that declare them.

Knows no database, no optuna and no torch.
"""

from search_spaces.conditions import check_given, parameter_name
from search_spaces.config import (
    FORMER_DEFAULTS,
    Activation,
    AugmentationFamily,
    Background,
    ClassWeights,
    Loss,
    Normalisation,
    Optimiser,
    Phase,
    Precision,
    Schedule,
    Symmetry,
    TrialConfig,
    UnfreezeFrom,
    Unfreezing,
)
from search_spaces.dimensions import Choice, Dimension, Float, Int, Trial, dimension_from_dict
from search_spaces.errors import SpaceError
from search_spaces.explain import SpaceRow, describe, rows
from search_spaces.fields import parse_value
from search_spaces.space import SearchSpace
from search_spaces.space_files import catalog, earlier_edition, load_space, space_names
from search_spaces.trial_list import RUN, PlannedTrial, Space, TrialList, read_space, trial_seed, with_weights

__all__ = [
    "FORMER_DEFAULTS",
    "RUN",
    "Activation",
    "AugmentationFamily",
    "Background",
    "Choice",
    "ClassWeights",
    "Dimension",
    "Float",
    "Int",
    "Loss",
    "Normalisation",
    "Optimiser",
    "Phase",
    "PlannedTrial",
    "Precision",
    "Schedule",
    "SearchSpace",
    "Space",
    "SpaceError",
    "SpaceRow",
    "Symmetry",
    "Trial",
    "TrialConfig",
    "TrialList",
    "UnfreezeFrom",
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
    "space_names",
    "trial_seed",
    "with_weights",
]

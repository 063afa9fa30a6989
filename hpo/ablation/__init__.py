"""What each part of a configuration is worth: it is switched off, the rest is trained again, seed by seed.

parts          which parts a configuration can have, and what takes the place of each
variation      the runs that an ablation needs, single parts and pairs
contribution   paired differences with their t interval; the interaction of a pair
outcome        what came of the runs
table, figure, results   what is shown and written
"""

"""How two pictures that may be copies lie to each other, by their low DCT coefficients alone.

A picture is seen through all windows of `picture_hash.VIEWS`, and compared with the centre of the other in all eight
orientations. Which window of a copy was cut out, and how it was turned, follow together: of a round cell that was
shifted, the best window in a wrong orientation is nearly as good as the right one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Labels
from hpo.data.picture_hash import (
    CENTRE,
    FREQUENCIES,
    VIEWS,
    Floats,
    frequencies_of_views,
    low_frequencies,
    luma_thousandths,
)
from hpo.data.symmetries import SYMMETRIES, inverse, turned, turned_coefficients, turned_offset

_NOT_TURNED = 1e-3
"""Added to the agreement of pictures that are not turned: one that looks the same when turned counts as not turned."""

_PLAIN = tuple(number for number, view in enumerate(VIEWS) if view.gain == 1)
"""The views that change no brightness."""


def seen_coefficients(luma: Floats, one: Images, view: Labels) -> Floats:
    """Return the coefficients (m, V + 1, 7, 7) of the plain views of each picture; last those of its own view, if any.

    The own view is one with another brightness.
    """
    plain = np.stack(frequencies_of_views(luma, tuple(VIEWS[number] for number in _PLAIN)), axis=1)
    own = np.zeros((len(luma), 1, *plain.shape[2:]))
    for number in set(np.unique(view).tolist()) - set(_PLAIN):
        rows = view == number
        own[rows, 0] = low_frequencies(luma_thousandths(one[rows], VIEWS[number].gain), VIEWS[number])
    return np.concatenate([plain, own], axis=1)


def likely_orientations(seen: Floats, target: Floats) -> tuple[Floats, Labels, Floats]:
    """Return the two best orientations of pictures by their coefficients under some views, and of others.

    These are the agreement (correlation), the symmetry and the place that the best view gives, (m, 2) and (m, 2, 4).
    """
    sides = np.stack([turned_coefficients(target, inverse(s)) for s in range(SYMMETRIES)], axis=1)
    # All but the mean.
    one, two = (some.reshape(*some.shape[:2], FREQUENCIES**2)[..., 1:].astype(np.float32) for some in (seen, sides))
    norms = [np.sqrt(np.square(some).sum(axis=2)) + 1e-9 for some in (one, two)]
    agreement = (one @ two.swapaxes(1, 2)) / (norms[0][:, :, None] * norms[1][:, None])
    agreement[..., 0] += _NOT_TURNED
    view, pairs = agreement.argmax(axis=1), np.arange(len(agreement))[:, None]
    best = agreement.max(axis=1)
    symmetry = np.argsort(-best, axis=1, kind="stable")[:, :2]
    begin = _BEGINS[view[pairs, symmetry], symmetry]
    return best[pairs, symmetry].astype(np.float64), symmetry, begin


def turned_pictures(pictures: npt.NDArray[np.float32], symmetry: Labels) -> npt.NDArray[np.float32]:
    """Return pictures (m, …, S, S), each turned by its own symmetry, in place."""
    for number in range(1, SYMMETRIES):
        rows = symmetry == number
        pictures[rows] = turned(pictures[rows], number)
    return pictures


def _begin(view: int, symmetry: int) -> npt.NDArray[np.float64]:
    """Return scale and shift of rows and of columns that bring the centre of the second onto a view of the first."""
    seen = VIEWS[view]
    down, right = turned_offset(seen.down, seen.right, symmetry)
    scale = seen.side / CENTRE.side
    return np.array([scale, down, scale, right])


_BEGINS = np.array(
    [[_begin(view, symmetry) for symmetry in range(SYMMETRIES)] for view in (*_PLAIN, VIEWS.index(CENTRE))]
)
"""(V + 1, 8, 4) by plain view and symmetry; views with another brightness show the centre."""

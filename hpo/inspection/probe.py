"""A linear probe: logistic regression on embeddings, and its predictions for points that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpo.data.dataset import Labels
from hpo.data.grouped_split import deal
from hpo.device import side_by_side
from hpo.interruption import ShouldStop, TrainingInterrupted, never

FOLDS = 5

STEPS = 100
"""Most steps of L-BFGS."""

PENALTY = 1 / 6
"""The L2 penalty on the weights, times the root of the number of points, against summed losses; at least 1.

Of 0.5 to 80 the best for 60, 800, 2,000 and 13,000 images were about 1, 5, 7 and 20.
"""

Points = npt.NDArray[np.float32]
"""(m, D) coordinates."""

Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """A trained probe: (m, D) points -> (m, C) probabilities."""

    mean: Tensor
    scale: Tensor
    weights: Tensor
    """(D + 1, C) float32, the last row is the bias."""

    def predict(self, points: Points) -> Probabilities:
        """Return the probabilities (m, C) of points (m, D)."""
        return torch.softmax(_inputs(points, self.mean, self.scale) @ self.weights, dim=1).numpy()

    def layer(self) -> tuple[Tensor, Tensor]:
        """Return weights (C, D) and bias (C,) of the linear layer that gives the same logits for points as they are."""
        weights = self.weights[:-1].double() / self.scale.double()[:, None]
        bias = self.weights[-1].double() - self.mean.double() @ weights
        return weights.T.float(), bias.float()


def fit_probe(
    points: Points, labels: Labels, classes: int, *, penalty: float = 1.0, should_stop: ShouldStop = never
) -> Probe:
    """Fit multinomial logistic regression with an L2 penalty to points (m, D) with labels (m,) int64.

    The penalty is the same for all coordinates in their own unit, so that those of little variance, which are mostly
    noise, count little; it is `penalty` times the default. Deterministic: it starts at zero and takes full batches.
    Raises TrainingInterrupted when stopped between two steps.
    """
    values = torch.from_numpy(points)
    mean, deviation = values.mean(0), values.std(0, unbiased=False).clamp(min=1e-12)
    unit = (deviation**2).mean().sqrt()
    # The optimisation is better conditioned where coordinates are brought halfway to the same variance.
    scale = (deviation * unit).sqrt()
    summed = penalty * max(1.0, PENALTY * math.sqrt(len(labels)))
    strength = 0.5 * summed / len(labels) * (unit / scale[:, None]) ** 2
    inputs, targets = _inputs(points, mean, scale), torch.from_numpy(labels)
    weights = torch.zeros((inputs.shape[1], classes), requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=STEPS,
        history_size=10,
        tolerance_grad=1e-4,
        tolerance_change=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        if should_stop():
            raise TrainingInterrupted("stopped while a probe was fitted")
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs @ weights, targets) + (strength * weights[:-1] ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Probe(mean, scale, weights.detach())


def _inputs(points: Points, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the standardised points with a column of ones, (m, D + 1); nothing else as large is made."""
    inputs = torch.ones(len(points), points.shape[1] + 1)
    torch.sub(torch.from_numpy(points), mean, out=inputs[:, :-1])
    inputs[:, :-1].div_(scale)
    return inputs


def folds(labels: Labels, count: int = FOLDS, seed: int = 0, together: Labels | None = None) -> Labels:
    """Return the fold (m,) of each point: each class is dealt out evenly, in random order.

    Points of one number in `together` (m,) get one fold, so classes are dealt as evenly as these groups allow.
    """
    if together is not None:
        return _grouped_folds(labels, together, count, seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[by_class] = np.arange(len(labels)) % min(count, len(labels))
    return fold


def _grouped_folds(labels: Labels, together: Labels, count: int, seed: int) -> Labels:
    units, of_point = np.unique(together, return_inverse=True)
    counts = np.zeros((len(units), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (of_point, labels), 1)
    shuffled = np.random.default_rng(seed).permutation(len(units))
    largest_first = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]
    count = min(count, len(units))
    return deal(counts, np.repeat(counts.sum(axis=0)[None] / count, count, axis=0), largest_first.tolist())[of_point]


def out_of_fold(
    points: Points, labels: Labels, classes: int, *, seed: int = 0, together: Labels | None = None
) -> Probabilities:
    """Return for each point (m, D) the probabilities (m, C) by a probe that was trained on the other folds.

    Points of one fold are predicted together; copies must have been made one point before. Points of one number in
    `together` (m,) are in one fold.
    """
    probabilities = np.full((len(points), classes), 1 / classes, np.float32)
    rows = list(fold_rows(labels, seed=seed, together=together))

    def predict(fold: tuple[Labels, Labels]) -> Probabilities:
        held, rest = fold
        return fit_probe(points[rest], labels[rest], classes).predict(points[held])

    for (held, _), found in zip(rows, side_by_side(predict, rows), strict=True):
        probabilities[held] = found
    return probabilities


def fold_rows(labels: Labels, *, seed: int = 0, together: Labels | None = None) -> Iterator[tuple[Labels, Labels]]:
    """Yield the rows of each fold and those of all others; nothing where there are fewer than two points or groups."""
    fold = folds(labels, seed=seed, together=together) if len(labels) else labels
    numbers = np.unique(fold)
    for number in numbers if len(numbers) > 1 else ():
        yield np.flatnonzero(fold == number), np.flatnonzero(fold != number)

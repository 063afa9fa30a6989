"""Weights between those that a trial started from and those that it ended with (WiSE-FT, Wortsman et al. 2022).

Fine-tuning fits the backbone to the images at hand; on its way it forgets what the original weights knew of others. A
point of the line between both (arXiv 2109.01903, equation 1) keeps more of it: backbone = (1 - share) original + share
tuned. The head is the tuned one, as there is no original. Statistics of BatchNorm are interpolated like weights:
computed anew over clean images they lose on altered ones what the line has won. The share is chosen by validation
images as they are and altered (`hpo.evaluation.altered_part`); one below 1 is taken only if it gains more than noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from hpo.bundle.bundle import Bundle, Extras, check_out, write_bundle
from hpo.bundle.calibrate import augmented_validation, calibration_of
from hpo.bundle.manifest import Interpolation, Manifest
from hpo.bundle.own_data import reopen_same
from hpo.bundle.validation import Validation
from hpo.data import Dataset, Part, Progress
from hpo.data.dataset import Rows
from hpo.delivery.retrain import with_weights
from hpo.errors import BundleError
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.metrics import Logits, report
from hpo.models.built_model import build_model
from hpo.models.inference import Predictor

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the tuned weights that are tried."""

Z = 2.33
"""Standard errors by which a point must gain: one of five that are no better does so by chance in 5 % of all cases."""

WEIGHT = 0.5
"""Weight of altered images where the bundle's study had none."""

Tensors = Mapping[str, torch.Tensor]

Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class InterpolateOptions:
    """Options of an interpolation."""

    cache: Path
    device: str = "cpu"
    weights: Path | None = None
    """Path of the original weights file; None looks for it as `original_weights` does."""
    force: bool = False


@dataclass(frozen=True)
class Tried:
    """One point of the line, measured on validation images."""

    share: float
    clean: float
    """Accuracy on the images as they are."""
    altered: float
    gain: float
    """Gain of the weighted accuracy over the tuned weights, in shares of 1."""
    error: float
    """Standard error of the gain, from the images on which both differ; all forms of one image count together."""

    @property
    def helps(self) -> bool:
        """Whether it gains more than noise, with 95 % confidence over all points that are tried (Bonferroni)."""
        return self.gain > Z * self.error


@dataclass(frozen=True)
class Interpolated:
    """The result of an interpolation."""

    manifest: Manifest
    share: float
    """1 where no other point helps: the bundle is then as it was."""
    weight: float
    tried: tuple[Tried, ...]


def interpolate(
    bundle: Bundle,
    data: Path,
    out: Path,
    options: InterpolateOptions,
    *,
    progress: Progress | None = None,
    on_tried: Callable[[Tried], None] = lambda tried: None,
) -> Interpolated:
    """Write the best point of the line from the original weights to those of `bundle` to `out`.

    `data` are those of the bundle. Raises BundleError where there is no such line (random weights, several models), the
    validation part took part in training, the original weights are missing, or `out` may not be written; DataError for
    other data.
    """
    check_out(out, force=options.force)
    _refuse_without_line(bundle)
    plan = with_weights(bundle.manifest, options.weights, cache=options.cache)
    dataset = reopen_same(
        bundle.manifest, data, options.cache, progress, maker="the bundle", way_out="give the same data"
    )
    line = _Line(plan, safetensors.torch.load(bundle.model), dataset, options)
    weight = plan.robustness.weight if plan.robustness else WEIGHT
    tried = line.try_shares(weight, on_tried)
    chosen = best(tried)
    manifest = _write(bundle, line, chosen.share, [one.share for one in tried], out, force=options.force)
    return Interpolated(manifest, chosen.share, weight, tuple(tried))


def best(tried: Sequence[Tried]) -> Tried:
    """Return the point with the largest gain among those that help; the first, the tuned weights, if none does."""
    return max((one for one in tried if one.helps), key=lambda one: one.gain, default=tried[0])


def between(original: Tensors, tuned: Tensors, share: float) -> dict[str, torch.Tensor]:
    """Return (1 - share) original + share tuned of the floating tensors of the backbone; all others are the tuned."""
    return {
        name: torch.lerp(original[name], tensor, share)
        if name.startswith("backbone.") and tensor.is_floating_point() and share < 1
        else tensor
        for name, tensor in tuned.items()
    }


def tried_point(
    share: float, weight: float, rows: Rows, tuned: tuple[Correct, Correct], found: tuple[Correct, Correct]
) -> Tried:
    """Compare the images that a point has right with those of the tuned weights: clean (n,) and altered (m,) each.

    `rows` (m,) are the positions in the clean images of those that the altered ones show.
    """
    clean, altered = (after.astype(float) - before for before, after in zip(tuned, found, strict=True))
    gain = (1 - weight) * float(clean.mean()) + weight * float(altered.mean())
    # The draws of one image are alike, and like it, so what is independent is the sum over all forms of an image.
    shares = (1 - weight) * (clean - clean.mean()) / len(clean)
    np.add.at(shares, rows, weight * (altered - altered.mean()) / len(altered))
    return Tried(share, float(found[0].mean()), float(found[1].mean()), gain, math.sqrt(float(np.square(shares).sum())))


class _Line:
    """The line between two sets of weights of one architecture, with its validation images."""

    def __init__(self, manifest: Manifest, tuned: Tensors, dataset: Dataset, options: InterpolateOptions) -> None:
        self.manifest, self.dataset = manifest, dataset
        built = build_model(manifest.config, len(manifest.classes))
        self._network, self._tuned, self._device = built.model, tuned, options.device
        self._original = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
        altered = altered_part(dataset.val, options.cache, train=len(dataset.train))
        self._parts, self._rows = (dataset.val, altered), altered.rows

    def weights(self, share: float) -> dict[str, torch.Tensor]:
        return between(self._original, self._tuned, share)

    def logits(self, share: float) -> tuple[Logits, ...]:
        """Return (n, C) and (m, C) float32 on the validation part and on the altered one."""
        steps = self.manifest.preprocessing
        self._network.load_state_dict(self.weights(share))
        predictor = Predictor(
            self._network, mean=steps.mean, std=steps.std, device=self._device, background=steps.background
        )
        return tuple(predictor.logits(part) for part in self._parts)

    def try_shares(self, weight: float, on_tried: Callable[[Tried], None]) -> list[Tried]:
        """Measure every share, the tuned weights first."""
        tuned = self._correct(1.0)
        tried = []
        for share in SHARES:
            found = tuned if share == 1 else self._correct(share)
            tried.append(tried_point(share, weight, self._rows, tuned, found))
            on_tried(tried[-1])
        return tried

    def _correct(self, share: float) -> tuple[Correct, Correct]:
        clean, altered = (_right(logits, part) for logits, part in zip(self.logits(share), self._parts, strict=True))
        return clean, altered


def _right(logits: Logits, part: Part) -> Correct:
    return np.asarray(logits.argmax(axis=1) == part.labels)


def _refuse_without_line(bundle: Bundle) -> None:
    manifest = bundle.manifest
    reasons = {
        "it is of several trials": manifest.stage in ("ensemble", "soup"),
        "it has trained on the validation part, so no images are left to choose by": manifest.stage == "retrained",
        "its statistics are adapted to other images": manifest.adapted is not None,
        "it is interpolated already": manifest.interpolated is not None,
        "its trial started from random weights": not manifest.config.pretrained,
        "its trial did not train the backbone": manifest.config.deepest_phase().unfreeze_depth == 0,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise BundleError(f"{bundle.path} cannot be interpolated: {reason}; give the bundle of a fine-tuned trial")


def _write(bundle: Bundle, line: _Line, share: float, tried: Sequence[float], out: Path, *, force: bool) -> Manifest:
    """Write the point of the line; at share 1 the bundle as it was."""
    extras = Extras(crossed=bundle.crossed, known=bundle.known)
    if share == 1:
        write_bundle(
            out, bundle.manifest, bundle.model, bundle.metrics, validation=bundle.validation, extras=extras, force=force
        )
        return bundle.manifest
    validation = Validation(line.dataset.val.labels, line.logits(share)[0])
    changes: dict[str, Any] = {
        "interpolated": Interpolation(share=share, tried=tuple(tried)),
        "calibration": None if augmented_validation(bundle.manifest.config) else calibration_of(validation),
        "compared": (bundle.manifest.compared or 1) + len(tried) - 1,
    }
    manifest = bundle.manifest.model_copy(update=changes)
    found = report(*validation, manifest.classes)
    openings = bundle.metrics.get("test_openings", [])
    metrics = {"validation": found.to_dict(), "test": None, "test_openings": openings}
    model = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in line.weights(share).items()})
    write_bundle(out, manifest, model, metrics, validation=validation, extras=extras, force=force)
    return manifest

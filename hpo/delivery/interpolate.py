"""Weights between those that a trial started from and those that it ended with (WiSE-FT, Wortsman et al. 2022).

Fine-tuning fits the backbone to the images at hand; on its way it forgets what the original weights knew of others. A
point of the line between both (arXiv 2109.01903, equation 1) keeps more of it: backbone = (1 - share) original + share
tuned. The head is the tuned one, as there is no original. Statistics of BatchNorm are interpolated like weights:
computed anew over clean images they lose on altered ones what the line has won. The share is chosen by validation
images as they are and altered (`hpo.evaluation.altered_part`); one below 1 is taken only if it gains more than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from hpo.bundle.bundle import Bundle, Extras, check_out, write_bundle
from hpo.bundle.calibrate import augmented_validation, calibration_of, compared_with
from hpo.bundle.manifest import Interpolation, Manifest
from hpo.bundle.model import Tensors
from hpo.bundle.own_data import reopen_same
from hpo.data import Progress
from hpo.delivery.original_weights import with_weights
from hpo.delivery.validation_images import ValidationImages, predict_parts
from hpo.delivery.weight_changes import between
from hpo.errors import BundleError
from hpo.evaluation.metrics import ALTERED, Logits, report
from hpo.evaluation.paired_difference import MeasuredImages, critical
from hpo.models.built_model import build_model

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the tuned weights that are tried."""

WEIGHT = 0.5
"""Weight of altered images where the bundle's study had none."""


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
    """The study's metric on the images as they are."""
    altered: float
    """The metric on altered ones."""
    gain: float
    """Gain of the weighted metric over the tuned weights, in shares of 1."""
    error: float
    """Standard error of the gain, from the images on which both differ; all forms of one image count together."""

    @property
    def helps(self) -> bool:
        """Whether it gains more than noise, with 95 % confidence over all points that are tried (Bonferroni)."""
        return self.gain > critical(len(SHARES) - 1) * self.error


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
    weight = plan.robustness.weight if plan.robustness else WEIGHT
    images = ValidationImages.of(dataset, data, options.cache, plan, weight)
    point = _try_shares(Line(plan, images, options.device), safetensors.torch.load(bundle.model), on_tried)
    manifest = _write(bundle, images, point, out, force=options.force)
    return Interpolated(manifest, point.chosen.share, weight, tuple(point.tried))


def best(tried: Sequence[Tried]) -> Tried:
    """Return the point with the largest gain among those that help; the first, the tuned weights, if none does."""
    return max((one for one in tried if one.helps), key=lambda one: one.gain, default=tried[0])


def tried_point(share: float, images: MeasuredImages, before: Logits, after: Logits) -> Tried:
    """Compare a point with logits (n + m, C) with the tuned weights, whose logits are `before`."""
    found, figures = images.difference(before, after), images.figures(after)
    clean = figures[images.metric]
    return Tried(share, clean, figures.get(f"{ALTERED}{images.metric}", clean), found.gain, found.error)


class Line:
    """The lines from the original weights of a configuration to tuned ones, with validation images to choose by."""

    def __init__(self, manifest: Manifest, images: ValidationImages, device: str) -> None:
        """`manifest` names the file of the original weights on this machine, as `with_weights` gives it."""
        built = build_model(manifest.config, len(manifest.classes))
        self._network, self.images, self._device = built.model, images, device
        self._steps = manifest.preprocessing
        self._original = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}

    def weights(self, tuned: Tensors, share: float) -> dict[str, torch.Tensor]:
        """Return the point at `share` of the tuned weights."""
        return between(self._original, tuned, share)

    def logits(self, tuned: Tensors, share: float) -> Logits:
        """Return (n + m, C) float32 of the point on all images."""
        self._network.load_state_dict(self.weights(tuned, share))
        return predict_parts(self._network, self._steps, self._device, self.images.parts)


@dataclass(frozen=True)
class _Point:
    """The chosen point with its weights and logits, and what it was chosen among."""

    tried: list[Tried]
    chosen: Tried
    weights: Tensors
    logits: Logits


def _try_shares(line: Line, tuned: Tensors, on_tried: Callable[[Tried], None]) -> _Point:
    """Measure every share, the tuned weights first, and choose one."""
    logits: dict[float, Logits] = {}
    tried = []
    for share in SHARES:
        logits[share] = line.logits(tuned, share)
        tried.append(tried_point(share, line.images.measured, logits[1.0], logits[share]))
        on_tried(tried[-1])
    chosen = best(tried)
    return _Point(tried, chosen, line.weights(tuned, chosen.share), logits[chosen.share])


def _refuse_without_line(bundle: Bundle) -> None:
    manifest = bundle.manifest
    reasons = {
        "it is of several trials": manifest.stage in ("ensemble", "soup"),
        "it has trained on the validation part, so no images are left to choose by": manifest.stage == "retrained",
        "its statistics are adapted to other images": manifest.adapted is not None,
        "it is interpolated already": manifest.interpolated is not None,
        "its weights were changed after its trial (`hpo export-best --finish`)": manifest.finished is not None,
        "its trial started from random weights": not manifest.config.pretrained,
        "its trial did not train the backbone": manifest.config.deepest_phase().unfreeze_depth == 0,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise BundleError(f"{bundle.path} cannot be interpolated: {reason}; give the bundle of a fine-tuned trial")


def _write(bundle: Bundle, images: ValidationImages, point: _Point, out: Path, *, force: bool) -> Manifest:
    """Write the point of the line; at share 1 the bundle as it was."""
    share = point.chosen.share
    if share == 1:
        extras = Extras(crossed=bundle.crossed, known=bundle.known, altered=bundle.altered)
        write_bundle(
            out, bundle.manifest, bundle.model, bundle.metrics, validation=bundle.validation, extras=extras, force=force
        )
        return bundle.manifest
    validation = images.validation(point.logits)
    changes: dict[str, Any] = {
        "interpolated": Interpolation(share=share, tried=tuple(one.share for one in point.tried)),
        "calibration": None if augmented_validation(bundle.manifest.config) else calibration_of(validation),
        "compared": compared_with(bundle.manifest) * len(point.tried),
        "robustness": images.robustness(point.logits) if bundle.manifest.robustness else None,
    }
    manifest = bundle.manifest.model_copy(update=changes)
    metrics = {
        "validation": report(*validation, manifest.classes).to_dict(), "test": None,
        "test_openings": bundle.metrics.get("test_openings", []),
        **(images.altered_scores(point.logits) if bundle.manifest.robustness else {}),
    }  # fmt: skip
    model = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in point.weights.items()})
    extras = Extras(known=bundle.known, altered=images.altered_predictions(point.logits))
    write_bundle(out, manifest, model, metrics, validation=validation, extras=extras, force=force)
    return manifest

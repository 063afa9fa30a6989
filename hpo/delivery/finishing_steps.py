"""The steps by which a study's best model is finished, each a choice that some of the validation images make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, partial

import numpy as np
import safetensors.torch

from hpo.bundle.manifest import HeadChange, Interpolation, Manifest
from hpo.bundle.model import BATCH_SIZE, VIEWS, Tensors, Tta, View, allowed_views, mean_of_views
from hpo.data.dataset import Images, Part
from hpo.delivery.balanced_head import Head, head_changes, uneven
from hpo.delivery.ensemble import choose_members
from hpo.delivery.ensemble_candidates import trials_named
from hpo.delivery.finishing_task import ChosenMember, ChosenModel, FinishingStep, FinishingTask, VariantStep
from hpo.delivery.interpolate import SHARES, Line
from hpo.delivery.original_weights import with_weights
from hpo.delivery.selection import weights_of
from hpo.delivery.soup import SoupSearch, soupable
from hpo.delivery.validation_images import Half, network_with
from hpo.delivery.weight_changes import STATISTICS_IMAGES, with_new_statistics
from hpo.errors import BundleError
from hpo.evaluation.calibration import log_probabilities
from hpo.evaluation.metrics import Logits
from hpo.models.adapted_statistics import normalised_by_statistics
from hpo.models.baselines import is_baseline
from hpo.models.built_model import build_model
from hpo.models.inference import Predictor

SHARE_OF_SOUP = 0.5
"""Share of the time after which no further mean of weights is tried: each costs the most, and other steps follow."""

MOST_MEMBERS = 3
"""Members of an ensemble, at most: each costs a forward pass for every image, as long as the model is in use."""


class SoupStep(FinishingStep):
    """The mean of the weights of several trials, added greedily (Wortsman et al. 2022)."""

    name = "soup"

    def __init__(self, task: FinishingTask) -> None:
        super().__init__(task)
        self._chosen: dict[tuple[int, ...], ChosenModel] = {}
        self._read = lru_cache(maxsize=3)(self._weights)  # of two halves and of the whole: each costs statistics anew
        self._why = task.alone
        if task.candidates is not None:
            try:
                self._candidates = soupable(task.candidates)
            except BundleError as error:
                self._why = str(error)

    def refusal(self, before: ChosenModel) -> str:
        """Return why no weights can be averaged; "" where they can."""
        return self._why

    def choose(self, half: Half, before: ChosenModel) -> ChosenModel:
        """Return the soup that the half chooses, beginning with the best trial."""
        _, ingredients = self._search.choose(half, first=0)
        key = tuple(sorted(ingredients))
        if len(key) == 1:
            return before
        if key not in self._chosen:
            numbers = tuple(self._candidates.found[one].trial.number for one in ingredients)
            self._chosen[key] = before.changed(
                self._search.logits(ingredients), partial(self._read, ingredients),
                trials_named(numbers).removeprefix("trials "),
                stage="soup", ingredients=numbers,
            )  # fmt: skip
        return self._chosen[key]

    def _weights(self, ingredients: tuple[int, ...]) -> Tensors:
        tensors: Tensors = safetensors.torch.load(self._search.averages.weights(ingredients))
        return tensors

    @cached_property
    def _search(self) -> SoupSearch:
        task = self.task
        return SoupSearch(
            self._candidates, task.dataset, task.device,
            lambda line: task.budget.go_on(f"soup: {line}", share=SHARE_OF_SOUP),
            altered=task.images.altered, statistics_images=STATISTICS_IMAGES,
        )  # fmt: skip


class StatisticsStep(VariantStep):
    """The statistics of BatchNorm, mixed with those of training images without augmentation."""

    name = "statistics"

    def refusal(self, before: ChosenModel) -> str:
        """Return why no statistics can be estimated anew; "" where they can."""
        if "ingredients" in before.changes:
            return "those of a soup are estimated anew already"
        return "" if self._has_statistics else "there is no BatchNorm"

    @cached_property
    def _has_statistics(self) -> bool:
        manifest = self.task.manifest
        network = build_model(manifest.config, len(manifest.classes), initialise=False).model.eval()
        return bool(normalised_by_statistics(network))

    def variants(self, before: ChosenModel) -> list[ChosenModel]:
        """Return the model with new statistics."""
        task = self.task
        count = min(STATISTICS_IMAGES, len(task.dataset.train))
        task.budget.go_on(f"statistics of {count:,} training images")
        tensors = with_new_statistics(task.manifest, before.read(), task.dataset.train, task.device)
        logits = task.images.predict(task.manifest, tensors, task.device)
        finished = before.finished(statistics=count)
        return [before.changed(logits, lambda: tensors, f"{count:,} images", finished=finished)]


class LineStep(VariantStep):
    """A point between the original weights of the backbone and the tuned ones (WiSE-FT)."""

    name = "WiSE-FT"

    def refusal(self, before: ChosenModel) -> str:
        """Return why there is no such line; "" where there is."""
        manifest, candidates = self.task.manifest, self.task.candidates
        config = manifest.config
        if not config.pretrained:
            return "the trial started from random weights"
        if candidates is not None and "ingredients" in before.changes:
            joined = [one for one in candidates.found if one.trial.number in before.changes["ingredients"]]
            if any(one.manifest.weights != manifest.weights for one in joined):
                return "the trials of the soup started from different weights"
        if config.deepest_phase().unfreeze_depth == 0:
            return "the trial did not train the backbone"
        return self._plan if isinstance(self._plan, str) else ""

    @cached_property
    def _plan(self) -> Manifest | str:
        """The manifest with the path of the original weights on this machine; or why they are not found."""
        try:
            return with_weights(self.task.manifest, None, cache=self.task.cache)
        except BundleError as error:
            return str(error)

    def variants(self, before: ChosenModel) -> list[ChosenModel]:
        """Return the points of the line."""
        return [self._point(before, share) for share in SHARES[1:]]

    def _point(self, before: ChosenModel, share: float) -> ChosenModel:
        self.task.budget.go_on(f"WiSE-FT: {share:g} of the tuned weights")
        logits = self._line.logits(before.read(), share)
        found = Interpolation(share=share, tried=SHARES)
        read = partial(self._weights, before, share)
        return before.changed(logits, read, f"{share:g} tuned", interpolated=found)

    def _weights(self, before: ChosenModel, share: float) -> Tensors:
        return self._line.weights(before.read(), share)

    @cached_property
    def _line(self) -> Line:
        assert not isinstance(self._plan, str)
        return Line(self._plan, self.task.images, self.task.device)


class HeadStep(VariantStep):
    """The last layer, trained again or shifted, for classes that are uneven, a mean over classes, or altered images."""

    name = "head"

    def refusal(self, before: ChosenModel) -> str:
        """Return why the last layer stays; "" where it may change."""
        task = self.task
        counts = np.bincount(task.dataset.train.labels, minlength=len(task.manifest.classes))
        if is_baseline(task.manifest.config.backbone):
            return "a baseline has none"
        if task.images.metric == "accuracy" and not task.images.weight and not uneven(counts):
            return "all classes have about as many images, and the metric is the accuracy"
        return ""

    def variants(self, before: ChosenModel) -> list[ChosenModel]:
        """Return the model with each of the layers that are tried."""
        task = self.task
        task.budget.go_on("head: features of the training images")
        head = Head(task.manifest, before.read(), task.device)
        images = head.images(task.dataset.train, task.cache, task.images.weight, len(task.manifest.classes))
        features = head.features(task.images.parts)
        found = []
        for change in head_changes(task.images.metric, images):
            task.budget.go_on(f"head: {words_of(change)}")
            layer = head.changed(change, images)
            read = partial(head.with_layer, layer)
            finished = before.finished(head=change)
            found.append(before.changed(layer.logits(features), read, words_of(change), finished=finished))
        return found


class ViewsStep(VariantStep):
    """The mean over mirrored and turned views of each image."""

    name = "views"

    def refusal(self, before: ChosenModel) -> str:
        """Return why there are no views; "" where there are."""
        symmetry = self.task.manifest.config.symmetry
        return "" if self._allowed else f"labels do not survive them (symmetry {symmetry})"

    def variants(self, before: ChosenModel) -> list[ChosenModel]:
        """Return the model with each kind of views that labels survive."""
        task = self.task
        network = network_with(task.manifest, before.read())
        steps = task.manifest.preprocessing
        predictor = Predictor(
            network, mean=steps.mean, std=steps.std, device=task.device, background=steps.background
        )  # fmt: skip
        logits: dict[View, Logits] = {VIEWS["none"][0]: before.logits}
        for view in VIEWS[self._allowed[-1]]:
            if view not in logits:
                task.budget.go_on(f"views: {len(logits) + 1} of {len(VIEWS[self._allowed[-1]])}")
                logits[view] = predictor.logits(view(batch) for batch in batches_of(task.images.parts))
        return [
            before.changed(
                mean_of_views(np.stack([logits[view] for view in VIEWS[tta]])), before.read, tta,
                finished=before.finished(views=tta),
            )
            for tta in self._allowed
        ]  # fmt: skip

    @property
    def _allowed(self) -> tuple[Tta, ...]:
        return allowed_views(self.task.manifest.config.symmetry)[1:]


class EnsembleStep(FinishingStep):
    """The mean of the probabilities of the model so far and of other trials, weighted (Caruana et al. 2004)."""

    name = "ensemble"

    def refusal(self, before: ChosenModel) -> str:
        """Return why there is nothing to join; "" where there is."""
        return self.task.alone

    def choose(self, half: Half, before: ChosenModel) -> ChosenModel:
        """Return the ensemble that the half chooses; the model itself where none is better."""
        candidates = self.task.candidates
        assert candidates is not None
        self.task.budget.go_on("ensemble of stored predictions")
        logits = [before.logits, *(one.logits for one in candidates.found[1:])]
        found = choose_members(logits, candidates, half, most=MOST_MEMBERS)
        weights = weights_of(found.picks)
        if tuple(weights) == (0,):
            return before.changed(before.logits, before.read, "")
        members = tuple(ChosenMember(pick, weight, found.temperatures[pick]) for pick, weight in weights.items())
        numbers = [candidates.found[pick].trial.number for pick in weights]
        mean = log_probabilities(found.mean).astype(np.float32)
        words = trials_named(numbers).removeprefix("trials ")
        return ChosenModel(mean, before.read, words, before.changes, members)


SINGLE: tuple[type[FinishingStep], ...] = (SoupStep, StatisticsStep, LineStep, HeadStep)
"""Steps whose result costs one forward pass, in their order."""

SEVERAL: tuple[type[FinishingStep], ...] = (EnsembleStep, ViewsStep)
"""Steps whose result costs several; at most one of them is taken."""


def words_of(change: HeadChange) -> str:
    """Return the change of a last layer in a few words."""
    if change.method == "priors":
        return f"{change.strength:g} of the priors"
    return f"{'balanced, ' if change.balanced else ''}penalty {change.strength:g}"


def batches_of(parts: Sequence[Part]) -> Iterator[Images]:
    """Yield the batches (b, S, S, 3) uint8 of some parts, one after another."""
    for part in parts:
        yield from part.batches(BATCH_SIZE)

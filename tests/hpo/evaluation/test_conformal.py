"""Prediction sets hold the true class as often as they promise, whatever the model is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.evaluation.conformal import (
    METHODS,
    ScoredImages,
    SetMethod,
    SetRule,
    calibrate_sets,
    class_scores,
    highest_level,
    needed_rank,
)

CLASSES = 4

methods = st.sampled_from(METHODS)
levels = st.floats(0.5, 0.99)


def drawn(generator: np.random.Generator, n: int, sharp: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and the probabilities (n, C) of a classifier that is wrong now and then."""
    labels = generator.integers(0, CLASSES, n)
    logits = sharp * (np.eye(CLASSES)[labels] + generator.standard_normal((n, CLASSES)))
    powers = np.exp(logits)
    return labels, powers / powers.sum(axis=1, keepdims=True)


def scored(n: int, seed: int = 0) -> tuple[ScoredImages, np.ndarray]:
    labels, rows = drawn(np.random.default_rng(seed), n)
    return ScoredImages.of(labels, rows), rows


def rule_of(images: ScoredImages, method: SetMethod, level: float, **options: object) -> SetRule:
    found = calibrate_sets(images, method, level, classes=CLASSES, **options)  # type: ignore[arg-type]
    assert found is not None
    return SetRule(method, level, found.thresholds)


@given(st.integers(1, 2_000), st.floats(0.01, 0.999))
def test_the_rank_of_a_single_model_is_the_usual_one(n, level):
    rank = math.ceil((n + 1) * level - 1e-9)
    assert needed_rank(n, level) == (rank if rank <= n else None)


@given(st.integers(1, 500), st.floats(0.01, 0.999), st.integers(1, 300))
def test_the_best_of_more_models_needs_a_higher_rank(n, level, compared):
    one, many = needed_rank(n, level, compared), needed_rank(n, level, compared + 1)
    assert many is None or (one is not None and one <= many)
    assert (one is None) == (highest_level(n, compared) < level - 1e-12)


def least_images(level: float, compared: int = 1) -> int:
    """Return the fewest images that can give the `level`."""
    high = 1
    while highest_level(high, compared) < level - 1e-12:
        high *= 2
    low = high // 2
    while high - low > 1:
        n = (low + high) // 2
        low, high = (n, high) if highest_level(n, compared) < level - 1e-12 else (low, n)
    return high


@given(st.floats(0.1, 0.995), st.sampled_from([1, 2, 20, 100]))
@settings(max_examples=40)
def test_the_fewest_images_are_enough_and_one_less_is_not(level, compared):
    n = least_images(level, compared)
    assert needed_rank(n, level, compared) is not None
    assert n == 1 or needed_rank(n - 1, level, compared) is None
    assert least_images(0.95) == 19


@given(methods, st.integers(0, 50), levels, levels, st.booleans())
@settings(max_examples=60)
def test_sets_grow_with_the_level_and_are_never_empty(method, seed, one, other, by_class):
    images, _ = scored(900, seed)
    _, rows = drawn(np.random.default_rng(seed + 1_000), 50)
    low, high = sorted((one, other))
    small, large = (rule_of(images, method, level, by_class=by_class).members(rows) for level in (low, high))
    assert (small <= large).all()
    assert small[np.arange(len(rows)), rows.argmax(axis=1)].all(), "the most probable class is in every set"


@given(methods, st.integers(0, 50))
@settings(max_examples=20)
def test_the_scores_of_true_classes_are_those_of_all_classes(method, seed):
    images, rows = scored(60, seed)
    of_all = class_scores(rows, method)
    assert np.allclose(images.scores(method), of_all[np.arange(60), images.labels], atol=1e-12)
    assert (images.right == (rows.argmax(axis=1) == images.labels)).all()
    assert np.array_equal(images.top, rows.max(axis=1))
    rule = rule_of(images, method, 0.9)
    assert (rule.holds(images) == rule.members(rows)[np.arange(60), images.labels]).all()


def test_a_set_of_lac_holds_what_is_as_probable_as_all_but_a_twentieth_of_the_true_classes():
    images, rows = scored(199)
    rule = rule_of(images, "lac", 0.95)
    least = np.sort(np.where(images.right, 1, images.true))[9]  # rank ceil(200 * 0.95) = 190, from below the tenth
    expected = rows >= least - 1e-9
    expected[np.arange(199), rows.argmax(axis=1)] = True
    assert (rule.members(rows) == expected).all()


def covered(rounds: int, n: int, method: SetMethod, level: float, **options: object) -> np.ndarray:
    """Return the coverage on 500 new images for as many draws of `n` calibration images."""
    shares = []
    for seed in range(rounds):
        labels, rows = drawn(np.random.default_rng(seed), n + 500)
        rule = rule_of(ScoredImages.of(labels[:n], rows[:n]), method, level, **options)
        shares.append(rule.holds(ScoredImages.of(labels[n:], rows[n:])).mean())
    return np.array(shares)


def least_mean(level: float, n: int, rounds: int) -> float:
    """Return the mean coverage that one in a thousand simulations with the promised coverage stays below."""
    deviation = math.sqrt(level * (1 - level) * (1 / (n + 2) + 1 / 500))
    return level - 3.1 * deviation / math.sqrt(rounds)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "level"), [(30, 0.9), (120, 0.95)])
def test_sets_hold_the_true_class_on_new_images(method, n, level):
    shares = covered(80, n, method, level)
    assert shares.mean() >= least_mean(level, n, 80)
    if method == "lac":
        assert shares.mean() <= level + 1 / (n + 1) + 4 * (level - least_mean(level, n, 80)) / 3.1, "and not much more"


def test_sets_of_the_best_of_many_models_hold_the_true_class_on_new_images():
    """Chosen by its threshold on the calibration images, as unfavourable as can be, a model falls short uncorrected."""
    n, level, models, rounds = 100, 0.9, 10, 50
    aware, unaware = [], []
    for seed in range(rounds):
        generator = np.random.default_rng(seed)
        found = [drawn(generator, n + 300, sharp=1.0) for _ in range(models)]
        calibration = [ScoredImages.of(labels[:n], rows[:n]) for labels, rows in found]
        new = [ScoredImages.of(labels[n:], rows[n:]) for labels, rows in found]
        for compared, shares in ((models, aware), (1, unaware)):
            rules = [rule_of(images, "lac", level, compared=compared) for images in calibration]
            best = min(range(models), key=lambda k, rules=rules: rules[k].thresholds[0])
            shares.append(rules[best].holds(new[best]).mean())
    assert np.mean(aware) >= level
    assert np.mean(unaware) < level - 0.01


def test_rows_that_show_one_image_count_as_one():
    """Five alike rows of each image give the rank of as many images, not of five times as many."""
    labels, rows = drawn(np.random.default_rng(0), 60)
    once = ScoredImages.of(labels, rows)
    five = ScoredImages.of(np.tile(labels, 5), np.tile(rows, (5, 1)), originals=np.tile(np.arange(60), 5))
    assert np.array_equal(rule_of(once, "lac", 0.9).thresholds, rule_of(five, "lac", 0.9).thresholds)
    found = calibrate_sets(five, "lac", 0.9, classes=CLASSES)
    assert found is not None
    assert found.originals == 60
    assert calibrate_sets(five.subset(five.originals < 8), "lac", 0.9, classes=CLASSES) is None


def test_sets_hold_the_true_class_where_images_are_there_under_several_corruptions():
    """The rows of an image share a part of their noise, and a new image comes under one corruption at random."""
    level, n, kinds, shares = 0.9, 40, 4, []
    for seed in range(80):
        generator = np.random.default_rng(seed)
        labels = np.tile(generator.integers(0, CLASSES, n + 300), kinds)
        shared = np.tile(generator.standard_normal((n + 300, CLASSES)), (kinds, 1))
        strength = np.repeat(np.linspace(0.5, 2, kinds), n + 300)[:, None]
        powers = np.exp(2 * np.eye(CLASSES)[labels] + strength * (shared + generator.standard_normal(shared.shape)))
        originals = np.tile(np.arange(n + 300), kinds)
        images = ScoredImages.of(labels, powers / powers.sum(axis=1, keepdims=True), originals=originals)
        rule = rule_of(images.subset(originals < n), "lac", level)
        shares.append(rule.holds(images.subset(originals >= n)).mean())
    assert np.mean(shares) >= least_mean(level, n, 80)


def test_by_class_the_level_holds_for_the_hard_class_too():
    generator = np.random.default_rng(0)
    shares: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(40):
        labels = generator.choice(CLASSES, 1_200, p=[0.4, 0.3, 0.2, 0.1])
        sharp = np.array([4.0, 4.0, 4.0, 0.5])[labels]  # the rare class is hardly recognised
        powers = np.exp(sharp[:, None] * np.eye(CLASSES)[labels] + generator.standard_normal((1_200, CLASSES)))
        images = ScoredImages.of(labels, powers / powers.sum(axis=1, keepdims=True))
        seen = np.arange(1_200) < 600
        for by_class, found in shares.items():
            rule = rule_of(images.subset(seen), "lac", 0.9, by_class=by_class)
            found.append(rule.holds(images.subset(~seen & (labels == 3))).mean())
    assert np.mean(shares[True]) >= 0.89
    assert np.mean(shares[False]) < 0.7, "which together with the others it does not"


def test_a_class_without_enough_images_makes_no_sets_by_class():
    images, _ = scored(60)
    few = images.subset((images.labels != 2) | (np.arange(60) < 5))
    assert calibrate_sets(few, "lac", 0.9, classes=CLASSES, by_class=True) is None
    assert calibrate_sets(few, "lac", 0.9, classes=CLASSES) is not None


def test_sets_of_lac_are_those_of_mapie():
    """But for the most probable class, which ours always hold. Its APS is the randomised one, so it has other sets."""
    classification = pytest.importorskip("mapie.classification")
    base = pytest.importorskip("sklearn.base")

    class Given(base.ClassifierMixin, base.BaseEstimator):  # type: ignore[misc]
        """Takes its probabilities as its features."""

        def __init__(self) -> None:
            self.classes_ = np.arange(CLASSES)

        def fit(self, rows, labels):
            return self

        def predict_proba(self, rows):
            return rows

        def predict(self, rows):
            return rows.argmax(axis=1)

        def __sklearn_is_fitted__(self):
            return True

    labels, rows = drawn(np.random.default_rng(3), 400)
    found = classification.SplitConformalClassifier(Given(), confidence_level=0.9, conformity_score="lac", prefit=True)
    found.conformalize(rows[:200], labels[:200])
    _, theirs = found.predict_set(rows[200:])
    ours = rule_of(ScoredImages.of(labels[:200], rows[:200]), "lac", 0.9).members(rows[200:])
    top = np.eye(CLASSES, dtype=bool)[rows[200:].argmax(axis=1)]
    assert ((theirs[:, :, 0] | top) == ours).all()

"""What a model predicted for each image: stored in few bytes, and the standard errors that follow from it."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.evaluation.metrics import scores
from hpo.evaluation.outcomes import MOST_IMAGES, Outcomes

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")


def logits_of(predicted: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def drawn(
    seed: int, count: int = 400, classes: int = 5, right: float = 0.8, altered: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, logits, rows and logits of altered images, twice each; an image is hard or easy in all of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    hard = rng.normal(0, 1, count)

    def predict(rows: np.ndarray, quantile: float) -> np.ndarray:
        wrong = hard[rows] + 0.5 * rng.normal(0, 1, len(rows)) > np.quantile(hard, quantile)
        return np.where(wrong, (labels[rows] + rng.integers(1, classes, len(rows))) % classes, labels[rows])

    rows = np.tile(np.sort(rng.choice(count, altered, replace=False)), 2)
    clean = predict(np.arange(count), right)
    return labels, logits_of(clean, classes), rows, logits_of(predict(rows, right - 0.2), classes)


def outcomes(seed: int = 0, **more: object) -> Outcomes:
    labels, logits, rows, altered = drawn(seed, **more)  # type: ignore[arg-type]
    return Outcomes.of(labels, logits, altered, rows) if len(rows) else Outcomes.of(labels, logits)


@pytest.mark.parametrize("metric", METRICS)
def test_the_value_is_that_of_the_scores_with_and_without_altered_images(metric: str) -> None:
    labels, logits, rows, altered = drawn(3, altered=100)
    found = Outcomes.of(labels, logits, altered, rows)
    clean, other = scores(labels, logits)[metric], scores(labels[rows], altered)[metric]
    assert found.value(metric) == pytest.approx(clean)
    assert found.value(metric, 0.3) == pytest.approx(0.7 * clean + 0.3 * other)
    assert found.influences(metric, 0.3).sum() == pytest.approx(0, abs=1e-12)


def test_the_standard_error_of_an_accuracy_is_the_binomial_one() -> None:
    found = outcomes(right=0.9)
    share = found.value("accuracy")
    assert found.standard_error("accuracy") == pytest.approx((share * (1 - share) / len(found)) ** 0.5)


@pytest.mark.parametrize("robustness", [0.0, 0.5])
@pytest.mark.parametrize("metric", METRICS)
def test_standard_errors_are_those_of_a_bootstrap_over_images(metric: str, robustness: float) -> None:
    labels, logits, rows, altered = drawn(1, count=300, altered=120)
    found = Outcomes.of(labels, logits, altered, rows)
    rng, values = np.random.default_rng(0), []
    of_image = [np.flatnonzero(rows == row) for row in range(len(labels))]
    for _ in range(400):
        picked = rng.integers(0, len(labels), len(labels))
        clean = scores(labels[picked], logits[picked])[metric]
        copies = np.concatenate([of_image[row] for row in picked])
        values.append((1 - robustness) * clean + robustness * scores(labels[rows[copies]], altered[copies])[metric])
    assert found.standard_error(metric, robustness) == pytest.approx(float(np.std(values)), rel=0.15)


def test_copies_of_an_image_count_as_one() -> None:
    labels, logits, _, _ = drawn(2)
    rows = np.tile(np.arange(len(labels)), 2)
    found = Outcomes.of(labels, logits, np.tile(logits, (2, 1)), rows)
    for weight in (0.5, 1.0):
        assert found.standard_error("accuracy", weight) == pytest.approx(found.standard_error("accuracy"))


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_without_a_mistake_is_not_certain(metric: str) -> None:
    labels = np.repeat([0, 1], 50)
    found = Outcomes.of(labels, logits_of(labels, 2))
    wanted = 1 / 100 if metric == "accuracy" else (2 / 50**2) ** 0.5 / 2
    assert found.standard_error(metric) == pytest.approx(wanted)
    altered = Outcomes.of(labels, logits_of(labels, 2), logits_of(labels, 2), np.arange(100))
    assert 0 < altered.standard_error(metric, 0.5) < wanted


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 60), classes=st.sampled_from([1, 2, 9, 254, 255, 300]),
    altered=st.integers(0, 40),
)  # fmt: skip
def test_outcomes_come_back_as_they_were(seed: int, count: int, classes: int, altered: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, (2, count))
    rows = rng.integers(0, count, altered)
    other = rng.integers(0, classes, altered)
    found = Outcomes.of(labels, logits_of(predicted, classes), logits_of(other, classes), rows)
    again = Outcomes.decode(found.encode())
    assert again.classes == classes
    assert again.same_images(found)
    assert np.array_equal(again.predicted, found.predicted)
    assert np.array_equal(again.altered_predicted, found.altered_predicted)


def test_the_outcomes_of_two_thousand_images_take_some_hundred_bytes() -> None:
    assert len(outcomes(count=2_000, classes=8, right=0.98).encode()) < 700
    assert len(outcomes(count=2_000, classes=8, right=0.98, altered=300).encode()) < 1_500


def test_of_very_many_images_a_fixed_sample_is_kept() -> None:
    many = outcomes(count=MOST_IMAGES + 500, altered=1_000)
    kept = many.sampled()
    assert len(kept) == MOST_IMAGES
    assert kept.same_images(many.sampled())
    assert kept.value("accuracy", 0.5) == pytest.approx(many.value("accuracy", 0.5), abs=0.01)
    assert outcomes().sampled().same_images(outcomes())
    assert Outcomes.decode(kept.encode()).same_images(kept)


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


@pytest.mark.parametrize(
    "text",
    [
        "", "not base64!", "AAAA", packed(b""), packed(b"\x01" * 11), packed(bytes(12)),
        packed(np.array([1, 2, 0, 5, 5], "<u4").tobytes()), packed(np.array([9, 2, 0, 0, 0], "<u4").tobytes()),
        packed(np.array([1, 2, 0, 1, 0], "<u4").tobytes() + b"\x07\x00"),
        packed(np.array([1, 2, 3, 1, 0], "<u4").tobytes() + b"\x00\x01" + b"\x00" * 3),
        packed(bytes(50_000_000)), outcomes().encode()[:-20], "A" * 2_000_000,
    ],
)  # fmt: skip
def test_other_text_is_refused_and_never_large_in_memory(text: str) -> None:
    with pytest.raises(ValueError, match="outcomes"):
        Outcomes.decode(text)

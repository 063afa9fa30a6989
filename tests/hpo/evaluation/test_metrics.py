"""Scores equal scikit-learn's, the interval equals published values, and the report gives its counts."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hpo.evaluation.metrics import combined, report, scores, wilson


def drawn(n: int, classes: int, seed: int, *, present: int | None = None):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, present or classes, n).astype(np.int64)
    logits = generator.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1.0
    return labels, logits


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 200), classes=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
@pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label:UserWarning")
def test_scores_equal_scikit_learn(n, classes, seed):
    labels, logits = drawn(n, classes, seed, present=max(1, classes - 1))
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert scores(labels, logits) == pytest.approx(
        {
            "accuracy": reference.accuracy_score(labels, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "macro_f1": reference.f1_score(labels, predicted, average="macro", zero_division=0),
            "loss": reference.log_loss(labels, probabilities, labels=range(classes)),
        }
    )


def test_the_report_equals_scikit_learn_per_class():
    labels, logits = drawn(300, 4, seed=3)
    names = ["a", "b", "c", "d"]
    found = report(labels, logits, names)
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, logits.argmax(axis=1))
    for i, name in enumerate(names):
        score = found.classes[name]
        assert (score.precision, score.recall, score.f1) == pytest.approx((precision[i], recall[i], f1[i]))
        assert score.support == support[i]
    assert found.confusion == tuple(map(tuple, reference.confusion_matrix(labels, logits.argmax(axis=1)).tolist()))


def test_report_and_scores_agree():
    labels, logits = drawn(50, 3, seed=1)
    found = report(labels, logits, ["a", "b", "c"]).to_dict()
    assert {key: found[key] for key in ("accuracy", "balanced_accuracy", "macro_f1", "loss")} == scores(labels, logits)


def test_rows_are_true_and_columns_predicted():
    labels = np.array([0, 0, 0, 1], dtype=np.int64)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    found = report(labels, logits, ["x", "y", "z"])
    assert found.confusion == ((1, 2, 0), (0, 0, 1), (0, 0, 0))
    assert [(pair.true, pair.predicted, pair.count) for pair in found.worst_pairs] == [
        ("x", "y", 2),
        ("y", "z", 1),
    ]
    assert found.worst_pairs[0].share == pytest.approx(2 / 3)


def test_a_class_that_never_occurs_scores_zero_and_does_not_lower_the_means():
    labels = np.array([0, 1], dtype=np.int64)
    found = report(labels, np.eye(3, dtype=np.float32)[[0, 1]], ["x", "y", "never"])
    assert found.macro_f1 == found.balanced_accuracy == 1.0
    assert (found.classes["never"].support, found.classes["never"].f1) == (0, 0.0)


def test_the_report_is_json():
    labels, logits = drawn(30, 3, seed=0)
    found = report(labels, logits, ["a", "b", "c"]).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["labels"] == ["a", "b", "c"]
    assert set(found["classes"]["a"]) == {"precision", "recall", "f1", "support"}


def test_large_logits_do_not_overflow():
    labels = np.array([0, 1], dtype=np.int64)
    assert scores(labels, np.array([[1e4, 0], [1e4, 0]], dtype=np.float32))["loss"] == pytest.approx(5000)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_wilson_contains_the_proportion_and_is_symmetric(n, share, confidence):
    correct = round(share * n)
    low, high = wilson(correct, n, confidence)
    assert 0 <= low <= correct / n <= high <= 1
    assert wilson(n - correct, n, confidence) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_an_invalid_proportion(correct, n):
    with pytest.raises(ValueError, match="0 <= correct <= n"):
        wilson(correct, n)


def test_mismatched_shapes_are_refused():
    labels, logits = drawn(5, 3, seed=0)
    with pytest.raises(ValueError, match="columns"):
        report(labels, logits, ["a", "b"])
    with pytest.raises(ValueError, match="as many"):
        scores(labels[:4], logits)
    with pytest.raises(ValueError, match="above 0"):
        scores(labels[:0], logits[:0])


def test_importing_needs_only_numpy():
    heavy = (
        "import sys, hpo.evaluation.metrics;print(sorted({'torch', 'sklearn', 'scipy', 'optuna'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_combined_value_weighs_clean_and_altered_images():
    metrics = {"accuracy": 0.9, "altered_accuracy": 0.5, "macro_f1": 0.8, "altered_macro_f1": 0.1}
    assert combined(metrics, "accuracy", 0.25) == pytest.approx(0.8)
    assert combined(metrics, "macro_f1", 1.0) == 0.1
    assert combined({"accuracy": 0.9}, "accuracy", 0.0) == 0.9, "without an altered part"

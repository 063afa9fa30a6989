"""The printed report of an evaluation."""

import io
import re

import numpy as np
from rich.console import Console

from hpo.evaluation.calibration import probabilities, reliability
from hpo.evaluation.metrics import report
from hpo.evaluation.metrics_table import accuracy_line, print_reliability, print_report


def printed(classes: list[str], width: int = 100) -> str:
    labels = np.arange(len(classes), dtype=np.int64).repeat(2)
    logits = np.eye(len(classes), dtype=np.float32)[labels]
    logits[0] = logits[-1]  # the first image is classified as the last class
    stream = io.StringIO()
    found = report(labels, logits, classes)
    print_report(Console(file=stream, width=width), found, "final/ on the test part")
    return stream.getvalue()


def test_every_class_with_scores_and_the_worst_pair_are_shown():
    text = printed(["basophil", "eosinophil", "[red]platelet[/red]"])
    assert "final/ on the test part" in text
    assert "0.8333 (95 % interval 0.4365 to 0.9699, n 6)" in text
    assert "1 of basophil taken for [red]platelet[/red] (50.0%)" in text
    assert re.search(r"1 basophil +1 +· +1", text)


def test_many_classes_show_no_matrix_but_the_worst_pairs():
    text = printed([f"class{i}" for i in range(40)])
    assert "predicted" not in text
    assert "1 of class0 taken for class39" in text


def test_the_matrix_of_eight_long_names_fits_eighty_columns():
    text = printed([f"quite_a_long_class_name_{i}" for i in range(8)], width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_accuracy_comes_with_interval_and_n():
    assert accuracy_line(0.98, (0.97, 0.99), 1710) == "0.9800 (95 % interval 0.9700 to 0.9900, n 1,710)"


def test_calibration_is_shown_at_both_temperatures():
    labels = np.array([0, 1, 1, 0])
    logits = np.array([[4.0, 0], [4, 0], [0, 4], [3, 0]])
    before, after = (reliability(labels, probabilities(logits, temperature)) for temperature in (1, 2.5))
    stream = io.StringIO()
    print_reliability(Console(file=stream, width=80), before, after, 2.5)
    print_reliability(Console(file=stream, width=80), before)
    text = stream.getvalue()
    assert text.count("temperature 2.5") == 1
    assert re.search(rf"NLL +{before.nll:.4f} +{after.nll:.4f}", text)
    assert re.search(rf"Brier +{before.brier:.4f} *\n", text)


def test_a_temperature_of_1_has_one_column():
    labels, logits = np.array([0, 1]), np.array([[4.0, 0], [0, 4]])
    found = reliability(labels, probabilities(logits))
    stream = io.StringIO()
    print_reliability(Console(file=stream, width=80), found, found, 1.0)
    assert stream.getvalue().count("temperature 1") == 1

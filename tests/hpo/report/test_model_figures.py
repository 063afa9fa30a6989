"""Figures of models of every size."""

from dataclasses import replace

import numpy as np
import pytest

from hpo.evaluation.calibration import Bin, probabilities, reliability
from hpo.evaluation.corrupted_copy import Condition
from hpo.evaluation.metrics import confusion_matrix
from hpo.report import model_figures as figures

from .conftest import make_validation


def matrix(classes, n):
    return confusion_matrix(*make_validation(classes, n)).tolist()


def test_a_small_matrix_has_names_and_counts():
    svg = figures.confusion([[118, 2], [1, 0]], ["round", "<i>long</i>"])
    for text in ("round", "118", "&lt;i&gt;long&lt;/i&gt;", "true", "predicted"):
        assert f">{text}</text>" in svg


def test_a_hundred_classes_are_one_image():
    svg = figures.confusion(matrix(100, 5_000), [f"class {i}" for i in range(100)])
    assert "data:image/png;base64," in svg
    assert "class 3" not in svg
    assert len(svg) < 200_000


def test_a_class_without_images_is_drawn():
    assert ">0</text>" not in figures.confusion([[3, 0], [0, 0]], ["a", "b"])


@pytest.mark.parametrize("n", [1, 3, 2_000])
def test_calibration_of_any_number_of_images(n):
    found = make_validation(4, n)
    before = reliability(found.labels, probabilities(found.logits))
    svg = figures.calibration(before, before if n > 5 else None)
    assert (">with temperature</text>" in svg) == (n > 5)
    for text in ("as trained", "confidence", "accuracy"):
        assert f">{text}</text>" in svg
    assert ">images</text>" in svg or ">images, logarithmic</text>" in svg


@pytest.mark.parametrize(("counts", "logarithmic"), [((4, 9, 60), False), ((1, 9, 800), True)])
def test_an_axis_of_counts_is_logarithmic_where_they_differ_much_and_says_so(counts, logarithmic):
    bins = tuple(Bin(i / 4, (i + 1) / 4, n, (i + 0.5) / 4, 0.5) for i, n in enumerate(counts))
    found = replace(reliability(*flat()), bins=bins)
    assert (">images, logarithmic</text>" in figures.calibration(found, None)) == logarithmic


def flat():
    """Return labels and probabilities of eight images in two classes."""
    return np.arange(8) % 2, np.full((8, 2), 0.5)


def test_robustness_has_a_panel_for_each_corruption():
    points = [Condition("noise", s, 20, 20 - 2 * s) for s in range(1, 6)]
    svg = figures.robustness({"noise": points, "blur": points[:1], "hue": points}, 0.97)
    for name in ("noise", "blur", "hue", "severity"):
        assert f">{name}</text>" in svg
    assert ">0.50</text>" in svg, "the worst severity is written out"


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_a_learning_curve_of_any_length(epochs):
    curve = np.linspace(0.1, 0.9, epochs).tolist()
    assert f">kept: epoch {epochs}</text>" in figures.trial_curve(curve, epochs, "accuracy")

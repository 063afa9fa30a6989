"""A bundle whose config.json or metrics.json is wrong in any place is refused in one line."""

import copy
import json

import numpy as np
import pytest

import hpo
from hpo.bundle.bundle import CLASSES, CONFIG, MODEL, read_bundle, write_bundle
from hpo.bundle.calibrate import calibration_of
from hpo.bundle.model import pack_members
from hpo.bundle.stored_metrics import METRICS
from hpo.bundle.validation import Validation
from hpo.errors import BundleError
from hpo.evaluation.calibration import probabilities, reliability
from hpo.evaluation.metrics import report
from hpo.report.model_data import ModelData

from .conftest import CLASSES as NAMES

GONE = object()
WRONG = (None, "x", -1, float("nan"), [], {}, [1], True)
OPENING = {"date": "2026-01-01T00:00:00", "command": "evaluate", "data": "x", "n": 3, "accuracy": None}


@pytest.fixture
def whole(tmp_path, manifest, weights):
    """Return a retrained bundle with all that a bundle may know."""
    rows = 3 * np.random.default_rng(0).standard_normal((120, 3))
    validation = Validation(np.arange(120) % 3, rows.astype(np.float32))
    before = reliability(validation.labels, probabilities(validation.logits))
    measured = report(*validation, NAMES).to_dict()
    scaled = {"temperature": 1.0, "before": before.to_dict(), "after": before.to_dict()}
    metrics = {"validation": measured, "test": {**measured, "calibration": scaled}, "test_openings": [OPENING]}
    changes = {"stage": "retrained", "calibration": calibration_of(validation), "compared": 3, "curve": (0.5, 0.6)}
    write_bundle(tmp_path / "whole", manifest.model_copy(update=changes), weights, metrics, validation=validation)
    return tmp_path / "whole"


def places(values, at=()):
    """Yield the path of every value in some JSON, for a list only that of the first."""
    yield at
    inner = values.items() if isinstance(values, dict) else enumerate(values[:1]) if isinstance(values, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def changed(values, at, value):
    if not at:
        return {} if value is GONE else value
    result = copy.deepcopy(values)
    place = result
    for key in at[:-1]:
        place = place[key]
    if value is GONE:
        del place[at[-1]]
    else:
        place[at[-1]] = value
    return result


@pytest.mark.parametrize("file", [CONFIG, METRICS])
def test_every_wrong_value_is_one_line(whole, file):
    good = json.loads((whole / file).read_text())
    refusals = []
    for number, at in enumerate(places(good)):
        for value in (GONE, WRONG[number % len(WRONG)]):
            (whole / file).write_text(json.dumps(changed(good, at, value)))
            refusals.append(refusal(whole))
    assert len([line for line in refusals if line]) > 60
    assert not [line for line in refusals if line and ("\n" in line or len(line) > 400)]


def refusal(path):
    """Return why the reader or the report refuses the bundle; None where they accept it."""
    try:
        facts = ModelData(read_bundle(path))
        for name in ("figures", "validation", "calibration", "openings"):
            getattr(facts, name)
    except BundleError as error:
        return str(error)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (CONFIG, b"{", "not valid JSON"),
        (CONFIG, b"\xff\xfe", "not valid JSON"),
        (CONFIG, b"[" * 100_000, "not valid JSON"),
        (CONFIG, b"[]", "must hold a JSON object"),
        (CONFIG, b"{}", "not a bundle"),
        (CONFIG, b'{"bundle_format": true}', "must be a number"),
        (CONFIG, b'{"bundle_format": 0}', "must be a number"),
        (CONFIG, b'{"bundle_format": 99}', r"99 is newer than this hpo reads \(\d+\); upgrade hpo"),
        (METRICS, b"", "not valid JSON"),
        (METRICS, b'{"test_openings": 3}', "test_openings"),
        (CLASSES, b"{}", "checksum"),
        (MODEL, b"", "checksum"),
    ],
)
def test_a_file_with_other_content_is_one_line(whole, file, content, expected):
    (whole / file).write_bytes(content)
    with pytest.raises(BundleError, match=expected) as caught:
        read_bundle(whole)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, manifest, weights, value):
    import safetensors.torch

    tensors = safetensors.torch.load(weights)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    broken = safetensors.torch.save(tensors)
    write_bundle(tmp_path / "broken", manifest, broken, {})
    with pytest.raises(BundleError, match=rf"{name} holds NaN or infinite values; export another trial"):
        hpo.load(tmp_path / "broken", device="cpu")
    assert pack_members([weights, broken])


@pytest.mark.parametrize(
    "validation",
    [
        Validation(np.array([0, 3]), np.zeros((2, 3), np.float32)),
        Validation(np.array([0, -1]), np.zeros((2, 3), np.float32)),
        Validation(np.array([0, 1]), np.zeros((2, 4), np.float32)),
        Validation(np.array([0, 1]), np.full((2, 3), np.nan, np.float32)),
    ],
)
def test_predictions_of_other_classes_are_refused(tmp_path, manifest, weights, validation):
    write_bundle(tmp_path / "other", manifest, weights, {}, validation=validation)
    with pytest.raises(BundleError, match="no finite predictions of 3 classes"):
        read_bundle(tmp_path / "other")

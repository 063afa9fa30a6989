"""Bundles in S3: the commands take URLs where they take folders."""

import json
from contextlib import suppress
from pathlib import Path

import boto3
import numpy as np
import pytest
from click.testing import CliRunner

from hpo.bundle.bundle import CLASSES, CONFIG, MODEL, VALIDATION, read_bundle, write_bundle
from hpo.bundle.model_card import README
from hpo.bundle.remote import local_bundle, upload_bundle
from hpo.bundle.stored_metrics import METRICS, new_opening, record_opening, record_result
from hpo.bundle.validation import Validation
from hpo.cli import main
from hpo.errors import BundleError
from storage import open_objects

from .conftest import write_format_1


@pytest.fixture
def url(s3_root):
    return f"{s3_root}/best"


@pytest.fixture
def uploaded(url, bundle, tmp_path):
    """Return the bundle, in S3."""
    with upload_bundle(url, tmp_path / "cache", force=False) as folder:
        bundle.rename(folder)
    return url


@pytest.fixture
def run(tmp_path):
    def call(*words):
        return CliRunner().invoke(
            main, [*map(str, words), "--threads", "1", "--device", "cpu", "--home", str(tmp_path / "home")]
        )

    return call


def test_an_uploaded_bundle_is_downloaded_unchanged(uploaded, tmp_path, manifest, weights):
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        found = read_bundle(folder)
        assert (found.manifest, found.model) == (manifest, weights)
    assert {one.key for one in open_objects(uploaded).list()} == {MODEL, CONFIG, METRICS, CLASSES, README}


def test_validation_predictions_travel_and_go_with_the_bundle_that_had_them(url, manifest, weights, tmp_path):
    labels, logits = np.zeros(4, np.int64), np.ones((4, 3), np.float32)
    with upload_bundle(url, tmp_path / "cache", force=False) as folder:
        write_bundle(folder, manifest, weights, {}, validation=Validation(labels, logits))
    with local_bundle(url, tmp_path / "cache") as folder:
        found = read_bundle(folder).validation
        assert found is not None
        assert np.array_equal(found.logits, logits)
    with upload_bundle(url, tmp_path / "cache", force=True) as folder:
        write_bundle(folder, manifest, weights, {})
    assert VALIDATION not in {one.key for one in open_objects(url).list()}


def test_the_card_in_s3_is_written_anew_unless_it_is_another_s(run, uploaded, images):
    objects = open_objects(uploaded)
    before = objects.get(README)
    assert run("evaluate", uploaded, "--data", images).exit_code == 0
    assert b"a test part was opened once" in objects.get(README)
    assert b"a test part was opened once" not in before
    objects.put(README, b"mine")
    assert run("evaluate", uploaded, "--data", images).exit_code == 0
    assert objects.get(README) == b"mine"


def test_a_bundle_of_format_1_is_read_from_s3(url, manifest, weights, tmp_path):
    write_format_1(tmp_path / "old", manifest, weights)
    with upload_bundle(url, tmp_path / "cache", force=False) as folder:
        (tmp_path / "old").rename(folder)
    with local_bundle(url, tmp_path / "cache") as folder:
        assert read_bundle(folder).manifest == manifest


def test_a_folder_is_taken_as_it_is(bundle, tmp_path):
    with (
        local_bundle(bundle, tmp_path / "cache") as folder,
        upload_bundle(tmp_path / "out", tmp_path, force=False) as out,
    ):
        assert (folder, out) == (bundle, tmp_path / "out")
    assert not (tmp_path / "cache").exists()


def test_weights_are_downloaded_once_and_again_where_the_cache_is_damaged(uploaded, tmp_path):
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        first = (folder / MODEL).stat().st_mtime_ns
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        assert (folder / MODEL).stat().st_mtime_ns == first
        (folder / MODEL).write_bytes(b"damaged")
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        assert read_bundle(folder).model


def test_a_bundle_that_is_there_is_replaced_only_with_force(uploaded, bundle_again, tmp_path):
    with pytest.raises(BundleError, match="is a bundle already; give --force"), upload_bundle(
        uploaded, tmp_path, force=False
    ):  # fmt: skip
        pass
    with upload_bundle(uploaded, tmp_path, force=True) as folder:
        bundle_again.rename(folder)
    open_objects(uploaded).put("notes.txt", b"mine")
    with pytest.raises(BundleError, match="holds other things than a bundle"), upload_bundle(
        uploaded, tmp_path, force=True
    ):  # fmt: skip
        pass


def test_a_bundle_that_replaces_another_keeps_its_openings(uploaded, bundle_again, tmp_path):
    opening = new_opening("evaluate", "ours", 6, test="t", model="m")
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        record_opening(folder, opening)
    with upload_bundle(uploaded, tmp_path, force=True) as folder:
        bundle_again.rename(folder)
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        assert read_bundle(folder).metrics == {"validation": None, "test": None, "test_openings": [opening]}


@pytest.fixture
def bundle_again(tmp_path, manifest, weights):
    write_bundle(tmp_path / "again", manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return tmp_path / "again"


def test_a_bundle_that_was_written_before_an_exception_is_uploaded(url, bundle, tmp_path):
    with suppress(RuntimeError), upload_bundle(url, tmp_path, force=False) as folder:
        bundle.rename(folder)
        raise RuntimeError
    with local_bundle(url, tmp_path / "cache") as folder:
        assert read_bundle(folder).model


def test_a_prefix_that_holds_no_bundle_is_one_line(url, tmp_path):
    with pytest.raises(BundleError, match=r"s3://.*/best is not a bundle: it has no config\.json"), local_bundle(
        url, tmp_path
    ):  # fmt: skip
        pass


def test_every_test_access_is_recorded_in_s3(run, uploaded, images):
    for count in (1, 2):
        result = run("evaluate", uploaded, "--data", images)
        assert result.exit_code == 0, result.output
        assert ("for the first time", "opened 2 times")[count - 1] in result.stdout
    assert open_objects(uploaded).get(METRICS).count(b'"command": "evaluate"') == 2


def recorded(url):
    """Command and accuracy of the test accesses recorded in S3."""
    return [(one["command"], one["accuracy"]) for one in json.loads(open_objects(url).get(METRICS))["test_openings"]]


def test_a_test_access_is_recorded_in_s3_before_it_happens(uploaded, tmp_path):
    opening = new_opening("evaluate", "ours", 6)
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        assert record_opening(folder, opening) == 1
        assert recorded(uploaded) == [("evaluate", None)]
        record_result(folder, opening, 0.5)
    assert recorded(uploaded) == [("evaluate", 0.5)]


def test_accesses_by_other_machines_meanwhile_stay_recorded(uploaded, tmp_path):
    ours, theirs = new_opening("compare", "ours", 6), new_opening("evaluate", "ours", 6)
    with local_bundle(uploaded, tmp_path / "here") as folder:
        with local_bundle(uploaded, tmp_path / "there") as elsewhere:
            record_opening(elsewhere, theirs)
            record_result(elsewhere, theirs, 0.25)
        assert record_opening(folder, ours) == 2, "theirs is one too"
        record_result(folder, ours, 0.5)
    assert recorded(uploaded) == [("compare", 0.5), ("evaluate", 0.25)]


def test_another_process_keeps_the_record_of_an_access_in_progress(uploaded, tmp_path):
    opening = new_opening("evaluate", "ours", 6)
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        record_opening(folder, opening)
        record_result(folder, opening, 0.5)  # which S3 does not know yet
        with local_bundle(uploaded, tmp_path / "cache") as again:
            assert again == folder
        assert json.loads((folder / METRICS).read_text())["test_openings"] == [{**opening, "accuracy": 0.5}]
    assert recorded(uploaded) == [("evaluate", 0.5)]


def test_a_record_that_a_killed_process_could_not_send_is_sent_with_the_next(uploaded, tmp_path):
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        pass
    record_opening(folder, new_opening("compare", "ours", 6))
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        assert record_opening(folder, new_opening("evaluate", "ours", 6)) == 2
    assert recorded(uploaded) == [("compare", None), ("evaluate", None)]


def test_a_bundle_that_has_replaced_it_gets_no_records_of_the_old_one(uploaded, manifest, weights, tmp_path):
    with local_bundle(uploaded, tmp_path / "cache") as folder:
        with upload_bundle(uploaded, tmp_path, force=True) as out:
            write_bundle(out, manifest.model_copy(update={"trial": 9}), weights, {"test_openings": []})
        record_opening(folder, new_opening("evaluate", "ours", 6))
    assert recorded(uploaded) == []


def test_predict_and_retrain_take_urls(run, uploaded, images, s3_root, tmp_path):
    result = run("predict", uploaded, images, "--out", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    final = f"{s3_root}/final"
    result = run("retrain", uploaded, "--data", images, "--out", final)
    assert result.exit_code == 0, result.output
    assert f"{final}: trained on" in result.stdout
    with local_bundle(final, tmp_path / "cache") as folder:
        assert read_bundle(folder).manifest.stage == "retrained"
    for bundle in (uploaded, final):
        assert open_objects(bundle).get(METRICS).count(b'"command": "retrain"') == 1
    assert not list(Path(tmp_path / "home" / "cache").glob("bundle-*"))


def test_config_is_uploaded_last(url, bundle, tmp_path, monkeypatch):
    """A reader never finds a manifest without its weights."""
    from storage.objects import S3Objects

    order = []
    put = S3Objects.put
    monkeypatch.setattr(S3Objects, "put", lambda self, key, data: (order.append(key), put(self, key, data))[1])
    with upload_bundle(url, tmp_path, force=False) as folder:
        bundle.rename(folder)
    assert order[-1] == CONFIG
    assert boto3.client("s3").list_objects_v2(Bucket=url.split("/")[2])["KeyCount"] == 5

"""Groups of copies: what is found, what is not, and that the order of the images plays no role."""

from __future__ import annotations

import io
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from hpo.data import copy_groups, digests
from hpo.data.copy_groups import SIMILARITY, find_copy_groups
from hpo.data.decode import plain_image
from hpo.data.signatures import measure_signatures
from hpo.data.symmetries import turned

SIZE = 80


def picture(seed, size=SIZE):
    """A photograph-like picture: smooth colours, some blobs and some grain."""
    rng = np.random.default_rng([seed, 3])
    image = Image.fromarray(rng.integers(60, 200, (5, 5, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
    pixels = np.asarray(image).astype(float)
    rows, columns = np.mgrid[0:size, 0:size] / size
    for _ in range(9):
        down, right, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.04, 0.2)
        inside = ((rows - down) ** 2 + (columns - right) ** 2 < radius**2)[..., None]
        pixels = np.where(inside, rng.integers(0, 256, 3), pixels)
    return np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def rotated(pixels, symmetry):
    return np.ascontiguousarray(np.moveaxis(turned(np.moveaxis(pixels, -1, 0), symmetry), 0, -1))


def encoded(pixels, quality=60):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def shifted(pixels, down, right):
    return np.roll(np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="edge"), (down, right), (0, 1))[4:-4, 4:-4].copy()


def cropped(pixels, top, left, share=0.1):
    side = round(len(pixels) * (1 - share))
    cut = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(cut.resize((len(pixels), len(pixels)), Image.BICUBIC))


CHANGES = {
    "bytes": lambda pixels: pixels,
    "encoded": encoded,
    "darker": lambda pixels: np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(0.7)),
    "brighter": lambda pixels: np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(1.3)),
    "contrast": lambda pixels: np.asarray(ImageEnhance.Contrast(Image.fromarray(pixels)).enhance(0.7)),
    "shifted": lambda pixels: shifted(pixels, 3, -3),
    "cropped": lambda pixels: cropped(pixels, 0, 8),
    "turned": lambda pixels: encoded(rotated(pixels, 3)),
    "mirrored": lambda pixels: encoded(rotated(pixels, 5)),
    "smaller": lambda pixels: np.asarray(Image.fromarray(pixels).resize((50, 50))),
    "turned and shifted": lambda pixels: shifted(rotated(pixels, 6), -2, 3),
    "mirrored and cropped": lambda pixels: cropped(rotated(pixels, 4), 4, 0),
}


def described(payloads):
    """Signatures and digests of images given as pixels or bytes."""
    taken, known = [], []
    for payload in payloads:
        with plain_image(payload) as image:
            taken.append(image.signature())
            known.append((digests.of_payload(payload), image.digest()))
    return measure_signatures(taken), known


def partition(groups):
    members = defaultdict(set)
    for row, group in enumerate(groups.group_of.tolist()):
        members[group].add(row)
    return {frozenset(rows) for rows in members.values()}


@pytest.fixture(scope="module")
def planted():
    """120 different pictures, then a copy of each of the first of them for every change."""
    different = [picture(seed) for seed in range(120)]
    return [*different, *(change(different[row]) for row, change in enumerate(CHANGES.values()))]


@pytest.fixture(scope="module")
def found(planted):
    return find_copy_groups(*described(planted))


@pytest.mark.parametrize("row", range(len(CHANGES)), ids=CHANGES)
def test_a_changed_copy_is_in_the_group_of_its_picture(found, row):
    assert found.group_of[row] == found.group_of[120 + row]
    assert min(found.similarity[[row, 120 + row]]) >= SIMILARITY


def test_different_pictures_are_alone(found):
    assert len(set(found.group_of[:120].tolist())) == 120


@pytest.mark.parametrize(("change", "symmetry"), [("turned", 3), ("mirrored", 5), ("turned and shifted", 6)])
def test_the_orientation_is_found(found, change, symmetry):
    row = list(CHANGES).index(change)
    pair = [row, 120 + row]
    assert sorted(found.symmetry[pair].tolist()) in ([0, symmetry], [0, -symmetry % 4 if symmetry < 4 else symmetry])


def test_similarity_is_one_for_equal_pixels_only(found):
    of = {change: found.similarity[120 + row] for row, change in enumerate(CHANGES)}
    assert of["bytes"] == 1
    assert of["encoded"] < 1 or found.similarity[list(CHANGES).index("encoded")] < 1


def test_the_progress_grows_to_the_number_of_images(planted):
    shown = []
    find_copy_groups(*described(planted), progress=lambda done, total: shown.append((done, total)))
    done = [done for done, _ in shown]
    assert {total for _, total in shown} == {len(planted)}
    assert done == sorted(done)
    assert done[-1] == len(planted)
    assert len(set(done)) >= 3


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_groups_are_a_partition_and_the_order_of_the_images_plays_no_role(planted, found, seed):
    signatures, known = described(planted)
    order = np.random.default_rng(seed).permutation(len(planted))
    again = find_copy_groups(signatures[order], [known[row] for row in order])
    assert {frozenset(order[list(rows)].tolist()) for rows in partition(again)} == partition(found)
    assert np.array_equal(again.similarity, found.similarity[order])
    names = again.names([known[row] for row in order])
    assert names == [found.names(known)[row] for row in order]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_the_groups_of_any_few_images(seeds):
    groups = find_copy_groups(*described([picture(seed) for seed in seeds]))
    assert len(groups.group_of) == len(seeds)
    assert [seeds.index(seed) for seed in seeds] == [groups.group_of.tolist().index(g) for g in groups.group_of]
    assert np.array_equal(groups.group_of[groups.centre], groups.group_of)


def test_blank_images_of_other_bytes_are_no_copies():
    blank = [np.full((40, 40, 3), value, np.uint8) for value in (0, 10, 128, 200, 255)]
    noisy = [np.random.default_rng(n).integers(126, 129, (40, 40, 3), dtype=np.uint8) for n in range(5)]
    gradient = np.repeat(np.linspace(0, 255, 40)[:, None, None], 40, 1).repeat(3, 2).astype(np.uint8)
    groups = find_copy_groups(*described([*blank, *noisy, gradient, gradient[:, ::-1] // 2]))
    assert len(set(groups.group_of[:11].tolist())) == 11


def test_one_background_with_different_objects_is_not_one_picture():
    background = picture(1)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    images = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        radius = rng.uniform(0.2, 0.25) * (1 + 0.3 * np.sin(3 * np.arctan2(rows - 0.5, columns - 0.5) + seed))
        inside = ((rows - 0.5) ** 2 + (columns - 0.5) ** 2 < radius**2)[..., None]
        images.append(np.where(inside, picture(seed + 50), background).astype(np.uint8))
    groups = find_copy_groups(*described(images))
    assert len(set(groups.group_of.tolist())) == 12


def test_a_chain_of_copies_is_not_one_group():
    """Windows of a strip: each resembles the next one, but the first and the last show different things."""
    strip = np.asarray(Image.fromarray(picture(7, 400)))
    windows = [strip[100 : 100 + SIZE, left : left + SIZE].copy() for left in range(0, 160, 4)]
    groups = find_copy_groups(*described(windows))
    assert groups.group_of[0] != groups.group_of[-1]
    sizes = [len(rows) for rows in partition(groups)]
    assert max(sizes) <= 7


def test_many_copies_of_one_picture_are_one_group():
    one = Image.fromarray(picture(3))
    factors = np.linspace(0.9, 1.1, 150)
    copies = [encoded(np.asarray(ImageEnhance.Brightness(one).enhance(f)), 90) for f in factors]
    groups = find_copy_groups(*described([*copies, *(picture(seed) for seed in range(20, 50))]))
    assert set(groups.group_of[:150].tolist()) == {0}
    assert len(set(groups.group_of.tolist())) == 31


def test_no_images_and_one_image():
    assert len(find_copy_groups(measure_signatures([]), []).group_of) == 0
    assert find_copy_groups(*described([picture(0)])).group_of.tolist() == [0]


def searched_once(tmp_path, monkeypatch):
    """Keep the groups of two copies and one other picture in `tmp_path`, and let no search be made after that."""
    payloads = [encoded(picture(0)), encoded(picture(0), 50), encoded(picture(1))]
    signatures, names = described(payloads)
    first = find_copy_groups(signatures, names, cache=tmp_path)
    monkeypatch.setattr(copy_groups, "_find_groups", lambda *_: pytest.fail("the groups are kept"))
    return signatures, names, first


def test_groups_are_looked_for_once_for_a_pack(tmp_path, monkeypatch):
    signatures, names, first = searched_once(tmp_path, monkeypatch)
    again = find_copy_groups(signatures, names, cache=tmp_path)
    for column, value in vars(first).items():
        np.testing.assert_array_equal(getattr(again, column), value)
    assert len(np.unique(first.group_of)) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_damaged_kept_groups_are_looked_for_again(tmp_path, content):
    (tmp_path / "copies.npz").write_bytes(content)
    signatures, names = described([encoded(picture(0)), encoded(picture(0), 50)])
    assert len(np.unique(find_copy_groups(signatures, names, cache=tmp_path).group_of)) == 1


def test_kept_groups_of_other_images_are_not_taken(tmp_path, monkeypatch):
    signatures, names, _ = searched_once(tmp_path, monkeypatch)
    monkeypatch.undo()
    assert len(find_copy_groups(signatures[:2], names[:2], cache=tmp_path).group_of) == 2

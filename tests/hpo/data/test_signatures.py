"""Signatures: the same at every packed size, in the order of the pack, and what their fields say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hpo.data import signatures
from hpo.data.decode import plain_image
from hpo.data.folders import FolderSource
from hpo.data.pack import open_pack
from hpo.data.signatures import SIGNATURE, measure_signatures, open_signatures, signature_file


def of(*payloads):
    """The signatures of images given as arrays or bytes."""
    taken = []
    for payload in payloads:
        with plain_image(payload) as image:
            taken.append(image.signature())
    return measure_signatures(taken)


def test_a_pack_has_one_signature_for_each_row_the_same_at_every_size(write_classes, cache):
    folder = write_classes({"a": 3, "b": 40})
    (folder / "a" / "001.png").write_bytes(b"")
    packs = [open_pack(FolderSource(folder), size, cache) for size in (16, 48)]
    first, second = (np.array(pack.signatures) for pack in packs)
    assert first.dtype == SIGNATURE
    assert len(first) == len(packs[0].manifest) == 42
    assert first.tobytes() == second.tobytes()
    for row, name in enumerate(packs[0].manifest.names):
        assert of((folder / name).read_bytes()).tobytes() == first[row].tobytes()


def test_signatures_are_a_read_only_map(write_classes, cache):
    pack = open_pack(FolderSource(write_classes({"a": 2, "b": 2})), 16, cache)
    with pytest.raises(ValueError, match="read-only"):
        pack.signatures["width"] = 1


def test_a_pack_with_a_damaged_signature_file_is_remade(write_classes, cache):
    source = FolderSource(write_classes({"a": 2, "b": 2}))
    before = open_pack(source, 16, cache).signatures.tobytes()
    (file,) = cache.glob("*/signatures.npy")
    for damage in (file.read_bytes()[:-1], b"", None):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        assert open_pack(source, 16, cache).signatures.tobytes() == before


def test_the_fields_without_the_pictures_and_what_was_read_is_forgotten(write_classes, cache, monkeypatch):
    monkeypatch.setattr(signatures, "_BLOCK", 3)
    pack = open_pack(FolderSource(write_classes({"a": 4, "b": 4})), 16, cache)
    found = signatures.without_pictures(pack.signatures)
    assert set(found.dtype.names) == set(SIGNATURE.names) - {"thumb", "grey"}
    assert all(np.array_equal(found[name], pack.signatures[name]) for name in found.dtype.names)
    assert found.itemsize * 50 < SIGNATURE.itemsize


def test_black_white_and_coloured_images():
    black, white = np.zeros((8, 8), np.uint8), np.full((200, 100, 3), 255, np.uint8)
    red = np.zeros((70, 70, 3), np.uint8)
    red[..., 0] = 200
    found = of(black, white, red)
    assert found["brightness"].tolist() == pytest.approx([0, 255, 60])  # 59.8, rounded
    assert found["contrast"].tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert found["sharpness"].tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert found["dark"].tolist() == [1, 0, 0]
    assert found["bright"].tolist() == [0, 1, 0]
    assert found["saturation"].tolist() == [0, 0, 200]
    assert list(zip(found["width"].tolist(), found["height"].tolist(), strict=True)) == [(8, 8), (100, 200), (70, 70)]
    assert (found["thumb"][2] == [200, 0, 0]).all()


def test_a_blurred_image_is_less_sharp(noise):
    sharp = Image.fromarray(noise(0, (64, 64, 3)))
    blurred = sharp.resize((16, 16)).resize((64, 64))
    found = of(np.array(sharp), np.array(blurred))
    assert found["sharpness"][0] > 10 * found["sharpness"][1]


def save(path, image, **options):
    image.save(path, **options)
    return path.read_bytes()


def test_how_a_file_is_stored(tmp_path, noise):
    colours = Image.fromarray(noise(0, (20, 30, 3)))
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = colours.convert("P", palette=Image.Palette.ADAPTIVE)
    files = [
        save(tmp_path / "1.png", colours),
        save(tmp_path / "2.png", colours.convert("L")),
        save(tmp_path / "3.jpg", colours.convert("CMYK")),
        save(tmp_path / "4.png", palette),
        save(tmp_path / "5.png", colours.convert("RGBA")),
        save(tmp_path / "6.png", Image.fromarray(noise(0, (20, 30)).astype(np.uint16) * 200)),
        save(tmp_path / "7.jpg", colours, exif=turned),
        save(tmp_path / "8.gif", palette, save_all=True, append_images=[palette.rotate(90)]),
    ]
    found = of(*files)
    assert found["mode"].tolist() == [
        0,
        signatures.GREY,
        signatures.CMYK,
        signatures.PALETTE,
        signatures.ALPHA,
        signatures.GREY | signatures.SIXTEEN_BIT,
        0,
        signatures.PALETTE,
    ]
    assert found["orientation"].tolist() == [1, 1, 1, 1, 1, 1, 6, 1]
    assert (found["width"][6], found["height"][6]) == (20, 30)
    assert found["pages"].tolist() == [1, 1, 1, 1, 1, 1, 1, 2]


def test_arrays_say_how_they_are_stored(noise):
    found = of(noise(0, (9, 8)), noise(0, (9, 8, 4)), noise(0, (9, 8, 3)).astype(np.uint16))
    assert found["mode"].tolist() == [signatures.GREY, signatures.ALPHA, signatures.SIXTEEN_BIT]


def test_a_file_of_fewer_rows_than_planned_is_whole(tmp_path):
    rows = np.zeros(3, SIGNATURE)
    rows["width"] = [1, 2, 3]
    with signature_file(tmp_path / "x.npy", most=10**6) as file:
        for row in rows:
            file.add(row)
    assert open_signatures(tmp_path / "x.npy", 3).tobytes() == rows.tobytes()
    with pytest.raises(ValueError, match="rows"):
        open_signatures(tmp_path / "x.npy", 4)

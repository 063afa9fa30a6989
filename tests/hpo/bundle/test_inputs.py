"""Every form in which a program may have an image is taken, prepared as files are, or refused in one line."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import hpo
from hpo.bundle.inputs import batches_of
from hpo.data import decode
from hpo.errors import DataError, UsageError

SIZE = 32


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def png(pixels):
    return encoded(pixels)


def encoded(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def fitted(images, batch_size=2):
    return np.concatenate([found for _, found in batches_of(images, SIZE, batch_size)])


def test_every_form_of_one_image_gives_the_same_pixels(pixels, png, tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(png)
    forms = [
        path, str(path), np.str_(path), png, bytearray(png), memoryview(png), io.BytesIO(png), path.open("rb"),
        Image.open(path), Image.fromarray(pixels), pixels, pixels[:, ::-1][:, ::-1], torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]  # fmt: skip
    for found in fitted(forms):
        assert np.array_equal(found, decode(png, SIZE))


def test_grey_alpha_16_bits_and_flags_are_prepared_as_files_are(pixels):
    grey, flags = pixels[:, :, 0], pixels[:, :, 0] > 127
    wide = grey.astype(np.uint16) * 257
    alpha = np.dstack([pixels, grey])
    with_png = {"grey": grey, "alpha": alpha, "wide": wide}
    for array in with_png.values():
        assert np.array_equal(fitted([array])[0], decode(encoded(array), SIZE))
    for array in (grey[:, :, None], torch.from_numpy(grey), torch.from_numpy(grey)[None], torch.from_numpy(wide)):
        assert np.array_equal(fitted([array])[0], fitted([grey])[0])
    assert np.array_equal(fitted([flags])[0], fitted([flags.astype(np.uint8) * 255])[0])
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16"):
        picture = Image.fromarray(wide if mode == "I;16" else grey).convert(mode)
        assert fitted([picture]).shape == (1, SIZE, SIZE, 3)


def test_a_pillow_image_is_turned_upright_and_stays_as_it_is(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(pixels, exif=exif)
    picture = Image.open(io.BytesIO(turned))
    assert np.array_equal(fitted([picture])[0], decode(turned, SIZE))
    assert (picture.size, picture.getexif()[0x0112]) == ((50, 40), 6)


def test_arrays_and_tensors_of_many_images(pixels):
    many = np.stack([pixels, pixels[::-1]])
    for images in (many, torch.from_numpy(many), torch.from_numpy(many).permute(0, 3, 1, 2), list(many), iter(many)):
        assert np.array_equal(fitted(images), fitted([*many]))
    assert fitted(many[:, :, :, :1]).shape == (2, SIZE, SIZE, 3)


def test_a_generator_is_read_a_batch_at_a_time(pixels):
    """No more images than a batch holds are requested, and none is kept."""
    asked = []

    def images():
        for number in range(300):
            asked.append(number)
            yield np.full((300, 300, 3), number % 256, np.uint8)

    tracemalloc.start()
    names = []
    for found, _ in batches_of(images(), SIZE, 4):
        names += found
        assert len(asked) == len(names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert names == [str(number) for number in range(300)]
    assert peak < 5e6


def test_names_are_paths_else_positions(png, tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(png)
    names = [name for found, _ in batches_of([png, path, str(path)], SIZE, 2) for name in found]
    assert names == ["0", str(path), str(path)]


@pytest.mark.parametrize("nothing", [[], (), iter([]), np.empty((0, 8, 8, 3), np.uint8), np.array([]), {}.values()])
def test_no_images_give_no_predictions(bundle, nothing):
    assert hpo.load(bundle, device="cpu").predict(nothing) == []


class Unreadable(io.BytesIO):
    def read(self, *_):
        raise io.UnsupportedOperation("not readable")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("cell.jpg", r"cell.jpg is one path, but a list is meant"),
        (b"\x89PNG", r"one image is given, but a list is meant: put it into a list, \[image\]"),
        (Image.new("RGB", (8, 8)), r"one image is given"),
        (io.BytesIO(b""), r"one image is given"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\) is given, but must be \(n, height, width, 3\)"),
        (torch.zeros((3, 8, 8), dtype=torch.uint8), r"shape \(3, 8, 8\) is given"),
        (np.arange(5), r"shape \(5,\)"),
        (np.uint8(3), r"shape \(\)"),
        ({"a": "a.jpg"}, r"a mapping is given, but a list is meant"),
        (None, r"NoneType is given, but a list is meant"),
        (7, r"int is given, but a list is meant"),
        ([None], r"image 0: NoneType is no image: give a path"),
        ([[1, 2]], r"image 0: list is no image"),
        ([object()], r"image 0: object is no image"),
        ([3.5], r"image 0: float is no image"),
        ([b""], r"image 0: empty file"),
        ([b"GIF89a torn"], r"image 0: "),
        ([io.StringIO("text")], r'image 0: the file is open as text: open it with "rb"'),
        ([Unreadable()], r"image 0: the file cannot be read"),
        (["no/such.png"], r"no/such.png: cannot be opened \(No such file"),
        (["."], r"\.: not an ordinary file"),
        (["a\0b"], r"a\x00b: "),
        ([np.zeros((8, 8, 3), np.float32)], r"image 0: pixels are float32, but must be uint8"),
        ([np.zeros((8, 8), np.int64)], r"image 0: pixels are int64"),
        ([np.zeros((3, 20, 20), np.uint8)], r"shape \(3, 20, 20\).*give image.transpose\(1, 2, 0\)"),
        ([np.zeros((20, 20, 7), np.uint8)], r"shape \(20, 20, 7\)"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], r"shape \(2, 8, 8, 3\)"),
        ([np.zeros((0, 8, 3), np.uint8)], r"shape \(0, 8, 3\)"),
        ([torch.zeros((3, 8, 8))], r"pixels are torch.float32, but must be uint8"),
        ([torch.zeros((8, 8), dtype=torch.bfloat16)], r"pixels are torch.bfloat16"),
        ([torch.zeros((3, 8, 3), dtype=torch.uint8)], r"channels first or last, which cannot be told apart"),
        ([Image.new("F", (8, 8))], r"image 0: 32-bit pixels"),
    ],
)
def test_an_object_that_is_not_an_image_is_refused_in_one_line(images, expected):
    with pytest.raises(DataError, match=expected) as refusal:
        list(batches_of(images, SIZE, 2))
    assert "\n" not in str(refusal.value)


def test_a_closed_picture_is_refused_in_one_line(png):
    picture = Image.open(io.BytesIO(png))
    picture.close()
    with pytest.raises(DataError, match="image 0: "):
        list(batches_of([picture], SIZE, 2))


def test_a_batch_size_of_zero_and_unknown_views_are_refused(bundle, pixels):
    model = hpo.load(bundle, device="cpu")
    with pytest.raises(UsageError, match="batch_size is 0, but must be at least 1"):
        model.predict([pixels], batch_size=0)
    with pytest.raises(UsageError, match="tta is 'all', but must be one of none, mirror, flips, dihedral"):
        model.predict([pixels], tta="all")


def test_an_error_of_the_callers_generator_is_passed_on(pixels):
    def images():
        yield pixels
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(batches_of(images(), SIZE, 2))

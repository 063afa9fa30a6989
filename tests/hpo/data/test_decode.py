"""decode and fit_array: one image of any kind to (S, S, 3) uint8 RGB."""

import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from hpo.data import digests
from hpo.data.decode import MAX_BYTES, decode, fit, fit_array, plain_image, refuse_long, silence_pillow
from hpo.errors import DataError


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(mode: str, colour, size=(12, 12)) -> bytes:
    return stored(Image.new(mode, size, colour))


@pytest.fixture
def arrow() -> np.ndarray:
    """Return a picture that every rotation and reflection changes."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[0] = 255
    picture[:, 0, 0] = 255
    picture[0, 0] = (0, 200, 0)
    return picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_square_of_the_right_size_is_returned_unchanged(kind):
    flat = np.full((8, 8, 3), (255, 0, 51), np.uint8)
    assert np.array_equal(decode(stored(Image.fromarray(flat), kind), 8), flat)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (0, 0, 0, 127), (128, 128, 128)),
        ("P", 0, (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("size", [12, 5, 30])
def test_every_mode_becomes_rgb_over_white(mode, colour, expected, size):
    pixels = decode(plain(mode, colour), size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [expected])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted(kind):
    pixels = decode(stored(Image.new("CMYK", (12, 12), (255, 0, 0, 0)), kind), 6)
    assert (pixels[..., 0] < 5).all()
    assert (pixels[..., 1:] > 200).all()


def test_a_palette_with_a_transparent_colour_is_put_over_white():
    image = Image.new("P", (6, 6), 3)
    image.putpalette([0, 0, 0] * 4)
    assert (decode(stored(image, transparency=3), 6) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    ramp = np.repeat(np.array([0, 257, 514, 32896, 65278, 65535], np.uint16)[None], 6, axis=0)
    pixels = decode(stored(Image.fromarray(ramp), kind), 6)
    assert pixels[0, :, 0].tolist() == [0, 1, 2, 128, 254, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused(mode):
    with pytest.raises(DataError, match=r"32-bit pixels .* save it with 8 or 16 bits"):
        decode(stored(Image.new(mode, (6, 6)), "TIFF"), 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation_is_applied(arrow, orientation, kind):
    turned = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](arrow)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    pixels = decode(stored(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif, **options), 8)
    assert np.abs(pixels.astype(int) - arrow).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (61, 21), (1, 51), (1, 1)])
def test_the_centre_square_is_kept(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    picture[top : top + side, left : left + side] = 200
    pixels = fit_array(picture, 10)
    assert (pixels[3:7, 3:7] > 150).all()
    assert pixels.mean() > 120


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit_array(stripes, 16).astype(int) - 127).max() <= 2


def test_a_long_strip_needs_no_memory_to_speak_of():
    strip = plain("L", 7, (2_000_000, 1))
    tracemalloc.start()
    pixels = decode(strip, 96)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pixels == 7).all()
    assert peak < 50e6


def test_a_jpeg_far_larger_than_needed_keeps_its_picture():
    gradient = np.linspace(0, 255, 1200).astype(np.uint8)
    picture = np.broadcast_to(gradient[None, :, None], (1200, 1200, 3))
    pixels = decode(stored(Image.fromarray(np.ascontiguousarray(picture)), "JPEG", quality=95), 32)
    expected = (
        gradient.reshape(32, -1).mean(axis=1) if 1200 % 32 == 0 else np.interp(np.arange(32) + 0.5, [0, 32], [0, 255])
    )
    assert np.abs(pixels[16, :, 0] - expected).max() < 4


def test_arrays_and_files_are_prepared_alike(noise):
    picture = noise(0, (40, 30, 3))
    assert np.array_equal(fit_array(picture, 16), decode(stored(Image.fromarray(picture)), 16))
    assert np.array_equal(fit(picture, 16), fit(stored(Image.fromarray(picture)), 16))


def lossless_copies(image: Image.Image) -> dict[str, bytes | np.ndarray]:
    """Return the picture of `image` after reading, in every lossless form."""
    pixels = np.asarray(image.convert("RGB"))
    upright = Image.fromarray(pixels)
    lying = Image.Exif()
    lying[ExifTags.Base.Orientation] = 6
    return {
        "array": pixels,
        "opaque": np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
        "png": stored(upright),
        "rgba png": stored(upright.convert("RGBA")),
        "bmp": stored(upright, "BMP"),
        "tiff": stored(upright, "TIFF", compression="tiff_lzw"),
        "webp": stored(upright, "WEBP", lossless=True),
        "turned png": stored(upright.transpose(Image.Transpose.ROTATE_90), exif=lying),
        "turned tiff": stored(upright.transpose(Image.Transpose.ROTATE_90), "TIFF", exif=lying),
    }


@pytest.mark.parametrize("size", [32, 64, 96, 224])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_and_its_lossless_copies_give_the_same_pixels_at_every_size(noise, mode, size):
    picture = Image.fromarray(noise(3, (20, 15, 3))).resize((401, 300), Image.Resampling.BICUBIC).convert(mode)
    jpeg = stored(picture, "JPEG", quality=90)
    expected = decode(jpeg, size)
    for form, copy in lossless_copies(Image.open(io.BytesIO(jpeg))).items():
        assert np.array_equal(fit(copy, size), expected), form


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.sampled_from([1, 7, 16, 32, 96]),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 9),
)
def test_a_picture_gives_the_same_pixels_and_digest_in_every_form(height, width, size, channels, seed):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    picture = Image.fromarray(values[:, :, 0] if channels == 1 else values)
    with plain_image(values) as image:
        expected, digest = image.centre_square(size), image.digest()
        copies = lossless_copies(image.picture)
    for form, copy in (copies | {"as it is": stored(picture)}).items():
        with plain_image(copy) as image:
            assert np.array_equal(image.centre_square(size), expected), form
            assert image.digest() == image.digest(expected) == digest, form


@pytest.mark.parametrize("size", [16, 24, 32])
def test_the_digest_is_the_same_with_the_packed_pixels_at_hand(noise, size):
    for array in (noise(0, (24, 24, 3)), noise(0, (24, 32, 3)), noise(0, (24, 24)), noise(0, (24, 24, 4))):
        for payload in (array, array.astype(np.uint16) * 257):
            with plain_image(payload) as image:
                assert image.digest(image.centre_square(size)) == image.digest()


def test_the_digest_tells_shapes_and_late_rows_apart(noise):
    picture = noise(0, (1200, 1000, 3))
    other = picture.copy()
    other[-1, -1, -1] ^= 1
    images = [picture, other, picture.reshape(1000, 1200, 3), picture[:-1]]
    assert len({digests.of_image(Image.fromarray(image)) for image in images}) == 4


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((6, 6), 9, np.uint8), 9),
        (np.full((6, 6, 1), 9, np.uint8), 9),
        (np.full((6, 6), 257 * 9, np.uint16), 9),
        (np.full((6, 6, 3), 257 * 9, np.dtype(">u2")), 9),
        (np.ones((6, 6), bool), 255),
        (np.zeros((6, 6, 4), np.uint8), 255),
    ],
)
def test_arrays_of_every_kind(array, value):
    assert (fit_array(array, 6) == value).all()


@pytest.mark.parametrize(
    ("array", "rule"),
    [
        (np.zeros((6, 6, 3), np.float32), "pixels are float32, but must be uint8"),
        (np.zeros((6, 6, 3), np.int64), "pixels are int64, but must be uint8"),
        (np.zeros((3, 6, 6), np.uint8), r"shape \(3, 6, 6\), but must be"),
        (np.zeros((0, 6), np.uint8), r"shape \(0, 6\), but must be"),
        (np.zeros(6, np.uint8), r"shape \(6,\), but must be"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, rule):
    with pytest.raises(DataError, match=rule):
        fit_array(array, 6)


def test_an_empty_file_is_refused():
    with pytest.raises(DataError, match=r"empty file \(0 bytes\)"):
        decode(b"", 8)


def test_a_text_is_not_an_image():
    with pytest.raises(DataError, match="not an image of a known format"):
        decode(b"To whom it may concern", 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_a_truncated_image_is_refused(noise, kind):
    whole = stored(Image.fromarray(noise(1, (64, 64, 3))), kind)
    with pytest.raises(DataError):
        decode(whole[: len(whole) // 2], 32)


@pytest.mark.parametrize(("side", "megapixels"), [(10_000, "100.0"), (20_000, "400.0")])
def test_too_many_megapixels_are_refused_before_decoding(side, megapixels):
    small = plain("L", 0)
    head = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    bomb = small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]
    with silence_pillow(), pytest.raises(DataError, match=f"{megapixels} megapixels, more than the limit of 64"):
        decode(bomb, 32)


def test_a_file_longer_than_any_image_is_refused():
    refuse_long(MAX_BYTES)
    with pytest.raises(DataError, match="more than the limit of 256 MB"):
        refuse_long(MAX_BYTES + 600_000)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_damage_gives_pixels_or_a_reason_and_nothing_else(kind, edits, keep):
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = bytearray(stored(Image.fromarray(picture), kind))
    for position, value in edits:
        data[position % len(data)] = value
    with silence_pillow():
        outcome = pixels_or_reason(bytes(data[: int(len(data) * keep)]))
    assert "\n" not in outcome if isinstance(outcome, str) else outcome.shape == (8, 8, 3)


def pixels_or_reason(data: bytes) -> np.ndarray | str:
    try:
        return decode(data, 8)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 20, "optimize": True}])
def test_a_plain_jpeg_is_decoded_as_pillow_decodes_it(options, noise, monkeypatch):
    written = io.BytesIO()
    Image.fromarray(noise(0, (40, 56, 3))).save(written, format="jpeg", **options)
    with plain_image(written.getvalue()) as image:
        fast = np.asarray(image.picture), image.mode, image.pages, image.orientation
    monkeypatch.setattr(sys.modules["hpo.data.decode"], "size_of_plain_jpeg", lambda data: None)
    with plain_image(written.getvalue()) as image:
        assert np.array_equal(np.asarray(image.picture), fast[0])
        assert (image.mode, image.pages, image.orientation) == fast[1:]


def test_a_truncated_plain_jpeg_is_refused_as_any_other(noise):
    written = io.BytesIO()
    Image.fromarray(noise(0, (40, 56, 3))).save(written, format="jpeg")
    with pytest.raises(DataError, match="truncated or damaged"), plain_image(written.getvalue()[:-40]):
        pass

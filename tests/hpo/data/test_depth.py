"""16 bits: the white level of a data set, of a file and of a model; every form of a picture gives the same pixels."""

import io
import struct
import zipfile
import zlib
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from hpo.data import fit_array, open_dataset, open_whole
from hpo.data.decode import decode, fit, plain_image
from hpo.data.depth import WHITE_LEVELS, depth_note, reached_levels, white_level
from hpo.data.sampled_images import inspect_data
from hpo.errors import DataError


def stored(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pgm(values, maxval=65535, *, plain=False):
    """Return a PGM, or a PPM for three channels."""
    colours = values.ndim == 3
    magic = {(False, False): b"P5", (True, False): b"P6", (False, True): b"P2", (True, True): b"P3"}[colours, plain]
    head = magic + b"\n# written by a camera\n%d %d\n%d\n" % (values.shape[1], values.shape[0], maxval)
    if plain:
        return head + b"\n".join(b" ".join(b"%d" % value for value in row) for row in values.reshape(len(values), -1))
    return head + values.astype(">u2").tobytes()


def cv(values, suffix, *options):
    """Return a PNG by OpenCV, which writes colours of 16 bits."""
    colours = values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]
    return cv2.imencode(suffix, np.ascontiguousarray(colours), list(options))[1].tobytes()


def tiff(values, *, order="<", photometric=1, extra=()):
    """Return a plain TIFF of 16 bits in either byte order."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    tags = [(256, 4, width), (257, 4, height), (259, 3, 1), (262, 3, photometric), (277, 3, channels)]
    tags += [(278, 4, height), (279, 4, values.nbytes), *extra]
    head, ends = 8 + 2 + 12 * (len(tags) + 2) + 4, 2 * channels
    tags += [(258, 3, 16 if channels == 1 else head), (273, 4, head + ends)]
    directory = struct.pack(order + "H", len(tags))
    for tag, kind, value in sorted(tags):
        count = channels if tag == 258 else 1
        short = kind == 3 and count == 1
        directory += struct.pack(order + "HHI", tag, kind, count)
        directory += struct.pack(order + ("HH" if short else "I"), *((value, 0) if short else (value,)))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    bits = struct.pack(order + "H", 16) * channels
    return mark + struct.pack(order + "I", 8) + directory + b"\0" * 4 + bits + values.astype(order + "u2").tobytes()


def alpha_png(grey, alpha):
    """Grey of 16 bits with transparency, which neither library writes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([grey, alpha]))
    size = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def grey_forms(values):
    """Return a grey picture in every form of 16 bits."""
    opaque = np.full(values.shape, 65535, np.uint16)
    thrice = np.dstack([values] * 3)
    return {
        "array": values,
        "big-endian array": values.astype(">u2"),
        "one channel": values[..., None],
        "three channels": thrice,
        "four channels": np.dstack([thrice, opaque]),
        "png": stored(Image.fromarray(values)),
        "grey-alpha png": alpha_png(values, opaque),
        "tiff": stored(Image.fromarray(values), "TIFF"),
        "lzw tiff": stored(Image.fromarray(values), "TIFF", compression="tiff_lzw"),
        "big-endian tiff": tiff(values, order=">"),
        "signed tiff": tiff(values, extra=[(339, 3, 2)]) if values.max() < 32768 else values,
        "pgm": pgm(values),
        "plain pgm": pgm(values, plain=True),
        **colour_forms(thrice),
    }


def colour_forms(values):
    """Return a colour picture in every form of 16 bits."""
    opaque = np.full(values.shape[:2], 65535, np.uint16)
    return {
        "rgb array": values,
        "rgb png": cv(values, ".png"),
        "rgba png": cv(np.dstack([values, opaque]), ".png"),
        "rgb tiff": cv(values, ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 1),
        "rgb lzw tiff": cv(values, ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "rgb big-endian tiff": tiff(values, order=">", photometric=2),
        "ppm": pgm(values),
        "plain ppm": pgm(values, plain=True),
    }


@pytest.mark.parametrize("white", WHITE_LEVELS)
@pytest.mark.parametrize("forms", [grey_forms, colour_forms])
def test_every_form_gives_the_same_pixels_and_digest(forms, white):
    shape = (6, 5) if forms is grey_forms else (6, 5, 3)
    values = np.random.default_rng(white).integers(0, white + 1, shape, dtype=np.uint16)
    values.flat[0] = white
    expected = fit_array(np.rint(values * (255 / white)).astype(np.uint8), 5)
    with plain_image(values) as image:
        digest = image.digest()
    for form, payload in forms(values).items():
        assert np.abs(fit(payload, 5, white).astype(int) - expected).max() <= 1, form
        with plain_image(payload) as image:
            assert (image.digest(), image.largest) == (digest, white), form


@pytest.mark.parametrize("scale", [1, 257])
def test_a_picture_of_eight_bits_written_with_sixteen_is_its_duplicate(noise, scale):
    picture = noise(0, (6, 5, 3))
    digests = set()
    for payload in [
        picture,
        stored(Image.fromarray(picture)),
        *colour_forms(picture.astype(np.uint16) * scale).values(),
    ]:
        with plain_image(payload) as image:
            digests.add(image.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("maxval", [300, 1000, 4095, 65534])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_the_maxval_of_a_pgm_or_ppm_is_white(shape, maxval, plain):
    values = np.random.default_rng(0).integers(0, maxval + 1, shape).astype(np.uint16)
    values.flat[:2] = (0, maxval)
    with plain_image(pgm(values, maxval, plain=plain)) as image:
        pixels, largest = image.centre_square(4, white=255), image.largest
    assert largest is None
    assert np.abs(pixels - fit_array(np.rint(values * (255 / maxval)).astype(np.uint8), 4).astype(int)).max() <= 1


def test_twelve_bits_a_sample_in_a_tiff_are_white_at_4095():
    values = np.array([[0, 4095], [2048, 1024]], np.uint16)
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x04, 0x00])
    data = bytearray(tiff(np.zeros((1, 3), np.uint16)))
    data = bytes(data).replace(struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))
    for tag, value in ((256, 2), (257, 2), (278, 2)):
        old = 3 if tag == 256 else 1
        data = data.replace(struct.pack("<HHII", tag, 4, 1, old), struct.pack("<HHII", tag, 4, 1, value))
    with plain_image(data[: -len(packed)] + packed) as image:
        assert np.array_equal(image.picture.values, values)
        assert image.largest is None
        assert image.centre_square(2)[..., 0].tolist() == [[0, 255], [128, 64]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [4095, 65535])
def test_a_tiff_whose_zero_is_white_is_inverted(order, white):
    values = np.array([[0, white // 2], [white, white // 4]], np.uint16)
    inverted = decode(tiff(values, order=order, photometric=0), 2, white)
    assert np.array_equal(inverted, 255 - decode(tiff(values, order=order), 2, white))
    assert inverted[0, 0].tolist() == [255] * 3


def test_a_tiff_whose_zero_is_white_has_its_copies():
    values = np.array([[0, 9000], [65535, 4]], np.uint16)
    digests = set()
    for payload in (tiff(values, photometric=0), tiff(values, order=">", photometric=0), 65535 - values):
        with plain_image(payload) as image:
            digests.add(image.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_orientation_is_the_same_with_sixteen_bits_as_with_eight(noise, orientation, colours, kind):
    picture = noise(0, (5, 7, 3) if colours else (5, 7))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    shallow = stored(Image.fromarray(picture), kind, exif=exif)
    values = picture.astype(np.uint16) * 257
    if kind == "TIFF":
        deep = tiff(values, photometric=2 if colours else 1, extra=[(274, 3, orientation)])
    else:
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        plain = cv(values, ".png")
        deep = plain[:33] + chunk + plain[33:]
    for size in (5, 3):
        assert np.array_equal(decode(deep, size), decode(shallow, size))


def test_transparency_of_sixteen_bits_is_put_over_white():
    values = np.full((4, 4, 4), 1000, np.uint16)
    values[..., 3] = 0
    for payload in (values, cv(values, ".png"), alpha_png(values[..., 0], values[..., 3])):
        assert (fit(payload, 4, 4095) == 255).all()
    values[..., 3] = 65535
    for payload in (values, cv(values, ".png"), alpha_png(values[..., 0], values[..., 3])):
        assert (fit(payload, 4, 4095) == 62).all()


def test_transparency_that_runs_to_less_than_16_bits_is_refused():
    with pytest.raises(DataError, match="up to 4095, but 65535 is opaque"):
        fit_array(np.full((4, 4, 4), 4095, np.uint16), 4)


def test_a_named_transparent_grey_is_put_over_white():
    values = np.array([[7, 65535], [0, 7]], np.uint16)
    png = stored(Image.fromarray(values))
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 7)
    key += struct.pack(">I", zlib.crc32(key[4:]))
    assert decode(png[:33] + key + png[33:], 2)[..., 0].tolist() == [[255, 255], [0, 255]]


def test_values_above_the_white_level_of_a_model_are_refused():
    with pytest.raises(DataError, match="16-bit values up to 4096, but 4095 is white in the images that the model was"):
        fit_array(np.full((4, 4), 4096, np.uint16), 4, 4095)


def test_signed_values_below_zero_are_refused():
    with pytest.raises(DataError, match="signed 16-bit pixels below 0"):
        decode(tiff(np.full((2, 2), 40_000, np.uint16), extra=[(339, 3, 2)]), 2)


@pytest.mark.parametrize("cut", [1, 20])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_that_is_cut_short_is_refused(plain, cut):
    whole = pgm(np.full((9, 9), 40_000, np.uint16), plain=plain)
    with pytest.raises(DataError, match="truncated or damaged"):
        decode(whole[: -6 * cut], 4)


@pytest.mark.parametrize(
    ("largest", "white"),
    [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_the_white_level_is_the_next_bit_depth(largest, white):
    assert white_level(largest) == white


def test_the_note_names_the_grey_levels_that_remain():
    reached = reached_levels(Counter({3977: 12, 1000: 1, 60_000: 1, 4000: 2}))
    assert depth_note(reached, 65535) == (
        "images of 16 bits: values up to 1023 in 1, up to 4095 in 14, up to 65535 in 1; 65535 is taken for white; "
        "those up to 1023 keep 4 of 256 grey levels"
    )
    assert depth_note(Counter({4095: 3}), 4095) == "images of 16 bits: values up to 4095 in 3; 4095 is taken for white"


@pytest.fixture
def write_deep(tmp_path):
    """Return write_deep(kind, largest) -> a data set of ten pictures in each of two classes, in files of 16 bits."""

    def write(kind, largest, under="deep"):
        rng = np.random.default_rng(largest)
        values = rng.integers(0, largest + 1, (20, 12, 12), dtype=np.uint16)
        values[0, 0, 0] = largest
        if kind == "npz":
            np.savez(tmp_path / f"{under}.npz", images=values, labels=np.arange(20) % 2)
            return tmp_path / f"{under}.npz", values
        for number, picture in enumerate(values):
            file = tmp_path / under / "ab"[number % 2] / f"{number:03}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pgm(picture) if kind == "pgm" else stored(Image.fromarray(picture), kind.upper()))
        return tmp_path / under, values

    return write


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm", "npz"])
@pytest.mark.parametrize("largest", [255, 1000, 4095, 16383, 65535])
def test_the_largest_value_of_a_data_set_decides_its_white_level(write_deep, cache, kind, largest):
    path, values = write_deep(kind, largest)
    white = white_level(largest)
    whole = open_whole(path, image_size=12, cache=cache)
    for name, row in zip(whole.part.names, whole.part.indices, strict=True):
        number = int(name.split("[")[-1].rstrip("]")) if kind == "npz" else int(name[-len(kind) - 4 : -len(kind) - 1])
        assert np.array_equal(whole.part.images[row], fit_array(values[number], 12, white))
    assert any(f"{white} is taken for white" in note for note in whole.notes)
    assert len(np.unique(whole.part.images)) > 200
    dataset = open_dataset(path, image_size=8, cache=cache)
    assert dataset.white_level == white
    assert dataset.fingerprint == whole.fingerprint


def test_the_white_level_of_a_model_goes_before_that_of_a_data_set(write_deep, cache):
    path, values = write_deep("png", 1000)
    whole = open_whole(path, image_size=12, cache=cache, white_level=4095)
    assert np.array_equal(whole.part.images[whole.part.indices[0]], fit_array(values[0], 12, 4095))
    bright, _ = write_deep("png", 60_000, under="bright")
    with pytest.raises(DataError, match=r"images cannot be read, .*but 4095 is white in the images that the model was"):
        open_whole(bright, image_size=12, cache=cache, white_level=4095)


def test_eight_bits_have_no_white_level_and_one_pack(write_classes, cache):
    folder = write_classes({"a": 4, "b": 4})
    assert open_dataset(folder, image_size=16, cache=cache).white_level is None
    open_whole(folder, image_size=16, cache=cache, white_level=4095)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_an_inspection_of_some_images_names_the_same_white_level(write_deep):
    path, _ = write_deep("png", 4000)
    assert inspect_data(path).summary.notes == ("images of 16 bits: values up to 4095 in 20; 4095 is taken for white",)


def test_depth_and_pages_are_noted(write_deep, cache):
    path, _ = write_deep("png", 4000)
    pages = [Image.new("L", (8, 8), shade) for shade in (10, 20, 30)]
    pages[0].save(path / "a" / "stack.tif", save_all=True, append_images=pages[1:])
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        for file in path.rglob("*.*"):
            archive.write(file, file.relative_to(path))
    for source in (path, path.with_suffix(".zip")):
        notes = open_dataset(source, image_size=8, cache=cache).notes
        assert "only the first page or frame is taken of files that hold several: a/stack.tif (3)" in notes
        assert any(note.startswith("images of 16 bits: values up to 4095 in 20; 4095 is") for note in notes)


@pytest.fixture
def twelve_bits():
    return np.random.default_rng(0).integers(0, 4096, (6, 7, 3)).astype(np.uint16)


def pillow_forms(values):
    """Files of 16 bits that Pillow cannot load without a loss."""
    return {
        "png": cv(values, ".png"),
        "rgba.png": cv(np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)]), ".png"),
        "tiff": cv(values, ".tiff"),
        "ppm": pgm(values),
        "4095.ppm": pgm(values, 4095),
        "plain.ppm": pgm(values, plain=True),
        "4095.pgm": pgm(values[..., 0], 4095),
    }


@pytest.mark.parametrize("kind", [*pillow_forms(np.zeros((2, 2, 3), np.uint16))])
def test_a_picture_that_pillow_has_opened_is_prepared_as_its_file(tmp_path, twelve_bits, kind):
    data = pillow_forms(twelve_bits)[kind]
    (tmp_path / kind).write_bytes(data)
    for source in (tmp_path / kind, io.BytesIO(data)):
        picture = Image.open(source)
        assert np.array_equal(fit(picture, 6, 4095), decode(data, 6, 4095))
    opened = Image.open(io.BytesIO(data))
    fit(opened, 6, 4095)
    opened.load()  # the file stands where Pillow left it
    assert np.array_equal(np.asarray(opened), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", [*pillow_forms(np.zeros((2, 2, 3), np.uint16))])
def test_a_picture_that_pillow_has_loaded_with_a_loss_is_refused(tmp_path, twelve_bits, kind):
    (tmp_path / kind).write_bytes(pillow_forms(twelve_bits)[kind])
    picture = Image.open(tmp_path / kind)
    picture.load()
    with pytest.raises(DataError, match="of which Pillow keeps 8 bits when it loads them: give the path or the bytes"):
        fit(picture, 6, 4095)


def test_a_picture_of_eight_bits_that_pillow_has_loaded_is_taken(tmp_path, noise):
    for suffix in ("png", "ppm", "tiff", "jpg"):
        Image.fromarray(noise(0, (6, 7, 3))).save(tmp_path / f"a.{suffix}")
        picture = Image.open(tmp_path / f"a.{suffix}")
        picture.load()
        assert np.array_equal(fit(picture, 6), decode((tmp_path / f"a.{suffix}").read_bytes(), 6))

"""Drawing of one synthetic blood cell: a smear with red cells, the white cell of a class, and a photograph of it.

One table defines the eight classes by sizes, nuclei, granules and colours. Lengths in it are fractions of the image
side or, where stated, of the cell's radius. Colours are RGB in 0..255 under the reference stain; they follow the look
of a May-Grünwald-Giemsa smear. All drawing is antialiased, in fixed point, on a uint8 canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

Range = tuple[float, float]

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Nucleus:
    """Lobes on an arc around the cell's centre, joined by a bridge."""

    lobes: tuple[int, int]
    """The fewest and most lobes; one lobe is a round nucleus."""
    lobe_radius: Range
    """The radius of a lobe, as a fraction of the cell's radius."""
    arc_radius: Range
    """The distance of the lobes from the cell's centre, as a fraction of its radius; of one lobe, its eccentricity."""
    spread: Range
    """The angle between neighbouring lobes, in radians."""
    bridge: Range
    """The thickness of the bridge between lobes, as a fraction of a lobe's diameter: 0.2 is a thread, 1 a band."""
    ragged: float
    """The irregularity of the outline, as a fraction of its radius."""
    colour: Colour
    texture: float
    """The contrast of the chromatin, as a fraction of its colour."""


@dataclass(frozen=True)
class Granules:
    """Discs scattered over the cytoplasm."""

    count: tuple[int, int]
    radius: Range
    """A radius, as a fraction of the image side."""
    colour: Colour
    over_nucleus: bool = False


@dataclass(frozen=True)
class Anatomy:
    """One kind of cell."""

    radius: Range
    """A radius, as a fraction of the image side."""
    ragged: float
    """The irregularity of the outline, as a fraction of its radius."""
    cytoplasm: Colour
    nucleus: Nucleus | None
    granules: Granules | None
    vacuoles: int = 0
    """The most vacuoles."""


CHROMATIN = (72, 38, 108)

ANATOMIES: dict[str, Anatomy] = {
    "basophil": Anatomy(
        radius=(0.29, 0.39),
        ragged=0.03,
        cytoplasm=(176, 140, 182),
        nucleus=Nucleus((1, 2), (0.45, 0.6), (0.1, 0.4), (1.4, 2.2), (0.5, 1.0), 0.08, (98, 58, 128), 0.2),
        granules=Granules((110, 190), (0.011, 0.018), (58, 28, 92), over_nucleus=True),
    ),
    "eosinophil": Anatomy(
        radius=(0.30, 0.40),
        ragged=0.03,
        cytoplasm=(216, 160, 152),
        nucleus=Nucleus((2, 2), (0.34, 0.46), (0.38, 0.52), (1.4, 2.4), (0.2, 0.6), 0.06, CHROMATIN, 0.25),
        granules=Granules((120, 200), (0.011, 0.017), (190, 106, 96)),
    ),
    "erythroblast": Anatomy(
        radius=(0.19, 0.31),
        ragged=0.03,
        cytoplasm=(158, 142, 170),
        nucleus=Nucleus((1, 1), (0.46, 0.66), (0.0, 0.3), (0, 0), (1, 1), 0.03, (48, 26, 78), 0.25),
        granules=None,
    ),
    "immature granulocyte": Anatomy(
        radius=(0.31, 0.42),
        ragged=0.04,
        cytoplasm=(184, 150, 184),
        nucleus=Nucleus((1, 2), (0.52, 0.64), (0.22, 0.38), (0.9, 1.5), (0.9, 1.0), 0.05, (78, 40, 112), 0.3),
        granules=Granules((60, 130), (0.006, 0.010), (104, 50, 118)),
    ),
    "lymphocyte": Anatomy(
        radius=(0.22, 0.33),
        ragged=0.04,
        cytoplasm=(150, 148, 196),
        nucleus=Nucleus((1, 1), (0.8, 0.92), (0.0, 0.08), (0, 0), (1, 1), 0.04, (66, 36, 104), 0.3),
        granules=None,
    ),
    "monocyte": Anatomy(
        radius=(0.33, 0.44),
        ragged=0.10,
        cytoplasm=(158, 142, 178),
        nucleus=Nucleus((2, 3), (0.38, 0.5), (0.2, 0.36), (0.9, 1.5), (0.8, 1.0), 0.14, (84, 46, 116), 0.35),
        granules=None,
        vacuoles=6,
    ),
    "neutrophil": Anatomy(
        radius=(0.29, 0.39),
        ragged=0.03,
        cytoplasm=(226, 192, 190),
        nucleus=Nucleus((3, 5), (0.21, 0.28), (0.42, 0.56), (0.8, 1.2), (0.2, 0.7), 0.10, CHROMATIN, 0.25),
        granules=Granules((50, 120), (0.004, 0.008), (186, 132, 158)),
    ),
    "platelet": Anatomy(
        radius=(0.09, 0.17),
        ragged=0.10,
        cytoplasm=(186, 150, 184),
        nucleus=None,
        granules=Granules((15, 45), (0.008, 0.014), (112, 56, 128)),
    ),
}

Image = npt.NDArray[np.uint8]

Floats = npt.NDArray[np.float64]

CELL_CLASSES = tuple(ANATOMIES)
"""The names of the eight classes; the label is the position."""

_BACKGROUND = (250, 228, 204)

_RED_CELL = (212, 172, 164)

_VACUOLE = (222, 210, 222)

_FRACTION_BITS = 4

_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)

_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)

_HARMONICS = np.concatenate([[np.cos(k * _ANGLES) / k, np.sin(k * _ANGLES) / k] for k in range(2, 6)])


def draw_cell(label: int, seed: int, size: int = 96) -> Image:
    """Draw a cell of class `label` as (size, size, 3) uint8 RGB. The same arguments give the same bytes."""
    rng = np.random.default_rng([label, seed])
    canvas = _smear(rng, size)
    _draw_white_cell(canvas, rng, ANATOMIES[CELL_CLASSES[label]])
    return _photograph(canvas, rng)


def _smear(rng: np.random.Generator, size: int) -> Image:
    """Draw the background with red blood cells, a little out of focus."""
    canvas = np.full((size, size, 3), _BACKGROUND, np.uint8)
    for _ in range(rng.integers(2, 10)):
        _draw_red_cell(canvas, rng)
    return _blurred(canvas, 0.008 * size)


def _draw_red_cell(canvas: Image, rng: np.random.Generator) -> None:
    """Draw a disc with a paler middle, anywhere in the image."""
    size = len(canvas)
    centre = rng.uniform(-0.1, 1.1, 2) * size
    radius = rng.uniform(0.13, 0.19) * size
    rim = _jittered(_RED_CELL, rng, 10)
    _fill(canvas, _outline(rng, centre, radius, 0.06), rim)
    _fill(canvas, _outline(rng, centre, radius * rng.uniform(0.25, 0.5), 0.1), _between(rim, _BACKGROUND))


def _draw_white_cell(canvas: Image, rng: np.random.Generator, anatomy: Anatomy) -> None:
    """Draw cytoplasm, granules, nucleus and vacuoles, each over those before it."""
    size = len(canvas)
    centre = (0.5 + rng.uniform(-0.18, 0.18, 2)) * size
    radius = rng.uniform(*anatomy.radius) * size
    body = np.zeros((size, size), np.uint8)
    _fill(body, _outline(rng, centre, radius, anatomy.ragged), 255)
    _paint(canvas, body, _jittered(anatomy.cytoplasm, rng, 14), rng, texture=0.06)
    granules = anatomy.granules
    if granules and not granules.over_nucleus:
        _draw_granules(canvas, body, rng, granules, centre, radius)
    if anatomy.nucleus:
        _draw_nucleus(canvas, body, rng, anatomy.nucleus, centre, radius)
    if granules and granules.over_nucleus:
        _draw_granules(canvas, body, rng, granules, centre, radius)
    _draw_vacuoles(canvas, rng, anatomy.vacuoles, centre, radius)


def _draw_nucleus(
    canvas: Image, body: Image, rng: np.random.Generator, nucleus: Nucleus, centre: Floats, radius: float
) -> None:
    """Draw lobes along an arc and the bridge between them, never outside the cell's body."""
    lobes = int(rng.integers(*nucleus.lobes, endpoint=True))
    angles = rng.uniform(0, 2 * np.pi) + rng.uniform(*nucleus.spread) * np.arange(lobes)
    arc = rng.uniform(*nucleus.arc_radius) * radius
    places = centre + arc * np.stack([np.cos(angles), np.sin(angles)], 1)
    lobe_radius = rng.uniform(*nucleus.lobe_radius) * radius
    mask = np.zeros_like(body)
    for place in places:
        _fill(mask, _outline(rng, place, lobe_radius * rng.uniform(0.9, 1.1), nucleus.ragged), 255)
    thickness = max(1, round(rng.uniform(*nucleus.bridge) * 2 * lobe_radius))
    cv2.polylines(mask, [_fixed(places)], False, 255, thickness, cv2.LINE_AA, _FRACTION_BITS)
    _paint(canvas, np.minimum(mask, body), _jittered(nucleus.colour, rng, 8), rng, nucleus.texture)


def _draw_granules(
    canvas: Image, body: Image, rng: np.random.Generator, granules: Granules, centre: Floats, radius: float
) -> None:
    """Draw discs of slightly different shades inside the body."""
    size = len(canvas)
    count = int(rng.integers(*granules.count, endpoint=True))
    places = _random_points(rng, count, centre, 0.97 * radius)
    column, row = places.astype(np.intp).clip(0, size - 1).T
    inside = body[row, column] > 127
    radii = rng.uniform(*granules.radius, count) * size
    shades = granules.colour + rng.normal(0, 12, (count, 1))
    _dots(canvas, places[inside], radii[inside], shades[inside])


def _draw_vacuoles(canvas: Image, rng: np.random.Generator, most: int, centre: Floats, radius: float) -> None:
    """Draw up to `most` pale bubbles."""
    count = int(rng.integers(most, endpoint=True))
    radii = rng.uniform(0.012, 0.025, count) * len(canvas)
    _dots(canvas, _random_points(rng, count, centre, 0.9 * radius), radii, np.full((count, 3), _VACUOLE, np.float64))


def _photograph(canvas: Image, rng: np.random.Generator) -> Image:
    """Return the smear as a camera sees it: amount and tint of stain, lamp, white balance, focus, noise.

    Stain follows Beer and Lambert: transmitted light is `lamp * transmittance ** amount`, per channel.
    """
    size = len(canvas)
    amount = rng.uniform(0.5, 1.8) * rng.uniform(0.8, 1.2, 3)
    lamp = 255 * rng.uniform(0.65, 1.05) * rng.uniform(0.94, 1.04, 3)
    transmittance = np.arange(256)[:, None] / 255
    table = (lamp * transmittance**amount).clip(0, 255).astype(np.uint8)
    seen = cast(Image, cv2.LUT(canvas, table[:, None, :]))
    focused = _blurred(seen, rng.uniform(0.004, 0.012) * size)
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 7))
    noise += _shading(rng, size)
    noise += focused
    return noise.clip(0, 255).astype(np.uint8)


def _shading(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    """Return (size, size, 1) float32: a lamp off centre, as a linear ramp of grey levels."""
    across, down = rng.uniform(-14, 14, 2).astype(np.float32)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    return cast(npt.NDArray[np.float32], down * ramp[:, None, None] + across * ramp[:, None])


def _paint(canvas: Image, mask: Image, colour: Colour, rng: np.random.Generator, texture: float) -> None:
    """Blend `colour`, mottled by low-frequency noise of contrast `texture`, into the canvas under an 8-bit mask."""
    left, top, width, height = cv2.boundingRect(mask)
    coarse = rng.standard_normal((height // 3 + 1, width // 3 + 1), np.float32)
    mottle = 1 + texture * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    window = canvas[top : top + height, left : left + width]
    alpha = mask[top : top + height, left : left + width, None] / np.float32(255)
    paint = mottle[..., None] * np.array(colour, np.float32)
    window[:] = (window + alpha * (paint - window)).clip(0, 255)


def _outline(rng: np.random.Generator, centre: Floats, radius: float, ragged: float) -> Floats:
    """Return (40, 2) points of a circle bent by harmonics 2 (elongation) to 5 of random size and phase."""
    distance = radius * (1 + rng.normal(0, 1.4 * ragged, len(_HARMONICS)) @ _HARMONICS)
    return cast(Floats, centre + distance[:, None] * _CIRCLE)


def _random_points(rng: np.random.Generator, count: int, centre: Floats, radius: float) -> Floats:
    """Return (count, 2) points, uniform in a disc."""
    distance = radius * np.sqrt(rng.random(count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return centre + np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)


def _fixed(lengths: Floats) -> npt.NDArray[np.int32]:
    """Return pixels in OpenCV's fixed point."""
    return cast(npt.NDArray[np.int32], np.round(lengths * 2**_FRACTION_BITS).astype(np.int32))


def _fill(image: Image, points: Floats, colour: Colour | int) -> None:
    cv2.fillPoly(image, [_fixed(points)], colour, cv2.LINE_AA, _FRACTION_BITS)


def _dots(canvas: Image, places: Floats, radii: Floats, colours: Floats) -> None:
    """Draw filled discs: (n, 2) centres and (n,) radii in pixels, (n, 3) colours."""
    whole = np.maximum(_fixed(radii), 1).tolist()
    for place, radius, colour in zip(_fixed(places).tolist(), whole, colours.tolist(), strict=True):
        cv2.circle(canvas, place, radius, colour, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)


def _blurred(image: Image, sigma: float) -> Image:
    return cast(Image, cv2.GaussianBlur(image, (0, 0), sigma))


def _jittered(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    red, green, blue = (np.array(colour) + rng.normal(0, spread, 3)).clip(0, 255).astype(int).tolist()
    return (red, green, blue)


def _between(one: Colour, other: Colour) -> Colour:
    return ((one[0] + other[0]) // 2, (one[1] + other[1]) // 2, (one[2] + other[2]) // 2)

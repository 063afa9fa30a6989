"""What tells the eight kinds of synthetic blood cells apart: sizes, nuclei, granules and colours, as one table.

Lengths are fractions of the image side or, where said, of the cell's radius. Colours are RGB in 0..255 under the
reference stain; they follow the look of a May-Grünwald-Giemsa smear.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Nucleus:
    """Lobes on an arc around the cell's centre, joined by a bridge."""

    lobes: tuple[int, int]
    """Fewest and most lobes; one lobe is a round nucleus."""
    lobe_radius: Range
    """Of the cell's radius."""
    arc_radius: Range
    """Distance of the lobes from the cell's centre, of the cell's radius; of one lobe, its eccentricity."""
    spread: Range
    """Angle between neighbouring lobes, in radians."""
    bridge: Range
    """Thickness of the bridge between lobes, of a lobe's diameter: a thread of 0.2 to a band of 1."""
    ragged: float
    """Irregularity of the outline, of its radius."""
    colour: Colour
    texture: float
    """Contrast of the chromatin, of its colour."""


@dataclass(frozen=True)
class Granules:
    """Discs strewn over the cytoplasm."""

    count: tuple[int, int]
    radius: Range
    """Of the image side."""
    colour: Colour
    over_nucleus: bool = False


@dataclass(frozen=True)
class Anatomy:
    """One kind of cell."""

    radius: Range
    """Of the image side."""
    ragged: float
    """Irregularity of the outline, of its radius."""
    cytoplasm: Colour
    nucleus: Nucleus | None
    granules: Granules | None
    vacuoles: int = 0
    """Most vacuoles."""


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

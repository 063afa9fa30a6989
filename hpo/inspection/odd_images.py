"""Images that are broken, or unlike the others as images: blank, exposure, blur, size, shape, storage.

Everything is judged against the data set itself: an image counts as odd only if it lies far beyond the quartiles of all
images (Tukey 1977, with 3 interquartile ranges), far beyond those of its own class, and also differs from the median by
a factor that is seen at once. A set that is dark, grey or blurred as a whole is therefore normal for itself, and so
is a class. A kind of which there are many is a population and not an oddity: it becomes a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images
from hpo.data.findings import Finding
from hpo.data.signatures import ALPHA, CMYK, GREY, SIXTEEN_BIT, without_pictures
from hpo.inspection.inspected_data import InspectedData

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

WHITE = 255.0

FENCE = 3.0
"""Interquartile ranges beyond the quartiles from which a value is far out (Tukey 1977, Exploratory Data Analysis)."""

FEWEST = 12
"""Fewest images whose quartiles are trusted; of fewer, nothing is compared."""

FEWEST_OF_CLASS = 20
"""Fewest images of a class that is compared with itself too."""

MOST_SHARE = 0.1
"""The share of images above which a kind is a population of its own, and its images are not odd."""

MOST_OF_FEW = 3
"""As many images are always few enough to be odd."""

BLANK_CONTRAST = 2.0
"""Standard deviation of the luma, of 255, below which an image may be blank."""

BLANK_SHARE = 0.1
"""A blank image has also less than this share of the median contrast."""

BLANK_COLOUR = 4
"""Most levels between the darkest and the lightest pixel of a channel of a blank image's thumbnail, but for noise."""

GREY_SATURATION = 1.0
"""Mean difference of the channels, of 255, below which an image stored in colours shows grey."""


@dataclass(frozen=True)
class OddMeasure:
    """A quantity that was measured in all images, with the limits beyond which an image is far from the others."""

    name: str
    values: Values
    """float64 in `unit`, of the images that are not blank."""
    unit: str
    low: float | None
    """Values below are odd; None where low values are not judged."""
    high: float | None
    logarithmic: bool = False
    """Whether equal factors are equal distances."""


@dataclass(frozen=True)
class OddImages:
    """The odd images of a data set, the measures that were taken, and notes on kinds with many images."""

    findings: tuple[Finding, ...] = ()
    """One for each odd or unreadable image; reasons of one image are joined."""
    measures: tuple[OddMeasure, ...] = ()
    notes: tuple[str, ...] = ()
    rows: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """The rows of the findings of kind `odd`, in the order of these findings."""
    blank: int = 0
    """The number of blank images."""


@dataclass(frozen=True)
class _Oddity:
    """One kind of oddity, and the images that have it."""

    kind: str
    """The property of the images, as «are blank» after a number of images."""
    rows: Rows
    scores: Values
    reasons: Sequence[str]
    action: str = "keep"
    always: bool = False
    """Whether the images are odd in any number."""


@dataclass(frozen=True)
class _Rule:
    """How one quantity is judged."""

    name: str
    unit: str
    below: tuple[str, str]
    """For low values: what an image is («darker»), and what many are («are far darker»); "" for none."""
    above: tuple[str, str]
    factor: float
    """The factor to the median that an odd value has at least."""
    bounded: bool = False
    """Whether the quantity lies in 0 to 255, so that the distance to white counts as that to black."""

    def scale(self, values: Values | float) -> Any:
        """Return values on the scale on which distances are compared: logarithm, or log-odds of bounded values."""
        if not self.bounded:
            return np.log(np.maximum(values, 1e-6))
        share = np.clip(np.asarray(values) / WHITE, 1e-3, 1 - 1e-3)
        return np.log(share / (1 - share))

    def unscale(self, scaled: float) -> float:
        """Return the value of a place on that scale."""
        return float(WHITE / (1 + np.exp(-scaled)) if self.bounded else np.exp(scaled))

    def ratios(self, median: float) -> tuple[float, float]:
        """Return the scaled values that differ from the median by the factor, downwards and upwards."""
        above = WHITE - (WHITE - median) / self.factor if self.bounded else median * self.factor
        return float(self.scale(median / self.factor)), float(self.scale(above))


_BRIGHTNESS = _Rule(
    "brightness", "mean brightness", ("darker", "are far darker"), ("brighter", "are far brighter"), 2.5, bounded=True
)  # fmt: skip
_CONTRAST = _Rule("contrast", "contrast", ("lower in contrast", "have far less contrast"), ("", ""), 4.0)
_SHARPNESS = _Rule("sharpness", "sharpness", ("more blurred", "are far more blurred"), ("", ""), 12.0)
_SIDE = _Rule("short side", "shorter side", ("smaller", "are far smaller"), ("larger", "are far larger"), 2.0)
_ASPECT = _Rule("aspect", "ratio of the sides", ("", ""), ("more elongated", "are far more elongated"), 1.6)


def find_odd_images(data: InspectedData) -> OddImages:
    """Return the unreadable, blank and odd images of `data`, from its signatures alone.

    Blank and unreadable images get the action `drop`, others `keep`: being unlike the others is no fault in itself.
    """
    signatures = without_pictures(data.signatures)
    blank = _blank(signatures, data.signatures["thumb"])
    measures: list[OddMeasure] = []
    oddities = [_blank_oddity(blank, signatures)]
    shown = np.setdiff1d(np.arange(len(signatures)), blank)
    if len(shown) >= FEWEST:
        for rule, values in _quantities(signatures):
            measure, found = _judge(rule, values, data.labels, shown)
            measures.append(measure)
            oddities += found
    oddities += [replace(one, rows=shown[one.rows]) for one in _stored_otherwise(signatures[shown])]
    odd, notes = _sorted_out(oddities, data)
    unreadable = tuple(
        Finding(image.name, "unreadable", "", 1.0, "drop", f"cannot be read: {image.reason}")
        for image in data.unreadable
    )
    rows, findings = _merged(odd, data.names)
    return OddImages(unreadable + findings, tuple(measures), tuple(notes), rows, len(blank))


def _quantities(signatures: npt.NDArray[Any]) -> Iterator[tuple[_Rule, Values]]:
    """Yield each rule with its values (n,)."""
    width, height = (signatures[side].astype(np.float64) for side in ("width", "height"))
    contrast = np.maximum(signatures["contrast"].astype(np.float64), 1e-3)
    yield _BRIGHTNESS, signatures["brightness"].astype(np.float64)
    yield _CONTRAST, contrast
    # Divided by the squared contrast, the variance of the Laplacian is that of the picture at one contrast.
    yield _SHARPNESS, signatures["sharpness"].astype(np.float64) / contrast**2
    yield _SIDE, np.minimum(width, height)
    yield _ASPECT, np.maximum(width, height) / np.maximum(np.minimum(width, height), 1)


def _blank(signatures: npt.NDArray[Any], thumbs: Images) -> Rows:
    """Return the rows of images with one colour: no contrast, of itself and beside the others, and no colours."""
    if not len(signatures):
        return np.zeros(0, dtype=np.int64)
    contrast = signatures["contrast"].astype(np.float64)
    limit = min(BLANK_CONTRAST, BLANK_SHARE * float(np.median(contrast)))
    rows = np.flatnonzero((contrast < limit) | (contrast < 1e-3))
    if len(rows):
        # Noise and a speck move single pixels: 2 % of them at each end do not count.
        pixels = thumbs[rows].reshape(len(rows), -1, 3)
        low, high = np.quantile(pixels, [0.02, 0.98], axis=1)
        rows = rows[(high - low).max(axis=1) <= BLANK_COLOUR]
    return rows.astype(np.int64)


def _blank_oddity(rows: Rows, signatures: npt.NDArray[Any]) -> _Oddity:
    reasons = [
        f"blank: one colour, mean brightness {signatures['brightness'][row]:.0f} of 255 and contrast "
        f"{signatures['contrast'][row]:.1f}; nothing can be learned from it"
        for row in rows
    ]
    return _Oddity("are blank", rows, np.ones(len(rows)), reasons, "drop", always=True)


def _judge(rule: _Rule, values: Values, labels: Rows, shown: Rows) -> tuple[OddMeasure, list[_Oddity]]:
    """Return the measure with its limits, and the images beyond the limits of all images and of their class."""
    scaled = rule.scale(values)
    low, high = _limits(rule, scaled[shown])
    middle = float(np.median(scaled[shown]))
    lows, highs = np.full(len(values), low), np.full(len(values), high)
    for label in np.unique(labels[shown]):
        members = shown[labels[shown] == label]
        if len(members) >= FEWEST_OF_CLASS:
            own_low, own_high = _limits(rule, scaled[members])
            lows[members], highs[members] = np.minimum(low, own_low), np.maximum(high, own_high)
    found = []
    usual = _usual(rule, values[shown])
    for words, limit, beyond in ((rule.below, low, scaled < lows), (rule.above, high, scaled > highs)):
        rows = np.intersect1d(np.flatnonzero(beyond), shown)
        if words[0] and len(rows):
            scores = _scores(scaled[rows] - middle, limit - middle)
            reasons = [
                f"{words[0]} than the others: {rule.unit} {_number(values[row])}, where {usual} and the limit is "
                f"{_number(rule.unscale(limit))}; {_surety(score)}"
                for row, score in zip(rows, scores, strict=True)
            ]
            found.append(_Oddity(words[1], rows, scores, reasons))
    drawn = [rule.unscale(limit) if words[0] else None for words, limit in ((rule.below, low), (rule.above, high))]
    return OddMeasure(rule.name, values[shown], rule.unit, drawn[0], drawn[1], not rule.bounded), found


def _limits(rule: _Rule, scaled: Values) -> tuple[float, float]:
    """Return the scaled limits: beyond the fence of the quartiles and beyond the factor to the median."""
    first, median, third = np.quantile(scaled, [0.25, 0.5, 0.75])
    reach = FENCE * (third - first)
    low, high = rule.ratios(rule.unscale(float(median)))
    return min(float(first - reach), low), max(float(third + reach), high)


def _usual(rule: _Rule, values: Values) -> str:
    first, third = np.quantile(values, [0.25, 0.75])
    low, high = _number(first), _number(third)
    return f"at least half have {low}" if low == high else f"half have {low} to {high}"


def _scores(distance: Values, limit: float) -> Values:
    """Return scores in [0.5, 1): 0.5 at the limit, and nearer to 1 the farther beyond."""
    return np.asarray(1 - 0.5 / np.maximum(distance / limit, 1.0) ** 2, dtype=np.float64)


def _surety(score: float) -> str:
    """Return how sure it is that the image is unlike the others, in words."""
    return "clearly unlike them" if score >= 0.8 else "probably unlike them" if score >= 0.65 else "a borderline case"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 20 else f"{value:.2g}"


def _stored_otherwise(signatures: npt.NDArray[Any]) -> Iterator[_Oddity]:
    """Yield the images that are stored in another way than the others, for each way."""
    mode, count = signatures["mode"], len(signatures)
    grey = ((mode & GREY) != 0) | (signatures["saturation"] < GREY_SATURATION)
    pages, turned = signatures["pages"] > 1, signatures["orientation"] > 1
    if count and grey.mean() > 0.5:
        yield _facts("are in colour among grey ones", ~grey, "in colour, where the others are grey")
    else:
        yield _facts("are grey among coloured ones", grey, "grey, where the others are in colour")
    yield _facts("are CMYK", (mode & CMYK) != 0, "stored in CMYK for printing, shown here as RGB: colours may be off")
    yield _facts("have alpha", (mode & ALPHA) != 0, "has transparent parts, which are read as white")
    yield _facts("have 16 bits", (mode & SIXTEEN_BIT) != 0, "has 16 bits, of which 8 are used")
    yield _facts("have several pages", pages, "holds several pages or frames, of which only the first is used")
    yield _facts(
        "are turned by EXIF", turned,
        "stored turned, and read upright by its EXIF mark; a program that does not read the mark sees it turned",
    )  # fmt: skip


def _facts(kind: str, has: npt.NDArray[np.bool_], reason: str) -> _Oddity:
    """Return the images with a property that is certain; the rarer it is, the higher the score."""
    rows = np.flatnonzero(has).astype(np.int64)
    share = len(rows) / max(1, len(has))
    return _Oddity(kind, rows, np.full(len(rows), 1 - min(0.5, 5 * share)), [f"{reason}; that is certain"] * len(rows))


def _sorted_out(oddities: Sequence[_Oddity], data: InspectedData) -> tuple[list[_Oddity], list[str]]:
    """Return the oddities with few images, and a note for each with many."""
    count = len(data.names)
    most = max(MOST_OF_FEW, MOST_SHARE * count)
    odd, notes = [], []
    for one in oddities:
        if one.always or len(one.rows) <= most:
            odd.append(one)
        else:
            notes.append(
                f"{len(one.rows):,} of {count:,} images {one.kind}: too many to be odd ones; {_where(one, data)}"
            )
    return [one for one in odd if len(one.rows)], notes


def _where(one: _Oddity, data: InspectedData) -> str:
    """Return how a population lies over the classes: a class that can be told by it is a warning."""
    labels = data.labels[one.rows]
    counts = np.bincount(labels, minlength=len(data.classes))
    shares = counts / np.maximum(np.bincount(data.labels, minlength=len(data.classes)), 1)
    largest = int(counts.argmax())
    if counts[largest] >= 0.9 * len(labels) and shares[largest] >= 0.5 and len(data.classes) > 1:
        return (
            f"{counts[largest]:,} of them are of class {data.classes[largest]}, so a model may learn this in place of "
            "what the images show"
        )
    touched = counts > 0
    return (
        f"they lie in {touched.sum():,} of {len(data.classes):,} classes, from {_percent(shares[touched].min())} of a "
        f"class to {_percent(shares.max())}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _merged(oddities: Sequence[_Oddity], names: Sequence[str]) -> tuple[Rows, tuple[Finding, ...]]:
    """Return one finding for each odd image, the surest first; the first reason is the surest."""
    found: dict[int, list[tuple[float, str, str]]] = {}
    for one in oddities:
        for row, score, reason in zip(one.rows.tolist(), one.scores.tolist(), one.reasons, strict=True):
            found.setdefault(row, []).append((score, reason, one.action))
    merged = []
    for row, reasons in found.items():
        reasons.sort(key=lambda item: -item[0])
        action = "drop" if any(item[2] == "drop" for item in reasons) else "keep"
        text = "; also ".join(item[1] for item in reasons)
        merged.append((row, Finding(names[row], "odd", "", round(reasons[0][0], 4), action, text)))
    merged.sort(key=lambda item: (-item[1].score, item[1].file))
    return np.array([row for row, _ in merged], dtype=np.int64), tuple(finding for _, finding in merged)

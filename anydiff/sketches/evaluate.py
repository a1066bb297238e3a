r"""What generated sketches are worth.

Two kinds of figures, both against a reference, real sketches that weren't learnt from:

- On features of their pictures (:mod:`anydiff.sketches.features`; 64 × 64 pixels, a pen of a
  28th of the side, each centred and scaled): the Fréchet distance, MMD, precision, recall, density,
  coverage, and the ratio of distances to the nearest training sketch, which falls below 1 where
  sketches are copied (:mod:`anydiff.metrics.distances`).
- On the strokes: Jensen–Shannon distances of histograms, 0 to 1, of what `statistics` measures.

No figure means much alone. Let a floor and a ceiling be rows of the table: other real sketches, of as
many as the reference has, and `noise_sketches`. Held-out sketches (validation against test) are the
floor of what can be reached; training against held-out ones lie a little higher, as the features know
them. The Fréchet and Jensen–Shannon distances of smaller samples are larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from anydiff.metrics.distances import frechet, jensen_shannon, mmd, nearest_ratio, precision_recall
from anydiff.metrics.tables import MATCHES, Column, rendered
from anydiff.sketches.features import SketchFeatures
from anydiff.sketches.geometry import resample, simplify
from anydiff.sketches.pictures import rasterize
from anydiff.sketches.sketches import Sketches, as_stroke

__all__ = [
    "Differences",
    "SketchReport",
    "chamfer",
    "evaluate",
    "noise_sketches",
    "statistics",
    "table",
]

AnySketches = Sketches | Sequence[Sequence[np.ndarray]]

_SPACING = 0.05  # of the sketch's longer side, where turning is measured
_TOLERANCE = 0.01  # of the longer side, for the points that a drawing needs
_NEIGHBOURS = 5
_NAN = math.nan


# statistics --------------------


def statistics(sketches: Sketches) -> dict[str, np.ndarray]:
    """Numbers of the strokes, each sketch scaled so that the longer side of its box is 1.

    Returns:
        `strokes` (M,): how many.
        `points` (M,): how many the drawing needs, to a hundredth of its size (Ramer–Douglas–Peucker), so
        that sampling more densely changes nothing, and a trembling hand shows.
        `length` (S,): of each stroke, along it; `ink` (M,): the sum over a sketch.
        `turning` (any,): the angle in (−π, π] by which the pen turns, clockwise positive, at steps of
        0.05 along each stroke; strokes shorter than two steps have none.
        `pen_up` (M,): the way between strokes over all the way, in [0, 1).
        `aspect` (M,): width over width plus height, in [0, 1].
    """
    sizes, counts = np.diff(sketches.strokes), np.diff(sketches.offsets)
    owner = np.repeat(np.arange(len(sketches)), counts)
    stroke = np.repeat(np.arange(len(sizes)), sizes)
    points, side = _canonical(sketches)

    unit = Sketches(points, sketches.strokes, sketches.offsets)
    needed = np.diff(simplify(unit, _TOLERANCE).strokes)

    step = np.diff(points, axis=0, prepend=points[:1])
    way = np.hypot(*step.T)
    first = np.zeros(len(points), bool)
    first[sketches.strokes[:-1]] = True
    length = np.bincount(stroke, np.where(first, 0, way), len(sizes))
    ink = np.bincount(owner, length, len(sketches))
    travel = way[sketches.strokes[:-1]]
    travel[sketches.offsets[:-1]] = 0  # from the sketch before
    travel = np.bincount(owner, travel, len(sketches))
    return {
        "strokes": counts,
        "points": np.bincount(owner, needed, len(sketches)).astype(np.int64),
        "length": length,
        "ink": ink,
        "turning": _turning(points, np.where(first, 0, way), stroke, length),
        "pen_up": travel / np.maximum(travel + ink, 1e-12),
        "aspect": side[:, 0] / np.maximum(side.sum(1), 1e-12),
    }


def _canonical(sketches: Sketches) -> tuple[np.ndarray, np.ndarray]:
    """Points on the scale where the longer side is 1, and the sides (M, 2) on it."""
    low, high = sketches.box
    span = (high - low).max(1, keepdims=True)
    span = np.where(span > 0, span, 1.0)
    points = sketches.points - low.repeat(sketches.sizes, 0)
    return points / span.repeat(sketches.sizes, 0), (high - low) / span


def _turning(
    points: np.ndarray, way: np.ndarray, stroke: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Angles between steps of equal length along each stroke.

    All strokes lie behind one another on one axis, a step apart, so that one interpolation serves.
    """
    along = np.cumsum(way) + stroke  # a stroke of its own unit of the axis: none touches the next
    start = along[np.searchsorted(stroke, np.arange(len(length)))]
    steps = np.floor(length / _SPACING + 1e-9).astype(np.int64)
    k = np.arange((steps + 1).sum()) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    of = np.repeat(np.arange(len(length)), steps + 1)
    at = start[of] + np.minimum(k * _SPACING, length[of])
    x, y = (np.interp(at, along, c) for c in points.T)
    dx, dy = np.diff(x), np.diff(y)
    inner = (of[2:] == of[:-2]).nonzero()[0]
    a, b = np.stack([dx, dy])[:, inner], np.stack([dx, dy])[:, inner + 1]
    return np.arctan2(a[0] * b[1] - a[1] * b[0], (a * b).sum(0))


def noise_sketches(reference: Sketches, seed: int = 0) -> Sketches:
    """The ceiling: sketches with the reference's counts of strokes and points, and normal noise for
    points, as wide as the reference's points lie about their sketches' middles."""
    points = reference.points.astype(np.float64)
    sums = np.add.reduceat(points, reference.strokes[reference.offsets[:-1]])
    middle = sums / reference.sizes[:, None]
    spread = np.sqrt(((points - middle.repeat(reference.sizes, 0)) ** 2).mean(0))
    noise = np.random.default_rng(seed).standard_normal(points.shape) * spread
    return Sketches(noise, reference.strokes, reference.offsets, name="noise")


def chamfer(sketches: Sketches, reference: Sketches, spacing: float) -> np.ndarray:
    r"""How far the ink of each sketch is from that of its reference, (M,), in the sketches' units.

    .. math:: \frac{1}{2} \Bigl( \frac{1}{|A|} \sum_{a \in A} \min_{b \in B} |a - b|
              + \frac{1}{|B|} \sum_{b \in B} \min_{a \in A} |a - b| \Bigr)

    A and B are points along the strokes; how the ink is cut into strokes, their order and their
    directions change nothing.

    Arguments:
        reference: What they should be, sketch for sketch.
        spacing: Between the points, at most; distances below it are rounded up by a part of it.
    """
    if len(sketches) != len(reference):
        raise ValueError(
            f"there are {len(sketches)} sketches and {len(reference)} to compare with; give as many."
        )
    points = []
    for drawn in (sketches, reference):
        even = resample(drawn, spacing=spacing)
        parts = np.split(even.points, even.strokes[even.offsets[1:-1]])
        points.append([torch.from_numpy(p.astype(np.float64)) for p in parts])
    found = []
    for a, b in zip(*points, strict=True):
        away = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # exact at 0
        found.append((away.amin(1).mean() + away.amin(0).mean()) / 2)
    return np.array([float(d) for d in found])


@dataclass(frozen=True)
class Differences:
    """Jensen–Shannon distances of `statistics`, to base 2, 0 (same) to 1 (nothing in common).

    Bins lie between quantiles of the reference, tenths for what a sketch has one of and twentieths for
    `length`, and one on either side of all of them. Those of `turning` are 24 of 15°.
    """

    strokes: float = _NAN
    points: float = _NAN
    length: float = _NAN
    ink: float = _NAN
    turning: float = _NAN
    pen_up: float = _NAN
    aspect: float = _NAN


def _differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Differences:
    def distance(name: str) -> float:
        if name == "turning":
            cuts = np.linspace(-np.pi, np.pi, 25)[1:-1]
        else:
            parts = 20 if name == "length" else 10
            cuts = np.quantile(theirs[name], np.arange(parts + 1) / parts)
            cuts = np.unique(np.append(cuts[:-1], np.nextafter(cuts[-1], np.inf)))
        counts = [
            np.bincount(np.searchsorted(cuts, s[name], side="right"), minlength=len(cuts) + 1)
            for s in (ours, theirs)
        ]
        if min(c.sum() for c in counts) == 0:
            return _NAN
        return jensen_shannon(*(torch.from_numpy(c) for c in counts))

    return Differences(**{field.name: distance(field.name) for field in fields(Differences)})


# the report --------------------


@dataclass(frozen=True)
class SketchReport:
    """One row of figures; what couldn't be measured is nan, what wasn't asked for None.

    Arguments:
        num, valid: Sketches, and those that can be drawn: finite, and not all one point. The other
            figures are of these alone.
        frechet: Fréchet distance of the features.
        mmd: Squared maximum mean discrepancy of the features, unbiased.
        strokes: Distances of the strokes' statistics.
        nearest: Distance to the nearest training sketch, over that of a reference sketch.
        nfe: Network calls for a sketch.
        seconds: Seconds for a sketch.
    """

    name: str
    num: int
    valid: int
    frechet: float = _NAN
    mmd: float = _NAN
    precision: float = _NAN
    recall: float = _NAN
    density: float = _NAN
    coverage: float = _NAN
    strokes: Differences = Differences()
    nearest: float | None = None
    nfe: int | None = None
    seconds: float | None = None

    @property
    def validity(self) -> float:
        """The share that can be drawn."""
        return self.valid / self.num if self.num else _NAN


def evaluate(
    sketches: AnySketches,
    reference: Sketches,
    train: Sketches | None = None,
    *,
    name: str = "",
    nfe: int | None = None,
    seconds: float | None = None,
) -> SketchReport:
    """All figures of some sketches.

    Arguments:
        sketches: What was generated; as lists of strokes (n, 2) they may hold what isn't finite.
        reference: Real sketches that weren't learnt from.
        train: The sketches learnt from, for the ratio of nearest distances.
        nfe, seconds: Network calls and seconds for a sketch, to be shown in the table.
    """
    num = len(sketches)
    sound, real = _sound(sketches), _sound(reference)
    least = _NEIGHBOURS + 1
    if len(real) < least:
        raise ValueError(f"the reference has {len(real)} sketches to draw; give {least} or more.")
    if len(sound) < least:
        return SketchReport(name, num, len(sound), nfe=nfe, seconds=seconds)
    x, y = _features(sound), _features(real)
    return SketchReport(
        name,
        num,
        len(sound),
        frechet(x, y),
        mmd(x, y),
        *precision_recall(x, y, _NEIGHBOURS),
        _differences(statistics(sound), statistics(real)),
        None if train is None else nearest_ratio(x, _features(_sound(train)), y),
        nfe,
        seconds,
    )


def _sound(sketches: AnySketches) -> Sketches:
    """The sketches that can be drawn."""
    if not isinstance(sketches, Sketches):
        arrays = [[as_stroke(s, "a stroke") for s in sketch] for sketch in sketches]
        kept = [[s for s in sketch if len(s)] for sketch in arrays]
        kept = [sketch for sketch in kept if sketch and all(np.isfinite(s).all() for s in sketch)]
        sketches = Sketches.from_lists(kept)
    if len(sketches) == 0:
        return sketches
    low, high = sketches.box
    with np.errstate(over="ignore"):
        span = (high - low).max(1)
    far = np.maximum(np.abs(low), np.abs(high)).max(1)
    drawable = (span > 1e-12 * far) & (span > 1e-30) & (span < 1e30)
    return sketches if drawable.all() else sketches.subset(drawable)


@lru_cache(maxsize=4)  # a reference and a training set serve many rows; sketches hash by identity
def _features(sketches: Sketches) -> Tensor:
    return _network().features(rasterize(sketches, SketchFeatures.side))


@lru_cache(maxsize=1)
def _network() -> SketchFeatures:
    return SketchFeatures.load()


# the table --------------------

_FIGURES = [
    Column("", "name"),
    Column("n", "num", ","),
    Column("valid", "validity", ".3f"),
    Column("Fréchet↓", "frechet", ".2f"),
    Column("MMD↓", "mmd", ".2f", 1000),
    *MATCHES,
]
_STATISTICS = [
    Column("JS distance of ↓", "name"),
    *(Column(f.name.replace("_", "-"), f"strokes.{f.name}", ".3f") for f in fields(Differences)),
]


def table(reports: Sequence[SketchReport]) -> str:
    """The reports as two aligned blocks, and what they were measured with; – where nothing was.

    Let a floor and a ceiling be among the rows.
    """
    side = SketchFeatures.side
    caption = (
        f"features {SketchFeatures.sha256[:12]}, {side} × {side} pixels, pen 1/28; MMD × 1000; "
        f"k = {_NEIGHBOURS}; near: 1 as unseen data, 0 copies;\n↓ lower is better, ↑ higher; calls of "
        "the network and seconds for a sketch. Compare rows of equally many."
    )
    return "\n\n".join([rendered(reports, _FIGURES), rendered(reports, _STATISTICS), caption])

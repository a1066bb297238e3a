r"""Quality metrics of generated sketches.

There are two kinds of metrics, both relative to a reference, real sketches that are not training data:

- Of features of their pictures (:mod:`anydiff.sketches.features`; 64 × 64 pixels, a pen of a 28th of
  the side, each sketch centred and scaled): the Fréchet distance, MMD, precision, recall, density,
  coverage, and the ratio of distances to the nearest training sketch, which falls below 1 if training
  sketches are copied (:mod:`anydiff.metrics.distances`).
- Of the strokes: Jensen–Shannon distances, from 0 to 1, of histograms of what `statistics` measures.

Figures are meaningful only in comparison. Put a lower and an upper bound into the table: other real
sketches, as many as the reference has, and `noise_sketches`. Held-out sketches (validation against
test) are the lower bound; training against held-out sketches are a little higher, since the features
were trained on them. The Fréchet and Jensen–Shannon distances of smaller samples are larger.
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
from anydiff.sketches.sketches import Sketches, as_stroke, check_some

__all__ = [
    "Differences", "SketchReport", "chamfer", "evaluate", "noise_sketches", "statistics", "table",
]  # fmt: skip

AnySketches = Sketches | Sequence[Sequence[np.ndarray]]

_SPACING = 0.05  # of the sketch's longer side, where turning is measured
_TOLERANCE = 0.01  # of the longer side, for the points that a sketch needs
_NEIGHBOURS = 5
_NAN = math.nan


# statistics --------------------


def statistics(sketches: Sketches) -> dict[str, np.ndarray]:
    """Statistics of the strokes, with each sketch scaled so that the longer side of its box is 1.

    Arguments:
        sketches: What to measure.

    Returns:
        `strokes` (M,): the number of strokes.
        `points` (M,): how many points the sketch needs, to a hundredth of its size
        (Ramer–Douglas–Peucker). Denser points along the same lines do not change it; jitter does.
        `length` (S,): the length of each stroke; `ink` (M,): the sum over a sketch.
        `turning` (any,): the angle in (−π, π] by which the pen turns, clockwise positive, at steps of
        0.05 along each stroke; strokes shorter than two steps have none.
        `pen_up` (M,): the distance between strokes, as a share of the whole path of the pen, in [0, 1).
        `aspect` (M,): width over width plus height, in [0, 1].

    Raises:
        ValueError: There are no sketches.
    """
    check_some(sketches)
    sizes, counts = sketches.stroke_sizes, sketches.counts
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

    All strokes are put on one axis, one after the other, so that one interpolation serves all.
    """
    along = np.cumsum(way) + stroke  # with a gap of 1 between strokes
    start = along[np.searchsorted(stroke, np.arange(len(length)))]
    steps = np.floor(length / _SPACING + 1e-9).astype(np.int64)
    k = np.arange((steps + 1).sum()) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    of = np.repeat(np.arange(len(length)), steps + 1)
    at = start[of] + np.minimum(k * _SPACING, length[of])
    x, y = (np.interp(at, along, c) for c in points.T)
    dx, dy = np.diff(x), np.diff(y)
    inner = (of[2:] == of[:-2]).nonzero()[0]
    a, b = np.stack([dx, dy])[:, inner], np.stack([dx, dy])[:, inner + 1]
    angles: np.ndarray = np.arctan2(a[0] * b[1] - a[1] * b[0], (a * b).sum(0))
    return angles


def noise_sketches(reference: Sketches, seed: int = 0) -> Sketches:
    """Sketches of normal noise: the upper bound of the distances.

    They have the numbers of strokes and points of the reference. The noise has the spread of the
    reference's points about the means of their sketches.

    Arguments:
        reference: Real sketches.
        seed: Of the noise.

    Raises:
        ValueError: There are no sketches.
    """
    check_some(reference)
    points = reference.points.astype(np.float64)
    sums = np.add.reduceat(points, reference.strokes[reference.offsets[:-1]])
    middle = sums / reference.sizes[:, None]
    spread = np.sqrt(((points - middle.repeat(reference.sizes, 0)) ** 2).mean(0))
    noise = np.random.default_rng(seed).standard_normal(points.shape) * spread
    return Sketches(noise, reference.strokes, reference.offsets, name="noise")


def chamfer(sketches: Sketches, reference: Sketches, spacing: float) -> np.ndarray:
    r"""The distance between the ink of each sketch and that of its reference.

    .. math:: \frac{1}{2} \Bigl( \frac{1}{|A|} \sum_{a \in A} \min_{b \in B} |a - b|
              + \frac{1}{|B|} \sum_{b \in B} \min_{a \in A} |a - b| \Bigr)

    A and B are points along the strokes. The cuts between strokes, their order and their directions
    do not matter.

    Arguments:
        sketches: What to measure.
        reference: As many sketches, each the reference of one.
        spacing: The largest distance of the points. Distances of this size or smaller are overestimated
            by a part of it.

    Returns:
        (M,), in the units of the sketches.

    Raises:
        ValueError: The numbers of sketches differ.
    """
    if len(sketches) != len(reference):
        raise ValueError(
            f"{len(sketches)} sketches and {len(reference)} to compare; give equally many."
        )
    if len(sketches) == 0:
        return np.empty(0)
    points = []
    for drawn in (sketches, reference):
        even = resample(drawn, spacing=spacing)
        parts = np.split(even.points, even.strokes[even.offsets[1:-1]])
        points.append([torch.from_numpy(p.astype(np.float64)) for p in parts])
    return np.array([_apart(a, b) for a, b in zip(*points, strict=True)])


def _apart(a: Tensor, b: Tensor) -> float:
    """The mean distance of points to the nearest of the others, in blocks of 32 MB."""
    from_a, from_b = [], torch.full((len(b),), math.inf, dtype=b.dtype)
    for part in torch.split(a, max(2**22 // len(b), 1)):
        away = torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist")  # exact at 0
        from_a.append(away.amin(1))
        from_b = torch.minimum(from_b, away.amin(0))
    return float((torch.cat(from_a).mean() + from_b.mean()) / 2)


@dataclass(frozen=True)
class Differences:
    """Jensen–Shannon distances of `statistics`, to base 2, from 0 (equal) to 1 (disjoint).

    Bins are cut at quantiles of the reference, at tenths for what each sketch has one value of, and at
    twentieths for `length`; one bin more lies on either side. `turning` has 24 bins of 15°.

    Arguments:
        strokes: Of the number of strokes.
        points: Of the number of points that a sketch needs.
        length: Of the length of a stroke.
        ink: Of the length of all strokes of a sketch.
        turning: Of the angles by which the pen turns.
        pen_up: Of the share of the path between strokes.
        aspect: Of the aspect.
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
    """The metrics of some sketches; nan if a metric could not be measured, None if it was not requested.

    Arguments:
        name: What the table calls the sketches.
        num: How many sketches.
        valid: How many of them can be drawn: their points are finite and do not all coincide. The
            other metrics are of these alone.
        frechet: Fréchet distance of the features.
        mmd: Squared maximum mean discrepancy of the features, unbiased.
        precision: See :func:`~anydiff.metrics.distances.precision_recall`.
        recall: Likewise.
        density: Likewise.
        coverage: Likewise.
        strokes: Distances of the statistics of the strokes.
        nearest: Distance to the nearest training sketch, relative to that of a reference sketch.
        nfe: Network calls per sketch.
        seconds: Seconds per sketch.
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
    """Measure all metrics of some sketches.

    Arguments:
        sketches: What was generated. As lists of strokes (n, 2) they may have points that are not
            finite.
        reference: Real sketches that are not training data.
        train: The training data, for the ratio of nearest distances.
        name: What the table calls the sketches.
        nfe: Network calls per sketch, for the table.
        seconds: Seconds per sketch, for the table.

    Raises:
        ValueError: The reference has fewer than 6 sketches that can be drawn.
    """
    num = len(sketches)
    sound, real = _sound(sketches), _sound(reference)
    least = _NEIGHBOURS + 1
    if len(real) < least:
        raise ValueError(f"the reference has {len(real)} drawable sketches; give {least} or more.")
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
    parts = np.array_split(np.arange(len(sketches)), max(-(-len(sketches) // 1000), 1))
    pictures = (rasterize(sketches.subset(part), SketchFeatures.side) for part in parts)
    return torch.cat([_network().features(some) for some in pictures])


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
    """Reports as two aligned blocks with a caption; – marks what was not measured.

    Arguments:
        reports: The rows, among them a lower and an upper bound.
    """
    side = SketchFeatures.side
    caption = (
        f"features {SketchFeatures.sha256[:12]}, {side} × {side} pixels, pen 1/28; MMD × 1000; "
        f"k = {_NEIGHBOURS}; near: 1 as for unseen data, 0 for copies;\n↓ lower is better, ↑ higher; "
        "network evaluations and seconds are per sketch. Compare rows with equal n."
    )
    return "\n\n".join([rendered(reports, _FIGURES), rendered(reports, _STATISTICS), caption])

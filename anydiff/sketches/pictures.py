r"""Pictures of sketches: arrays for networks, single pictures and grids.

One renderer serves all: a stroke is the set of points within half a pen's width of its line, so that
joins and caps are round and a stroke of a single point is a dot. The ink of a pixel is the share of it
that the pen covers, from the distance of its middle to the line. So lines are antialiased without a
larger picture, and do not depend on the version of a graphics library. Pillow only writes the files.

x runs to the right and y down, as everywhere. Pictures are square; unless a box is given, each sketch
is centred and scaled to fill its picture, with its aspect ratio kept. Writing is atomic: a file is
complete or absent. Films are in :mod:`anydiff.sketches.films`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anydiff.drawing import beside, text_width, tiled, write_image
from anydiff.files import PathLike
from anydiff.sketches.outlines import Strokes, tidy
from anydiff.sketches.sketches import Sketches

__all__ = ["around", "draw_grid", "rasterize", "two_colors", "write_png"]

Box = tuple[float, float, float, float]

_MARGIN = 1 / 16  # of the picture's side, on each side
_PEN = 1 / 28  # the pen's width, of the picture's side
INK = np.array((32, 36, 46))
ACCENT = np.array((222, 84, 28))
# from navy by teal and olive to ochre: even steps of lightness, which colour-blind readers can tell apart
_ORDER = np.array([(14, 36, 98), (24, 92, 108), (84, 120, 68), (178, 132, 44), (220, 134, 96)])


# the renderer --------------------


def rasterize(
    sketches: Sketches, size: int = 64, width: float | None = None, fit: str | Box = "sketch"
) -> np.ndarray:
    """Pictures of sketches, as arrays.

    Arguments:
        sketches: What to draw.
        size: Pixels of a side.
        width: The width of the pen in pixels; size / 28 by default.
        fit: ``"sketch"`` centres each sketch and scales it so that a sixteenth of the side stays free
            on every side; a box (left, top, right, bottom) in the units of the sketches shows the
            same part of the plane in every picture, and what lies outside is cut off.

    Returns:
        (M, size, size) of uint8: 255 is ink, 0 is paper.

    Raises:
        ValueError: `size` or `width` is not positive, `fit` is another word, or the box is empty.
    """
    width = pen_width(width, size)
    scale, shift = _placed(sketches, size, width, fit)
    p, q, stroke = segments(sketches)
    sketch = np.repeat(np.arange(len(sketches)), sketches.counts)[stroke]
    points = sketches.points.astype(np.float64)
    a, b = (points[k] * scale[sketch, None] + shift[sketch] for k in (p, q))
    ink = pen_coverage(a, b, sketch, len(sketches), size, width / 2)
    return np.asarray(np.rint(255 * ink), np.uint8)


def pen_width(width: float | None, size: int) -> float:
    """The width of the pen in pixels; `size` / 28 by default.

    Raises:
        ValueError: One of the two is not positive.
    """
    if size < 1 or (width is not None and not width > 0):
        raise ValueError(f"size is {size} and width {width}; both must be positive.")
    return size * _PEN if width is None else width


def segments(sketches: Sketches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lines of the pen: numbers of their first and last points and of their strokes, (L,) each.

    The one point of a dot is both ends of its line.
    """
    sizes = sketches.stroke_sizes
    stroke = np.repeat(np.arange(len(sizes)), sizes)
    last = sketches.strokes[1:] - 1
    p = np.arange(len(stroke))
    p = p[(p != last[stroke]) | (sizes == 1)[stroke]]
    return p, np.minimum(p + 1, last[stroke[p]]), stroke[p]


def fitted(sketches: Sketches, size: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales (M,) and shifts (M, 2) that centre each sketch: pixel = scale · point + shift."""
    if len(sketches) == 0:
        return np.empty(0), np.empty((0, 2))
    low, high = sketches.box
    room = max(size * (1 - 2 * _MARGIN) - width, 0.0)
    span = (high - low).max(1)
    scale = np.divide(room, span, out=np.zeros_like(span), where=span > 0)  # a dot has no scale
    return scale, size / 2 - scale[:, None] * (low / 2 + high / 2)


def _placed(
    sketches: Sketches, size: int, width: float, fit: str | Box
) -> tuple[np.ndarray, np.ndarray]:
    """Scales (M,) and shifts (M, 2) as `rasterize` has them."""
    if isinstance(fit, str):
        if fit != "sketch":
            raise ValueError(f"fit is {fit!r}; give 'sketch' or a box (left, top, right, bottom).")
        return fitted(sketches, size, width)
    scale, shift = _boxed(fit, size)
    return np.full(len(sketches), scale), np.tile(shift, (len(sketches), 1))


def _boxed(box: Box, size: int) -> tuple[float, np.ndarray]:
    """The scale and shift that centre a box."""
    left, top, right, bottom = map(float, box)
    if not (left < right and top < bottom):
        raise ValueError(f"the box {box} is empty; give (left, top, right, bottom).")
    scale = size / max(right - left, bottom - top)
    return scale, size / 2 - scale * np.array([(left + right) / 2, (top + bottom) / 2])


def pen_coverage(
    a: np.ndarray, b: np.ndarray, picture: np.ndarray, count: int, size: int, radius: float
) -> np.ndarray:
    """The share of each pixel that lies within `radius` of a line.

    Arguments:
        a: One end (n, 2) of each line, in pixels; the middle of the first pixel is at (0.5, 0.5).
        b: The other end (n, 2) of each line.
        picture: (n,), the picture that each line belongs to, from 0.
        count: How many pictures.
        size: Pixels of a side.
        radius: Half the width of the pen, in pixels.

    Returns:
        (count, size, size) of float32 in [0, 1].
    """
    ink = np.zeros(count * size * size, np.float32)
    reach = radius + 0.71  # the corner of a pixel is half a diagonal from its middle
    a, b, picture = _clip(a, b, picture, -reach, size + reach)

    # short pieces have small boxes: the time is that of the ink, not of the boxes around whole lines
    pieces = np.ceil(np.abs(b - a).max(1) / max(8.0, 4 * radius)).astype(np.int64).clip(1)
    k = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    step = np.repeat((b - a) / pieces[:, None], pieces, axis=0)
    a = np.repeat(a, pieces, axis=0) + k[:, None] * step
    picture = np.repeat(picture, pieces)
    square = np.maximum((step**2).sum(1), 1e-12)

    low = np.floor(np.minimum(a, a + step) - reach).clip(0, size).astype(np.int64)
    high = np.ceil(np.maximum(a, a + step) + reach).clip(0, size).astype(np.int64)
    columns, rows = (high - low).T
    ends = np.concatenate([[0], np.cumsum(columns * rows)])
    start = 0
    while start < len(a):  # about 2²⁰ pixels at a time
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + 2**20, side="right")) - 1)
        n = np.repeat(np.arange(start, stop), np.diff(ends[start : stop + 1]))
        y, x = np.divmod(np.arange(ends[start], ends[stop]) - ends[n], columns[n])
        x, y = x + low[n, 0], y + low[n, 1]
        u, v = x + 0.5 - a[n, 0], y + 0.5 - a[n, 1]
        along = ((u * step[n, 0] + v * step[n, 1]) / square[n]).clip(0, 1)
        distance = np.hypot(u - along * step[n, 0], v - along * step[n, 1])
        covered = (radius - distance + 0.5).clip(0, 1) - (0.5 - radius - distance).clip(0, 1)
        np.maximum.at(ink, (picture[n] * size + y) * size + x, covered.astype(np.float32))
        start = stop
    return ink.reshape(count, size, size)


def _clip(
    a: np.ndarray, b: np.ndarray, picture: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of the lines in the square [low, high]², by the method of Liang and Barsky."""
    d = b - a
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.stack([(low - a) / d, (high - a) / d])
    inside = (a >= low) & (a <= high)
    enter = np.where(d == 0, np.where(inside, 0, np.inf), t.min(0)).max(1).clip(0)
    leave = np.where(d == 0, 1, t.max(0)).min(1).clip(None, 1)
    seen = enter <= leave
    d, enter, leave = d[seen], enter[seen, None], leave[seen, None]
    return a[seen] + enter * d, a[seen] + leave * d, picture[seen]


# pictures --------------------


def single(sketch: Strokes) -> Sketches:
    """The finite points of one sketch as `Sketches`.

    Raises:
        ValueError: It has none.
    """
    strokes = tidy(sketch)
    if not strokes:
        raise ValueError(f"the sketch has {len(sketch)} strokes and no finite point to draw.")
    return Sketches.from_lists([strokes])


def _picture(
    sketch: Sketches, size: int, width: float, colors: np.ndarray | None, fit: str | Box = "sketch"
) -> np.ndarray:
    """One sketch in ink, or in a colour for each stroke, as (size, size, 3) of uint8."""
    if colors is None:
        ink = rasterize(sketch, size, width, fit)[0, :, :, None] / 255
        return np.asarray(np.rint(255 - ink * (255 - INK)), np.uint8)
    (scale,), shift = _placed(sketch, size, width, fit)
    p, q, stroke = segments(sketch)
    points = sketch.points * scale + shift
    paper = np.full((size, size, 3), 255.0)
    inks = pen_coverage(points[p], points[q], stroke, len(sketch.order), size, width / 2)
    for ink, color in zip(inks, colors, strict=True):
        paper += ink[:, :, None] * (color - paper)
    return np.asarray(np.rint(paper), np.uint8)


def ordered_colors(num: int) -> np.ndarray:
    """Colours (num, 3) of strokes by their order, from dark blue to ochre, in [0, 255]."""
    at = np.arange(num) * (len(_ORDER) - 1) / max(num - 1, 1)
    return np.stack([np.interp(at, range(len(_ORDER)), c) for c in _ORDER.T], axis=1)


def write_png(
    path: PathLike, sketch: Strokes, size: int = 256, *, width: float | None = None,
    stroke_colors: bool = False,
) -> None:  # fmt: skip
    """Draw one sketch into a PNG file.

    Arguments:
        path: The file, which is complete or absent.
        sketch: A list of strokes (n, 2).
        size: Pixels of a side.
        width: The width of the pen in pixels; size / 28 by default.
        stroke_colors: Colour the strokes by their order, from dark blue to ochre.

    Raises:
        ValueError: The sketch has no finite point, or `size` or `width` is not positive.
    """
    one = single(sketch)
    colors = ordered_colors(len(one.order)) if stroke_colors else None
    write_image(path, _picture(one, size, pen_width(width, size), colors))


def draw_grid(
    path: PathLike,
    sketches: Sketches,
    columns: int = 8,
    size: int = 96,
    *,
    width: float | None = None,
    gap: int | None = None,
    stroke_colors: bool | np.ndarray = False,
    fit: str | Box = "sketch",
    captions: Sequence[str] = (),
) -> None:
    """Draw sketches on white into one PNG file, row after row.

    Arguments:
        path: The file, which is complete or absent.
        sketches: What to draw.
        columns: Sketches in a row; fewer if there are fewer.
        size: Pixels of a side of each sketch.
        width: The width of the pen in pixels; size / 28 by default.
        gap: Pixels between two sketches and around all of them; an eighth of the side by default.
        stroke_colors: True colours the strokes by their order, from dark blue to ochre; an array
            (S, 3) in [0, 255] gives the colour of each.
        fit: As of :func:`rasterize`.
        captions: Words to the left of the rows, or of the first ones.

    Raises:
        ValueError: There are no sketches, the colours have another shape, or as `rasterize`.
    """
    if len(sketches) == 0:
        raise ValueError("there are no sketches to draw.")
    width = pen_width(width, size)
    gap = round(size / 8) if gap is None else gap
    colors = _colors(sketches, stroke_colors)

    pictures = []
    for m in range(len(sketches)):
        own = None if colors is None else colors[slice(*sketches.offsets[m : m + 2])]
        pictures.append(_picture(sketches.subset([m]), size, width, own, fit))
    sheet = tiled(np.stack(pictures), min(columns, len(pictures)), gap)
    if len(captions):
        heights = [gap + row * (size + gap) + size // 2 for row in range(len(captions))]
        ink, margin = tuple(INK.tolist()), math.ceil(text_width(captions)) + gap
        sheet = beside(sheet, captions, heights, margin=margin, left=gap, ink=ink, ground=255)
    write_image(path, sheet)


def around(sketches: Sketches) -> Box:
    """The box (left, top, right, bottom) of all sketches together, with a margin of a sixteenth.

    Arguments:
        sketches: One or more, whose units are those of the box.
    """
    low, high = sketches.points.min(0), sketches.points.max(0)
    room = _MARGIN * max(float((high - low).max()), 1e-6)
    (left, top), (right, bottom) = (low - room).tolist(), (high + room).tolist()
    return left, top, right, bottom


def two_colors(sketches: Sketches, first: np.ndarray) -> np.ndarray:
    """Colours of strokes, for `draw_grid`: ink for the first ones of each sketch, orange for the rest.

    Arguments:
        sketches: The sketches.
        first: (M,), how many strokes of each are in ink.

    Returns:
        (S, 3) in [0, 255].
    """
    given = sketches.order < np.repeat(first, sketches.counts)
    return np.where(given[:, None], INK, ACCENT)


def _colors(sketches: Sketches, wanted: bool | np.ndarray) -> np.ndarray | None:
    """The colour of each stroke, (S, 3), or None for ink."""
    count = len(sketches.order)
    if not isinstance(wanted, np.ndarray):
        each = sketches.counts.tolist()
        return np.concatenate([ordered_colors(n) for n in each]) if wanted else None
    if wanted.shape != (count, 3):
        raise ValueError(f"stroke_colors are {wanted.shape}, not ({count}, 3): one for a stroke.")
    return wanted

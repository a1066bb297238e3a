r"""Pictures of sketches: arrays for networks, grids, and films of one being drawn or denoised.

One small renderer for all: a stroke is the set of points within half a pen's width of its line, so
that joins and caps are round and a stroke of a single point is a dot. A pixel's ink is how much of
it the pen covers, from its distance to the line: antialiased without drawing anything larger first,
and the same whatever version of a drawing library is installed. Pillow only writes the files.

x runs to the right and y down, as everywhere. A picture is as wide as it is high; unless a box is
given, each sketch is centred and scaled to fill it, keeping its aspect. Writing is atomic: a file
is there whole or not at all.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .files import whole
from .strokes import Sketches

__all__ = [
    "animate_denoising",
    "animate_drawing",
    "draw_grid",
    "rasterize",
    "write_animated_svg",
    "write_png",
]

PathLike = str | os.PathLike[str]
Strokes = Sequence[np.ndarray]
Box = tuple[float, float, float, float]

_MARGIN = 1 / 16  # of the picture's side, on each side
_PEN = 1 / 28  # the pen's width, of the picture's side
_INK = np.array((32, 36, 46))
_GHOST = 0.12  # the finished drawing under the pen, as a part of the ink
_LEVELS = 12  # of ink in a film
# from navy by teal and olive to ochre: even steps of lightness, told apart by colour-blind eyes
_ORDER = np.array([(14, 36, 98), (24, 92, 108), (84, 120, 68), (178, 132, 44), (220, 134, 96)])


# the renderer --------------------


def rasterize(
    sketches: Sketches, size: int = 64, width: float | None = None, fit: str | Box = "sketch"
) -> np.ndarray:
    """Pictures (M, size, size) of uint8: 255 is ink, 0 is paper.

    Arguments:
        size: Pixels of a side.
        width: The pen's width in pixels; size / 28 by default.
        fit: `sketch` centres each and scales it to leave a sixteenth of the side on every side of
            its ink; a box (left, top, right, bottom) in the sketches' units shows the same part of
            the plane in every picture, what lies outside it cut off.
    """
    width = _width(width, size)
    if isinstance(fit, str):
        if fit != "sketch":
            raise ValueError(f"fit is {fit!r}; give 'sketch' or a box (left, top, right, bottom).")
        scale, shift = _fitted(sketches, size, width)
    else:
        one, other = _boxed(fit, size)
        scale, shift = np.full(len(sketches), one), np.tile(other, (len(sketches), 1))
    p, q, stroke = _segments(sketches)
    sketch = _owner(sketches)[stroke]
    points = sketches.points.astype(np.float64)
    a, b = (points[k] * scale[sketch, None] + shift[sketch] for k in (p, q))
    ink = _coverage(a, b, sketch, len(sketches), size, width / 2)
    return np.rint(255 * ink).astype(np.uint8)


def _width(width: float | None, size: int) -> float:
    if size < 1 or (width is not None and not width > 0):
        raise ValueError(f"size is {size} and width {width}; both must be positive.")
    return size * _PEN if width is None else width


def _owner(sketches: Sketches) -> np.ndarray:
    """The sketch of each stroke (S,)."""
    return np.repeat(np.arange(len(sketches)), np.diff(sketches.offsets))


def _segments(sketches: Sketches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points p and q that a pen line joins, and its stroke; a lone point joins itself."""
    sizes = np.diff(sketches.strokes)
    stroke = np.repeat(np.arange(len(sizes)), sizes)
    last = sketches.strokes[1:] - 1
    p = np.arange(len(stroke))
    p = p[(p != last[stroke]) | (sizes == 1)[stroke]]
    return p, np.minimum(p + 1, last[stroke[p]]), stroke[p]


def _fitted(sketches: Sketches, size: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales (M,) and shifts (M, 2) that centre each sketch: pixel = scale * point + shift."""
    if len(sketches) == 0:
        return np.empty(0), np.empty((0, 2))
    first = sketches.strokes[sketches.offsets[:-1]]
    points = sketches.points.astype(np.float64)
    low, high = (f.reduceat(points, first) for f in (np.minimum, np.maximum))
    room = max(size * (1 - 2 * _MARGIN) - width, 0.0)
    span = (high - low).max(1)
    scale = np.divide(room, span, out=np.zeros_like(span), where=span > 0)  # a dot has no scale
    return scale, size / 2 - scale[:, None] * (low / 2 + high / 2)


def _boxed(box: Box, size: int) -> tuple[float, np.ndarray]:
    """The scale and shift that centre a box."""
    left, top, right, bottom = map(float, box)
    if not (left < right and top < bottom):
        raise ValueError(f"the box {box} is empty; give (left, top, right, bottom).")
    scale = size / max(right - left, bottom - top)
    return scale, size / 2 - scale * np.array([(left + right) / 2, (top + bottom) / 2])


def _coverage(
    a: np.ndarray, b: np.ndarray, picture: np.ndarray, count: int, size: int, radius: float
) -> np.ndarray:
    """How much of each pixel lies within `radius` of a line.

    Arguments:
        a, b: The lines' ends (n, 2) in pixels; the first pixel's middle is at (0.5, 0.5).
        picture: (n,), which of `count` pictures each line belongs to.

    Returns:
        (count, size, size) of float32 in [0, 1].
    """
    ink = np.zeros(count * size * size, np.float32)
    reach = radius + 0.71  # a pixel's corner is half a diagonal from its middle
    a, b, picture = _clip(a, b, picture, -reach, size + reach)

    # short pieces have small patches: the work is that of the ink, not of the boxes around it
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
    while start < len(a):  # some 2²⁰ pixels at a time
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
    """The parts of the lines in the square [low, high]², those that have one (Liang and Barsky)."""
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


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    return Image


def _tidy(strokes: Strokes) -> list[np.ndarray]:
    """The strokes' finite points: a sample may have gone astray."""
    arrays = [np.asarray(s, np.float64).reshape(-1, 2) for s in strokes]
    return [s for s in (s[np.isfinite(s).all(1)] for s in arrays) if len(s)]


def _one(sketch: Strokes) -> Sketches:
    """A drawing as it should be shown; an error where there is nothing to show."""
    strokes = _tidy(sketch)
    if not strokes:
        raise ValueError(f"the sketch has {len(sketch)} strokes and no finite point to draw.")
    return Sketches.from_lists([strokes])


def _picture(sketch: Sketches, size: int, width: float, colors: bool) -> np.ndarray:
    """One sketch in ink, or in a colour for each stroke, as (size, size, 3) of uint8."""
    if not colors:
        ink = rasterize(sketch, size, width)[0, :, :, None] / 255
        return np.rint(255 - ink * (255 - _INK)).astype(np.uint8)
    (scale,), shift = _fitted(sketch, size, width)
    p, q, stroke = _segments(sketch)
    points = sketch.points * scale + shift
    num = len(sketch.strokes) - 1
    paper = np.full((size, size, 3), 255.0)
    inks = _coverage(points[p], points[q], stroke, num, size, width / 2)
    for ink, color in zip(inks, _colors(num), strict=True):
        paper += ink[:, :, None] * (color - paper)
    return np.rint(paper).astype(np.uint8)


def _colors(num: int) -> np.ndarray:
    """The strokes' colours (num, 3) in their order."""
    at = np.arange(num) * (len(_ORDER) - 1) / max(num - 1, 1)
    return np.stack([np.interp(at, range(len(_ORDER)), c) for c in _ORDER.T], axis=1)


def write_png(
    path: PathLike, sketch: Strokes, size: int = 256, *, width: float | None = None,
    stroke_colors: bool = False,
) -> None:  # fmt: skip
    """One sketch, a list of strokes (n, 2), as a PNG."""
    picture = _picture(_one(sketch), size, _width(width, size), stroke_colors)
    with whole(path, ".png") as temporary:
        _pillow().fromarray(picture).save(temporary, "PNG", optimize=True)


def draw_grid(
    path: PathLike,
    sketches: Sketches,
    columns: int = 8,
    size: int = 96,
    *,
    width: float | None = None,
    gap: int | None = None,
    stroke_colors: bool = False,
) -> None:
    """A grid of sketches on white as one PNG, row after row.

    Arguments:
        columns: Sketches in a row; fewer if there are fewer.
        size: Pixels of a sketch's side.
        width: The pen's width in pixels; size / 28 by default.
        gap: Pixels between two sketches and around all of them; an eighth of the side by default.
        stroke_colors: Colour the strokes by their order, first dark blue, last ochre.
    """
    if len(sketches) == 0:
        raise ValueError("there are no sketches to draw.")
    width = _width(width, size)
    gap = round(size / 8) if gap is None else gap
    columns = min(columns, len(sketches))
    rows = math.ceil(len(sketches) / columns)

    sheet = np.full((rows * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, np.uint8)
    for m in range(len(sketches)):
        y, x = (gap + k * (size + gap) for k in divmod(m, columns))
        picture = _picture(sketches.subset([m]), size, width, stroke_colors)
        sheet[y : y + size, x : x + size] = picture
    with whole(path, ".png") as temporary:
        _pillow().fromarray(sheet).save(temporary, "PNG", optimize=True)


# films --------------------


def _write_film(path: PathLike, pictures: Sequence[np.ndarray], fps: float, hold: float) -> None:
    """A GIF that repeats, from ink (height, width) in [0, 1], the last picture held."""
    Image = _pillow()
    shade = np.linspace(0, 1, _LEVELS)[:, None]
    palette = np.rint(255 - shade * (255 - _INK)).astype(np.uint8).tobytes()
    images = []
    for ink in pictures:
        image = Image.fromarray(np.rint(ink * (_LEVELS - 1)).astype(np.uint8), "P")
        image.putpalette(palette)
        images.append(image)
    durations = [round(1000 / fps)] * (len(images) - 1) + [round(1000 * hold)]
    with whole(path, ".gif") as temporary:
        images[0].save(
            temporary, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0,
            disposal=1, optimize=False,
        )  # fmt: skip


def animate_denoising(
    path: PathLike,
    frames: Sequence[Sketches | Strokes],
    *,
    size: int = 200,
    width: float | None = None,
    columns: int | None = None,
    fps: float = 20,
    hold: float = 1.5,
    progress: bool = True,
) -> None:
    """Sketches side by side, on their way from noise, as a GIF that repeats.

    Each has its own place in the plane, where the last frame fits with some room around it, and
    keeps it over all frames; what noise throws further out is cut off.

    Arguments:
        frames: From noise to drawing: `Sketches`, as many in every frame, or lists of strokes
            (n, 2) of one sketch. Points that aren't finite are left out.
        size: Pixels of a sketch's side.
        width: The pen's width in pixels; size / 40 by default, and finer where there is more to draw.
        columns: Sketches in a row; by default all in one.
        fps: Frames a second.
        hold: Seconds that the last frame stays.
        progress: A thin bar along the foot that shows how far the film is.
    """
    if len(frames) == 0:
        raise ValueError("there are no frames to show.")
    shown = [[_tidy(sketch) for sketch in _drawings(frame)] for frame in frames]
    num = len(shown[-1])
    if num == 0 or any(len(frame) != num for frame in shown):
        raise ValueError(
            f"the frames hold {sorted({len(f) for f in shown})} sketches; give as many in each."
        )
    width = size / 40 if width is None else width
    columns = min(columns or num, num)
    bar = max(2, size // 70) if progress else 0
    pictures = [
        np.zeros((math.ceil(num / columns) * size + 2 * bar, columns * size)) for _ in frames
    ]
    for m in range(num):
        box = _viewport([frame[m] for frame in shown], room=0.22)
        least = _length(shown[-1][m])
        y, x = (k * size for k in divmod(m, columns))
        for picture, frame in zip(pictures, shown, strict=True):
            if frame[m]:
                # noise is a tangle many times as long as the drawing: a finer pen keeps it light
                pen = width * min(max(math.sqrt(least / max(_length(frame[m]), 1e-12)), 0.4), 1)
                ink = rasterize(Sketches.from_lists([frame[m]]), size, pen, box)[0]
                picture[y : y + size, x : x + size] = ink / 255
    if progress:
        for k, picture in enumerate(pictures):
            picture[-bar:] = 0.06
            picture[-bar:, : round(picture.shape[1] * (k + 1) / len(pictures))] = 0.45
    _write_film(path, pictures, fps, hold)


def _drawings(frame: Sketches | Strokes) -> list[Strokes]:
    return [frame[m] for m in range(len(frame))] if isinstance(frame, Sketches) else [frame]


def _viewport(frames: Sequence[Strokes], room: float) -> Box:
    """A square around the last frame that isn't empty, with `room` of its side on every side."""
    last = next((frame for frame in reversed(frames) if frame), [np.zeros((1, 2))])
    points = np.concatenate(last)
    low, high = points.min(0), points.max(0)
    (x, y), half = (low + high) / 2, float((high - low).max() / 2) or 1.0
    half *= 1 + 2 * room
    return x - half, y - half, x + half, y + half


def _length(strokes: Strokes) -> float:
    return sum(float(np.hypot(*np.diff(s, axis=0).T).sum()) for s in strokes)


def _pace(strokes: Strokes) -> tuple[np.ndarray, np.ndarray]:
    """When each stroke begins and ends, in [0, 1]: the pen draws evenly and hurries in the air."""
    drawn = np.array([_length([s]) for s in strokes])
    air = [np.linalg.norm(b[0] - a[-1]) for a, b in pairwise(strokes)]
    drawn = drawn + 0.02 * drawn.sum() + 1e-12  # a dot takes its time too
    ends = np.cumsum(drawn) + np.concatenate([[0], np.cumsum(air)]) * 0.35
    return (ends - drawn) / ends[-1], ends / ends[-1]


def animate_drawing(
    path: PathLike,
    sketch: Strokes,
    *,
    size: int = 240,
    width: float | None = None,
    seconds: float = 3.0,
    fps: float = 20,
    hold: float = 1.5,
    ghost: bool = True,
) -> None:
    """One sketch being drawn, stroke after stroke, as a GIF that repeats.

    Arguments:
        sketch: A list of strokes (n, 2).
        seconds: How long the drawing takes.
        hold: Seconds that it then stays.
        ghost: Show the finished drawing faintly from the beginning.
    """
    one = _one(sketch)
    width = _width(width, size)
    (scale,), shift = _fitted(one, size, width)
    p, q, stroke = _segments(one)
    a, b = (one.points[k] * scale + shift for k in (p, q))

    # when each line begins and ends: evenly along its stroke
    begin, end = _pace(one[0])
    length = np.hypot(*(b - a).T)
    total = np.maximum(np.bincount(stroke, length), 1e-12)
    before = np.cumsum(length) - length
    before -= before[np.searchsorted(stroke, stroke)]
    t0, t1 = (
        begin[stroke] + (end - begin)[stroke] * along / total[stroke]
        for along in (before, before + length)
    )

    steps = max(2, round(seconds * fps))
    final = _coverage(a, b, np.zeros(len(a), int), 1, size, width / 2)[0]
    ink, pictures = np.zeros_like(final), []
    for now, then in zip(np.arange(steps) / steps, np.arange(1, steps + 1) / steps, strict=True):
        new = (t0 < then) & (t1 >= now)
        part = np.clip((then - t0[new]) / np.maximum(t1 - t0, 1e-12)[new], 0, 1)[:, None]
        tip = a[new] + part * (b - a)[new]
        drawn = _coverage(a[new], tip, np.zeros(len(tip), int), 1, size, width / 2)[0]
        ink = np.maximum(ink, drawn)
        pictures.append(np.maximum(ink, _GHOST * final) if ghost else ink)
    pictures[-1] = final
    _write_film(path, pictures, fps, hold)


def write_animated_svg(
    path: PathLike,
    sketch: Strokes,
    seconds: float = 4.0,
    *,
    size: int = 240,
    width: float | None = None,
    hold: float = 1.5,
    ghost: bool = True,
    stroke_colors: bool = False,
) -> None:
    """One sketch drawing itself, stroke after stroke and again, in a browser or a page's <img>.

    Each stroke stands in the file once, as a plain <path> with every digit of its coordinates, so
    :func:`anydiff.data.svg.read_svg` gives the sketch back; the moving pen only refers to it.

    Arguments:
        sketch: A list of strokes (n, 2).
        seconds: How long the drawing takes.
        size: Pixels of the side.
        width: The pen's width in those pixels; size / 28 by default.
        hold: Seconds that the drawing then stays.
        ghost: Show the finished drawing faintly from the beginning.
        stroke_colors: Colour the strokes by their order.
    """
    one = _one(sketch)
    width = _width(width, size)
    (scale,), _ = _fitted(one, size, width)
    scale = scale or 1.0  # a dot
    points = one.points
    side, middle = size / scale, (points.min(0) + points.max(0)) / 2
    box = " ".join(f"{v:.12g}" for v in (*(middle - side / 2), side, side))
    total = seconds + hold
    begin, end = (seconds / total * t for t in _pace(one[0]))

    colors = _colors(len(one[0])) if stroke_colors else np.tile(_INK, (len(one[0]), 1))
    ink = ["#" + bytes(np.rint(color).astype(np.uint8)).hex() for color in colors]

    tag = f"s{zlib.crc32(points.tobytes()):08x}-"  # several may stand in one page
    paths, pens = [], []
    for k, stroke in enumerate(one[0]):
        xy = [f"{x!r},{y!r}" for x, y in stroke.tolist()]
        data = f"M{xy[0]}L{' '.join(xy[1:])}" if len(xy) > 1 else f"M{xy[0]}Z"
        paths.append(f'<path id="{tag}{k}" pathLength="1" d="{data}"/>')
        t0, t1 = f"{max(begin[k], 1e-5):.5f}", f"{min(end[k], 0.99999):.5f}"
        every = f'dur="{total:g}s" repeatCount="indefinite"/>'
        # hidden until its turn: a round cap would show as a dot where the line begins
        pen = (
            f'<animate attributeName="opacity" values="0;1;1" keyTimes="0;{t0};1" '
            f'calcMode="discrete" {every}'
        )
        dashes = ""
        if np.ptp(stroke, axis=0).any():
            dashes = 'stroke-dasharray="1 2" '
            pen += (
                '<animate attributeName="stroke-dashoffset" values="1;1;0;0" '
                f'keyTimes="0;{t0};{t1};1" {every}'
            )
        pens.append(f'<use href="#{tag}{k}" {dashes}stroke="{ink[k]}">{pen}</use>')
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" viewBox="{box}" '
        f'style="background:#fff" fill="none" stroke-width="{width / scale:.6g}" '
        'stroke-linecap="round" stroke-linejoin="round">',
        f'<g stroke="{ink[0]}" stroke-opacity="{_GHOST if ghost else 0}">',
        *paths,
        "</g>",
        *pens,
        "</svg>",
    ]
    with whole(path, ".svg") as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")

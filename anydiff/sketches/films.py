"""Films of sketches: one being drawn, as SVG or GIF, and some on their way from noise, as GIF.

GIFs are rendered by :mod:`anydiff.sketches.pictures`. The animated SVG keeps every digit of the points,
so that it is the file of a sketch and its film at once.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

from anydiff.drawing import pillow, write_gif
from anydiff.files import PathLike, whole
from anydiff.sketches.outlines import Strokes, length, pace, tidy
from anydiff.sketches.pictures import (
    INK,
    Box,
    fitted,
    ordered_colors,
    pen_coverage,
    pen_width,
    rasterize,
    segments,
    single,
)
from anydiff.sketches.sketches import Sketches

__all__ = ["animate_denoising", "animate_drawing", "write_animated_svg"]

_GHOST = 0.12  # the ink of the finished sketch under the pen
_LEVELS = 12  # of ink in a film


def _write_film(path: PathLike, pictures: Sequence[np.ndarray], fps: float, hold: float) -> None:
    """Write a GIF that repeats, from ink (height, width) in [0, 1]."""
    Image = pillow()[0]
    shade = np.linspace(0, 1, _LEVELS)[:, None]
    palette = np.rint(255 - shade * (255 - INK)).astype(np.uint8).tobytes()
    images = []
    for ink in pictures:
        image = Image.fromarray(np.rint(ink * (_LEVELS - 1)).astype(np.uint8), "P")
        image.putpalette(palette)
        images.append(image)
    write_gif(path, images, fps=fps, hold=hold)


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
    """Draw sketches side by side, on their way from noise, into a GIF that repeats.

    The part of the plane that is shown of a sketch is the same in all frames: that of its last frame,
    with some room around it. Points further out are cut off.

    Arguments:
        path: The file, which is complete or absent.
        frames: From noise to sketches: `Sketches`, equally many in every frame, or lists of strokes
            (n, 2) of one sketch. Points that are not finite are left out.
        size: Pixels of a side of each sketch.
        width: The width of the pen in pixels; size / 40 by default, and finer where lines are longer.
        columns: Sketches in a row; by default all in one.
        fps: Frames per second.
        hold: Seconds that the last frame stays.
        progress: Draw a thin bar along the lower edge that shows how far the film is.

    Raises:
        ValueError: There are no frames, or they have no sketches or different numbers of them; `fps` or
            `hold` is out of range.
    """
    if len(frames) == 0:
        raise ValueError("there are no frames to show.")
    shown = [[tidy(sketch) for sketch in _each(frame)] for frame in frames]
    num = len(shown[-1])
    if num == 0 or any(len(frame) != num for frame in shown):
        raise ValueError(f"frames hold {sorted(set(map(len, shown)))} sketches, not equally many.")
    width = size / 40 if width is None else width
    columns = min(columns or num, num)
    bar = max(2, size // 70) if progress else 0
    shape = (math.ceil(num / columns) * size + 2 * bar, columns * size)
    pictures = [np.zeros(shape) for _ in frames]
    for m in range(num):
        box = _viewport([frame[m] for frame in shown], room=0.22)
        least = length(shown[-1][m])
        y, x = (k * size for k in divmod(m, columns))
        for picture, frame in zip(pictures, shown, strict=True):
            if frame[m]:
                # noise has many times as much ink as the sketch: a finer pen keeps it light
                pen = width * min(max(math.sqrt(least / max(length(frame[m]), 1e-12)), 0.4), 1)
                ink = rasterize(Sketches.from_lists([frame[m]]), size, pen, box)[0]
                picture[y : y + size, x : x + size] = ink / 255
    if progress:
        for k, picture in enumerate(pictures):
            picture[-bar:] = 0.06
            picture[-bar:, : round(picture.shape[1] * (k + 1) / len(pictures))] = 0.45
    _write_film(path, pictures, fps, hold)


def _each(frame: Sketches | Strokes) -> list[Strokes]:
    return [frame[m] for m in range(len(frame))] if isinstance(frame, Sketches) else [frame]


def _viewport(frames: Sequence[Strokes], room: float) -> Box:
    """A square around the last frame that is not empty, with `room` of its side on every side."""
    last = next((frame for frame in reversed(frames) if frame), [np.zeros((1, 2))])
    points = np.concatenate(last)
    low, high = points.min(0), points.max(0)
    (x, y), half = (low + high) / 2, float((high - low).max() / 2) or 1.0
    half *= 1 + 2 * room
    return x - half, y - half, x + half, y + half


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
    """Draw one sketch, stroke after stroke, into a GIF that repeats.

    Arguments:
        path: The file, which is complete or absent.
        sketch: A list of strokes (n, 2).
        size: Pixels of a side.
        width: The width of the pen in pixels; size / 28 by default.
        seconds: How long the drawing takes.
        fps: Frames per second.
        hold: Seconds that the finished sketch stays.
        ghost: Show the finished sketch faintly from the beginning.

    Raises:
        ValueError: The sketch has no finite point, or a number is out of range.
    """
    one = single(sketch)
    width = pen_width(width, size)
    (scale,), shift = fitted(one, size, width)
    p, q, stroke = segments(one)
    a, b = (one.points[k] * scale + shift for k in (p, q))

    # when each line begins and ends: evenly along its stroke
    begin, end = pace(one[0])
    length = np.hypot(*(b - a).T)
    total = np.maximum(np.bincount(stroke, length), 1e-12)
    before = np.cumsum(length) - length
    before -= before[np.searchsorted(stroke, stroke)]
    ways = (before, before + length)
    t0, t1 = (begin[stroke] + (end - begin)[stroke] * way / total[stroke] for way in ways)

    steps = max(2, round(seconds * fps))
    final = pen_coverage(a, b, np.zeros(len(a), int), 1, size, width / 2)[0]
    ink, pictures = np.zeros_like(final), []
    for now, then in zip(np.arange(steps) / steps, np.arange(1, steps + 1) / steps, strict=True):
        new = (t0 < then) & (t1 >= now)
        part = np.clip((then - t0[new]) / np.maximum(t1 - t0, 1e-12)[new], 0, 1)[:, None]
        tip = a[new] + part * (b - a)[new]
        drawn = pen_coverage(a[new], tip, np.zeros(len(tip), int), 1, size, width / 2)[0]
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
    """Write an SVG file in which one sketch is drawn, stroke after stroke, repeatedly.

    It plays in a browser, also in the <img> of a page. Each stroke is in the file once, as a plain
    <path> with every digit of its coordinates, so that :func:`~anydiff.sketches.svg.read_svg` returns
    the sketch; the moving pen only refers to it.

    Arguments:
        path: The file, which is complete or absent.
        sketch: A list of strokes (n, 2).
        seconds: How long the drawing takes.
        size: Pixels of a side.
        width: The width of the pen in these pixels; size / 28 by default.
        hold: Seconds that the finished sketch stays.
        ghost: Show the finished sketch faintly from the beginning.
        stroke_colors: Colour the strokes by their order, from dark blue to ochre.

    Raises:
        ValueError: The sketch has no finite point, or `size` or `width` is not positive.
    """
    one = single(sketch)
    width = pen_width(width, size)
    (scale,), _ = fitted(one, size, width)
    scale = scale or 1.0  # a dot
    points = one.points
    side, middle = size / scale, (points.min(0) + points.max(0)) / 2
    box = " ".join(repr(float(v)) for v in (*(middle - side / 2), side, side))
    total = seconds + hold
    begin, end = (seconds / total * t for t in pace(one[0]))

    colors = ordered_colors(len(one[0])) if stroke_colors else np.tile(INK, (len(one[0]), 1))
    ink = ["#" + bytes(np.rint(color).astype(np.uint8)).hex() for color in colors]

    tag = f"s{zlib.crc32(points.tobytes()):08x}-"  # a page may have several
    paths, pens = [], []
    for k, stroke in enumerate(one[0]):
        xy = [f"{x!r},{y!r}" for x, y in stroke.tolist()]
        data = f"M{xy[0]}L{' '.join(xy[1:])}" if len(xy) > 1 else f"M{xy[0]}Z"
        paths.append(f'<path id="{tag}{k}" pathLength="1" d="{data}"/>')
        t0, t1 = f"{max(begin[k], 1e-5):.5f}", f"{min(end[k], 0.99999):.5f}"
        every = f'dur="{total:g}s" repeatCount="indefinite"/>'
        # hidden until it is drawn: a round cap would show as a dot where the line begins
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

"""What the pictures of all kinds of data share: sheets of tiles, captions, PNG and GIF files.

A kind of data draws its own items, as arrays of uint8; here they are laid out on a sheet, captioned
and written. Rows of pixels run down, and writing is atomic: a file is complete or absent. Pillow is
imported where it is used.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from anydiff.checks import check_range
from anydiff.extras import extra
from anydiff.files import PathLike, whole

__all__ = [
    "beside", "moments", "pillow", "png", "text_width", "tiled", "write_gif", "write_image",
]  # fmt: skip

_LETTERS = 15  # the height of a caption in pixels


def pillow() -> tuple[Any, Any, Any]:
    """Pillow's modules Image, ImageDraw and ImageFont.

    Raises:
        ImportError: Pillow is not installed.
    """
    with extra("images"):
        from PIL import Image, ImageDraw, ImageFont
    return Image, ImageDraw, ImageFont


def tiled(tiles: np.ndarray, columns: int, gap: int = 0, ground: int = 255) -> np.ndarray:
    r"""Tiles side by side, row after row, on one sheet.

    Arguments:
        tiles: (B, H, W, \*), all of one size.
        columns: Tiles in a row.
        gap: Pixels between two tiles and around all of them.
        ground: The value of the gaps, and of the places in the last row that stay empty.

    Returns:
        (rows · (H + gap) + gap, columns · (W + gap) + gap, \*) of the tiles' dtype.
    """
    num, height, width, *rest = tiles.shape
    rows = math.ceil(num / columns)
    down, along = height + gap, width + gap

    full = np.full((rows * columns, down, along, *rest), ground, tiles.dtype)
    full[:num, gap:, gap:] = tiles
    full = full.reshape(rows, columns, down, along, *rest).swapaxes(1, 2)
    full = full.reshape(rows * down, columns * along, *rest)
    return np.pad(full, ((0, gap), (0, gap), *[(0, 0)] * len(rest)), constant_values=ground)


def text_width(captions: Iterable[str]) -> float:
    """The width in pixels of the longest caption, as :func:`beside` writes them.

    Arguments:
        captions: One or more texts of one line.
    """
    font = pillow()[2].load_default(_LETTERS)
    return float(max(font.getlength(words) for words in captions))


def beside(
    sheet: np.ndarray,
    captions: Sequence[str],
    heights: Sequence[float],
    *,
    margin: int,
    left: int,
    ink: tuple[int, int, int],
    ground: int,
) -> Any:
    """A sheet with captions at its left, as a Pillow image.

    Arguments:
        sheet: (H, W, 3) of uint8.
        captions: Words of one line each.
        heights: Pixels from the top to the middle of each caption.
        margin: Pixels that the sheet moves to the right.
        left: Pixels from the left edge to the captions.
        ink: The captions' colour.
        ground: The grey of the margin.
    """
    Image, ImageDraw, ImageFont = pillow()
    picture = Image.new("RGB", (margin + sheet.shape[1], len(sheet)), (ground,) * 3)
    picture.paste(Image.fromarray(np.ascontiguousarray(sheet)), (margin, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTERS)
    for words, height in zip(captions, heights, strict=True):
        draw.text((left, height), words, ink, font, anchor="lm")
    return picture


def write_image(path: PathLike, picture: Any, *, dpi: int | None = None) -> None:
    """A picture as a PNG file.

    Arguments:
        path: The file.
        picture: (H, W, 3) of uint8, or a Pillow image.
        dpi: Dots per inch to note in the file, if any.

    Raises:
        ImportError: Pillow is not installed.
    """
    if isinstance(picture, np.ndarray):
        picture = pillow()[0].fromarray(np.ascontiguousarray(picture))
    with whole(path, ".png") as temporary:
        picture.save(temporary, "PNG", optimize=True, **({"dpi": (dpi, dpi)} if dpi else {}))


def png(picture: Any) -> bytes:
    """A picture as the bytes of a PNG file.

    Arguments:
        picture: (H, W, 3) of uint8, or a Pillow image.

    Raises:
        ImportError: Pillow is not installed.
    """
    if isinstance(picture, np.ndarray):
        picture = pillow()[0].fromarray(np.ascontiguousarray(picture))
    with io.BytesIO() as out:
        picture.save(out, "PNG", optimize=True)
        return out.getvalue()


def jpeg(picture: np.ndarray) -> bytes:
    """A photograph as the bytes of a JPEG file of good quality, a fifth of those of a PNG.

    Arguments:
        picture: (H, W, 3) of uint8.

    Raises:
        ImportError: Pillow is not installed.
    """
    with io.BytesIO() as out:
        image = pillow()[0].fromarray(np.ascontiguousarray(picture))
        image.save(out, "JPEG", quality=90, subsampling=0)
        return out.getvalue()


def write_gif(
    path: PathLike, images: Sequence[Any], *, fps: float, hold: float, optimize: bool = False
) -> None:
    """Pillow's palette images as a GIF that repeats.

    Arguments:
        path: The file.
        images: The frames, all of one size and of mode "P".
        fps: Frames per second, at most 50; GIF counts time in hundredths of a second.
        hold: Seconds that the last frame is held.
        optimize: Let Pillow leave unused colours out of the palettes.

    Raises:
        ValueError: `fps` or `hold` is out of range.
    """
    check_range("(0, 50]", fps=fps)  # faster than that, browsers fall back to 10
    check_range("[0, inf)", hold=hold)
    durations = [10 * round(100 / fps)] * (len(images) - 1) + [max(20, round(1000 * hold))]
    with whole(path, ".gif") as temporary:
        images[0].save(
            temporary, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0,
            disposal=1, optimize=optimize,
        )  # fmt: skip


def moments(count: int, most: int = 40) -> list[int]:
    """Numbers of the steps that a film shows: more towards the end, where things take shape.

    Arguments:
        count: Steps that there are.
        most: Steps that are shown, at most.
    """
    return sorted({round((count - 1) * (1 - (1 - k / (most - 1)) ** 2)) for k in range(most)})

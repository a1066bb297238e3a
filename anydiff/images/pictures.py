r"""Pictures of images: grids, and their denoising as strips and animations.

Pixels are uint8 (B, C, H, W), grey or RGB, as tensors or arrays. Each is drawn as a square of `scale` ×
`scale` pixels of the file, without smoothing, so that small images are visible. Images are separated and
surrounded by a thin light-grey gap. Writing is atomic: a file is complete or absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from anydiff.drawing import beside, pillow, text_width, tiled, write_gif, write_image
from anydiff.files import PathLike
from anydiff.images.images import as_tensor

__all__ = ["animate_denoising", "draw_grid", "draw_rows", "draw_strip", "sheet", "visible"]

Pixels = Tensor | np.ndarray

_GROUND = 226  # the grey of the gaps
_WIDTH, _FILM = 760, 400  # the approximate width of a sheet and of an animation, in pixels
_SIDE = 256  # the largest side of an enlarged image, in pixels
_ROOM = 15  # pixels on both sides of a caption


def _array(pixels: Pixels, axes: str) -> np.ndarray:
    """The pixels, checked, on the CPU, with channels last."""
    pixels = as_tensor(pixels, "pixels")
    form = "(" + ", ".join(axes) + ")"
    if pixels.dtype != torch.uint8 or pixels.ndim != len(axes):
        hint = "; anydiff.images.to_uint8 converts them from [-1, 1]"
        raise ValueError(
            f"pixels are {tuple(pixels.shape)} of {pixels.dtype}; give uint8 {form}"
            f"{hint if pixels.is_floating_point() else ''}."
        )
    if pixels.shape[-3] not in (1, 3):
        raise ValueError(
            f"pixels are {tuple(pixels.shape)}, with {pixels.shape[-3]} channels; a picture is grey "
            "(1) or RGB (3): choose which channels to draw."
        )
    if pixels.numel() == 0:
        raise ValueError(f"pixels are {tuple(pixels.shape)}; there is nothing to draw.")
    return pixels.detach().cpu().movedim(-3, -1).numpy()


def visible(pixels: Tensor) -> Tensor:
    """What a picture can show: grey and RGB as they are, the first three of more channels, or one of two.

    Arguments:
        pixels: (\\*, C, H, W).

    Returns:
        (\\*, 1 or 3, H, W).
    """
    channels = pixels.shape[-3]
    return pixels if channels in (1, 3) else pixels.narrow(-3, 0, 3 if channels > 3 else 1)


def _scale(scale: int | None, columns: int, shape: tuple[int, ...], around: int = _WIDTH) -> int:
    """By default, the scale that makes the sheet about `around` wide and no image above 256."""
    height, width = shape
    if scale is None:
        return max(1, min(round(around / (columns * (width + 1))), _SIDE // max(height, width)))
    if scale < 1:
        raise ValueError(f"scale is {scale}; it must be a whole number, at least 1.")
    return scale


def _columns(columns: int | None, num: int) -> int:
    """At most `num`; by default about as many as rows, up to 16."""
    if columns is not None and columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1.")
    return min(columns or min(math.ceil(math.sqrt(num)), 16), num)


def _laid_out(values: np.ndarray, columns: int, scale: int, ground: int) -> np.ndarray:
    """Images (B, H, W, \\*) enlarged, on one sheet with gaps of the value `ground`."""
    gap = max(2, scale * values.shape[2] // 24)
    return tiled(values.repeat(scale, axis=1).repeat(scale, axis=2), columns, gap, ground)


def sheet(pixels: Pixels, columns: int | None = None, scale: int | None = None) -> np.ndarray:
    """Images side by side, row after row, as one picture.

    Arguments:
        pixels: (B, C, H, W) of uint8, grey or RGB.
        columns: Images in a row; by default about as many as rows, at most 16.
        scale: The side in pixels of the square that draws one pixel of an image; by default the sheet
            is about 760 pixels wide and no side of an image is above 256.

    Returns:
        (height, width, 3) of uint8.

    Raises:
        ValueError: `pixels` are not uint8, not of one or three channels, or empty; or `columns` or
            `scale` is less than 1.
    """
    values = _array(pixels, "BCHW")
    columns = _columns(columns, len(values))
    scale = _scale(scale, columns, values.shape[1:3])
    laid = _laid_out(values, columns, scale, _GROUND)
    return np.broadcast_to(laid, (*laid.shape[:2], 3))


def draw_grid(
    path: PathLike, pixels: Pixels, *, columns: int | None = None, scale: int | None = None
) -> None:
    """The :func:`sheet` of images as a PNG.

    Arguments:
        path: The file.
        pixels: (B, C, H, W) of uint8.
        columns: As for :func:`sheet`.
        scale: As for :func:`sheet`.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: As for :func:`sheet`.
    """
    write_image(path, sheet(pixels, columns, scale))


def draw_strip(
    path: PathLike, frames: Pixels, *, columns: int | None = 10, scale: int | None = None
) -> None:
    """The denoising of images as a PNG: one image in each row, time from left to right.

    Arguments:
        path: The file.
        frames: (T, B, C, H, W) of uint8, from noise to the images.
        columns: The most moments to show, evenly spaced and including the first and the last; None
            shows all.
        scale: As for :func:`sheet`.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: As for :func:`sheet`.
    """
    _array(frames, "TBCHW")
    frames = as_tensor(frames, "frames")
    count = _columns(len(frames) if columns is None else columns, len(frames))
    moments = np.linspace(0, len(frames) - 1, count).round() if count > 1 else [len(frames) - 1]
    shown = frames[torch.as_tensor(np.asarray(moments, np.int64))]
    draw_grid(path, shown.transpose(0, 1).flatten(0, 1), columns=count, scale=scale)


def draw_rows(path: PathLike, rows: Mapping[str, Pixels], *, scale: int | None = None) -> None:
    """Rows of images as a PNG, each with its caption at the left.

    Arguments:
        path: The file.
        rows: caption -> (B, C, H, W) of uint8, all of one shape.
        scale: As for :func:`sheet`.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: There are no rows, or they have different shapes; or as for :func:`sheet`.
    """
    tensors = [as_tensor(pixels, f"row {name!r}") for name, pixels in rows.items()]
    shapes = {tuple(pixels.shape) for pixels in tensors}
    if len(shapes) != 1:
        raise ValueError(
            f"the shapes of the rows are {', '.join(map(str, sorted(shapes))) or 'none'}; give at least "
            "one row, all of one shape (B, C, H, W)."
        )
    (num, *_), *_ = shapes
    images = sheet(torch.cat(tensors), num, scale)
    gap = len(images) // len(rows)  # from one caption to the next
    heights = [(k + 0.5) * gap for k in range(len(rows))]
    margin = 2 * _ROOM + round(text_width(rows))
    picture = beside(
        images, list(rows), heights, margin=margin, left=_ROOM, ink=(0, 0, 0), ground=_GROUND
    )
    write_image(path, picture)


# animations --------------------


def animate_denoising(
    path: PathLike,
    frames: Pixels,
    *,
    columns: int | None = None,
    scale: int | None = None,
    fps: float = 15,
    hold: float = 1.5,
) -> None:
    """The denoising of images side by side, as a GIF that repeats.

    Grey values are exact. Colours are reduced to 255 for each frame, with dithering.

    Arguments:
        path: The file.
        frames: (T, B, C, H, W) of uint8, from noise to the images.
        columns: Images in a row, as for :func:`sheet`.
        scale: As for :func:`sheet`, but about 400 pixels in all by default: noise makes large GIFs.
        fps: Frames per second, at most 50; GIF counts time in hundredths of a second.
        hold: Seconds that the last frame is held.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: As for :func:`sheet`; or `fps` or `hold` is out of range.
    """
    values = _array(frames, "TBCHW")
    columns = _columns(columns, values.shape[1])
    scale = _scale(scale, columns, values.shape[2:4], _FILM)
    images, Image = [], pillow()[0]
    for k, frame in enumerate(values):
        if frame.shape[-1] == 1:
            indices, ground = frame[..., 0], _GROUND
            palette = np.arange(256, dtype=np.uint8).repeat(3).tobytes()
        else:
            indices, colors = _reduced(frame, careful=k == len(values) - 1)
            ground, palette = 255, bytes(colors) + bytes([_GROUND] * 3)
        image = Image.fromarray(_laid_out(indices, columns, scale, ground), "P")
        image.putpalette(palette)
        images.append(image)
    write_gif(path, images, fps=fps, hold=hold)


def _reduced(frame: np.ndarray, careful: bool) -> tuple[np.ndarray, list[int]]:
    """RGB images (B, H, W, 3) as numbers (B, H, W) of colours, and these 255 colours, flat.

    `careful` chooses the colours better, which is visible in a still picture and five times slower.
    """
    Image = pillow()[0]
    # before enlarging, so that dithering works on the images' own pixels
    tall = Image.fromarray(np.ascontiguousarray(frame).reshape(-1, *frame.shape[2:]))
    palette = tall.quantize(255, Image.Quantize.MEDIANCUT, kmeans=int(careful))
    numbers = tall.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    colors = (palette.getpalette() or [])[: 3 * 255]
    return np.asarray(numbers).reshape(frame.shape[:3]), colors + [0] * (3 * 255 - len(colors))

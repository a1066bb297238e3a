r"""Images of one size, as bytes in memory, and their scale in training.

:class:`Images` holds a uint8 tensor (M, C, H, W) and labels, if any, and checks itself when it is
built. What diffuses is :func:`from_uint8` of it, x0 = pixels / 127.5 − 1 in [−1, 1];
:func:`to_uint8` is the inverse, exact for all 256 values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.drawing import png, tiled

__all__ = ["ImageError", "Images", "as_tensor", "check_size", "from_uint8", "to_uint8"]

# bytes, and how many times those of the file: files of pictures never exceed both at once
_LARGE, _RATIO = 2**30, 100


class ImageError(ValueError):
    """Images, or a file of them, that cannot be right. The message names the place."""


@dataclass(frozen=True, eq=False)
class Images:
    """Many images of one size, checked.

    Arguments:
        pixels: (M, C, H, W) of uint8, on the CPU. C is 1 for grey and 3 for RGB; others are possible.
        labels: (M,), integers from 0, kept as int64; None without labels.
        classes: The labels' names; () without names.
        num_test: The last `num_test` images are the test part that the data set's authors defined.
        name: The source of the images; error messages begin with it.

    Raises:
        ImageError: The arrays do not fit together, or a label has no name among `classes`.
    """

    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    num_test: int = 0
    name: str = "images"

    def __post_init__(self) -> None:
        pixels = as_tensor(self.pixels, f"{self.name}: pixels")
        if pixels.ndim != 4 or pixels.dtype != torch.uint8:
            hint = "; to_uint8 makes bytes of [-1, 1]" if pixels.is_floating_point() else ""
            raise ImageError(
                f"{self.name}: pixels are {tuple(pixels.shape)} of {pixels.dtype}; give uint8 "
                f"(M, C, H, W){hint}."
            )
        last = pixels.shape[-1]
        if last in (1, 3) and pixels.shape[1] == pixels.shape[2] > 4:  # as Pillow has them
            raise ImageError(
                f"{self.name}: pixels are {tuple(pixels.shape)}, with {last} channels last; give "
                "(M, C, H, W), pixels.permute(0, 3, 1, 2) of a tensor."
            )
        if pixels.numel() == 0:
            raise ImageError(f"{self.name}: pixels are {tuple(pixels.shape)}; there is no image.")
        if pixels.device.type != "cpu":
            raise ImageError(f"{self.name}: pixels are on {pixels.device}; give them on the CPU.")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        whole = isinstance(self.num_test, (int, np.integer)) and not isinstance(self.num_test, bool)
        if not whole or not 0 <= self.num_test <= len(pixels):
            raise ImageError(
                f"{self.name}: num_test is {self.num_test!r} of {len(pixels)} images; give how many of "
                "the last ones are the test part."
            )
        if self.labels is not None:
            labels = as_tensor(self.labels, f"{self.name}: labels")
            object.__setattr__(self, "labels", self._checked(labels))

    def _checked(self, labels: Tensor) -> Tensor:
        inexact = labels.is_floating_point() or labels.is_complex()
        if labels.shape != self.pixels.shape[:1] or inexact or labels.dtype == torch.bool:
            raise ImageError(
                f"{self.name}: labels are {tuple(labels.shape)} of {labels.dtype}; give one integer "
                f"for each of the {len(self.pixels)} images."
            )
        labels = labels.to(torch.int64)
        wrong = labels < 0
        if self.classes:
            wrong |= labels >= len(self.classes)
        if wrong.any():
            m = int(wrong.to(torch.uint8).argmax())
            most = f"to {len(self.classes) - 1}, one for each name" if self.classes else "up"
            raise ImageError(f"{self.name}: image {m} has label {labels[m]}; labels are 0 {most}.")
        return labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the first images, if they have colours and Pillow is there."""
        if self.shape[0] not in (1, 3) or find_spec("PIL") is None:
            return None
        side = max(self.shape[1:])
        scale, every = max(1, 48 // side), math.ceil(side / 96)
        pixels = self.pixels[:64, :, ::every, ::every].permute(0, 2, 3, 1).numpy()
        large = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
        return png(tiled(np.broadcast_to(large, (*large.shape[:3], 3)), min(16, len(large)), 2))

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> Images:
        """Some of the images, in the given order; the result has no test part.

        Arguments:
            indices: Numbers of images, or a boolean mask (M,).

        Raises:
            IndexError: A number is out of range.
        """
        wanted = np.asarray(indices)
        chosen = np.arange(len(self))[wanted if wanted.size else wanted.astype(np.int64)]
        labels = None if self.labels is None else torch.from_numpy(self.labels.numpy()[chosen])
        pixels = torch.from_numpy(self.pixels.numpy()[chosen])
        return Images(pixels, labels, self.classes, name=self.name)

    @classmethod
    def concatenate(cls, parts: Iterable[Images], name: str | None = None) -> Images:
        """The images of several, one after the other; labels are kept if all have them.

        Arguments:
            parts: At least one, of one size and with the same classes.
            name: The name of the result; by default that of the first.

        Raises:
            ValueError: There are no parts, or they do not fit together.
        """
        parts = list(parts)
        if len({(part.shape, part.classes) for part in parts}) != 1:
            raise ValueError(
                f"images of {len({part.shape for part in parts})} sizes are given; give one part or more "
                "of one size, with the same classes."
            )
        each = [part.labels for part in parts if part.labels is not None]
        labels = torch.cat(each) if len(each) == len(parts) else None
        pixels = torch.cat([part.pixels for part in parts])
        return cls(pixels, labels, parts[0].classes, name=name or parts[0].name)


def as_tensor(values: Any, what: str) -> Tensor:
    """A tensor of the same numbers; of an array, whatever its strides and permissions.

    Arguments:
        values: A tensor, an array, or numbers in lists.
        what: What the error calls it.

    Raises:
        ImageError: It is none of these, or has masked values.
    """
    if np.ma.is_masked(values):
        raise ImageError(f"{what} have masked values; leave them out, or fill them.")
    try:
        if not isinstance(values, Tensor):
            values = np.asarray(values)
            if min(values.strides, default=0) < 0 or not values.flags.writeable:
                values = values.copy()
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = (
            f"an array of {values.dtype}"
            if isinstance(values, np.ndarray)
            else type(values).__name__
        )
        raise ImageError(f"{what} are {kind}; give a tensor or an array of numbers.") from error


def check_size(size: int, packed: int, name: str) -> None:
    """An error if a small file would fill the memory.

    Arguments:
        size: Its bytes unpacked, as it announces them.
        packed: Its bytes as they are.
        name: What the error calls it.

    Raises:
        ImageError: It is so.
    """
    if size > max(_LARGE, _RATIO * packed):
        raise ImageError(
            f"{name}: its {packed:,} bytes unpack to {size:,}, far more than pictures do. If you trust "
            "the file, unpack it yourself and give Images its arrays."
        )


def from_uint8(pixels: Tensor | np.ndarray) -> Tensor:
    """Bytes 0 … 255 to float32 in [−1, 1]: pixels / 127.5 − 1.

    Arguments:
        pixels: uint8, of any shape, as a tensor or an array.

    Raises:
        ValueError: `pixels` is not uint8.
    """
    pixels = as_tensor(pixels, "pixels")
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels are of {pixels.dtype}; give uint8.")
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor | np.ndarray) -> Tensor:
    """The inverse of :func:`from_uint8`: (x + 1) · 127.5, rounded and clamped to 0 … 255.

    Arguments:
        x: Floating point, of any shape, nominally in [−1, 1], as a tensor or an array.

    Raises:
        ValueError: `x` is not of a floating-point type, or not finite.
    """
    x = as_tensor(x, "x")
    if not x.is_floating_point():
        raise ValueError(f"x is of {x.dtype}; give floating-point numbers in [-1, 1].")
    x = x.float()  # bfloat16 cannot tell all bytes apart
    if not (finite := torch.isfinite(x)).all():
        raise ValueError(
            f"{int((~finite).sum())} of the {x.numel()} values of x are not finite and have no "
            "colour; the network or the sampling diverged."
        )
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

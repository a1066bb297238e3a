"""Handwritten digits on small canvases, with a text that says where which one is.

A canvas has two rows of two cells, and each cell one digit or none: "two sevens above a three on the
left". The text says all of it, and a classifier of digits says which cells of a drawn canvas are right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.checks import check_choice, check_shape, check_whole
from anydiff.data.vocabulary import Vocabulary
from anydiff.images.batches import ImageBatch, loader
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.images import Images, from_uint8
from anydiff.images.named import load_images, split
from anydiff.spaces import DENSE, Space

__all__ = [
    "CanvasReport",
    "Canvases",
    "OfCanvas",
    "canvases",
    "caption",
    "cells_of",
    "judge",
    "unseen",
]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MANY = tuple(f"{name}es" if name[-1] == "x" or name == "zero" else f"{name}s" for name in NAMES)
EMPTY = -1
LENGTH = 16
"""Words of the longest text, and a few."""
Make = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
FAINT = 16
"""The mean grey value, of 255, below which a cell is empty; digits have 50 and more."""


class Canvases(NamedTuple):
    """Canvases and what is on them.

    Arguments:
        pixels: (M, 1, 16, 16) of uint8.
        cells: (M, 2, 2), the digit in each cell, -1 for none.
        captions: A text for each.
    """

    pixels: Tensor
    cells: Tensor
    captions: list[str]

    def batches(
        self, vocabulary: Vocabulary, make: Make, batch_size: int = 64, seed: int = 0
    ) -> tuple[Any, Callable[[Any], Any]]:
        """A loader of canvases, and `unpack` of its batches, as a DiffusionModule takes it.

        Arguments:
            vocabulary: The words that are known.
            make: Pictures in [-1, 1] and words -> what diffuses, and its conditions.
            batch_size: Canvases of a batch.
            seed: Of their order.
        """
        words = vocabulary(self.captions, LENGTH)
        images = Images(self.pixels, torch.arange(len(self.pixels)))

        def unpack(batch: ImageBatch) -> Any:
            assert batch.labels is not None
            own = words[batch.labels.cpu()].to(batch.pixels.device)
            x0, cond = make(from_uint8(batch.pixels), own)
            return x0, DENSE, cond

        return loader(images, batch_size, seed=seed, labels=True), unpack


@dataclass(frozen=True)
class CanvasReport:
    """How well canvases show what was asked for.

    Arguments:
        cells: Share of cells that are right.
        whole: Share of canvases whose cells are all right.
        identity: Share of the digits asked for that are somewhere on the canvas.
        count: Share of canvases with as many digits as asked for.
    """

    cells: float
    whole: float
    identity: float
    count: float


class OfCanvas(nn.Module):
    """The embedding of a canvas and its time, for contrastive training: (B, 1, 16, 16) -> (B, width).

    Arguments:
        width: Of the embedding.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(2, 32, 3, padding=1)]
        for inputs, outputs, stride in ((32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
            layers += [nn.GroupNorm(8, inputs), nn.SiLU()]
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1)]
        layers += [nn.GroupNorm(8, 128), nn.SiLU(), nn.Flatten(), nn.Linear(128 * 16, width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x_t: Tensor, t: Tensor, *, space: Space = DENSE) -> Tensor:
        times = t[:, None, None, None].to(x_t.dtype).expand_as(x_t)
        y: Tensor = self.layers(torch.cat([x_t, times], 1))
        return y


def caption(cells: Tensor) -> str:
    """The text of a canvas.

    Arguments:
        cells: (2, 2).
    """
    above, below = (_row(*map(int, row)) for row in cells)
    return f"{above} above {below}"


def _row(left: int, right: int) -> str:
    if left == right == EMPTY:
        return "nothing"
    if left == right:
        return f"two {MANY[left]}"
    if EMPTY in (left, right):
        digit, side = (left, "left") if right == EMPTY else (right, "right")
        return f"{_article(digit)} on the {side}"
    return f"{_article(left)} left of {_article(right)}"


def _article(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {NAMES[digit]}"


def cells_of(text: str) -> Tensor:
    """What a text asks for, the inverse of :func:`caption`.

    Arguments:
        text: As :func:`caption` writes it.

    Raises:
        ValueError: If it is none.
    """
    rows = text.split(" above ")
    if len(rows) == 2:
        found = [_cells(row) for row in rows]
        if None not in found:
            return torch.tensor(found)
    raise ValueError(f"{text!r:.80} is no text of a canvas, such as 'two sevens above nothing'.")


def _cells(row: str) -> tuple[int, int] | None:
    numbers = {name: k for k, name in enumerate(NAMES)} | {name: k for k, name in enumerate(MANY)}
    if row == "nothing":
        return EMPTY, EMPTY
    if match := re.fullmatch(r"two (\w+)", row):
        digit = numbers.get(match[1], EMPTY)
        return (digit, digit) if digit != EMPTY else None
    if match := re.fullmatch(r"an? (\w+) on the (left|right)", row):
        digit = numbers.get(match[1], EMPTY)
        return None if digit == EMPTY else (digit, EMPTY) if match[2] == "left" else (EMPTY, digit)
    if match := re.fullmatch(r"an? (\w+) left of an? (\w+)", row):
        both = numbers.get(match[1], EMPTY), numbers.get(match[2], EMPTY)
        return None if EMPTY in both else both
    return None


def unseen(cells: Tensor) -> Tensor:
    """Which canvases have a pair side by side that is held out of training, one of nine, (M,).

    Arguments:
        cells: (M, 2, 2).
    """
    left, right = cells[..., 0], cells[..., 1]
    both = (left != EMPTY) & (right != EMPTY) & (left != right)
    return (both & ((right - left) % 10 == 3)).any(1)


def canvases(num: int, part: str = "train", *, seed: int = 0, held_out: bool = False) -> Canvases:
    """Canvases drawn at random: of the shipped digits, each cell empty once in four times.

    Arguments:
        num: M.
        part: "train", "valid" or "test" of the digits.
        seed: Of what is where.
        held_out: Only such as have a pair that is held out, or none of them.

    Raises:
        ValueError: If there is no such part, or `num` is negative.
    """
    check_whole("[0, inf)", num=num)
    check_choice(("train", "valid", "test"), part=part)
    images = load_images("digits")
    some = images.subset(getattr(split(images), part))
    assert some.labels is not None
    rng = np.random.default_rng(seed)
    chosen: np.ndarray = np.zeros((0, 2, 2), np.int64)
    while len(chosen) < num:
        some_cells = rng.integers(10, size=(2 * num + 100, 2, 2))
        twice = rng.random((len(some_cells), 2)) < 0.15  # two of one digit side by side
        some_cells[..., 1] = np.where(twice, some_cells[..., 0], some_cells[..., 1])
        some_cells[rng.random(some_cells.shape) < 0.25] = EMPTY
        fits = unseen(torch.from_numpy(some_cells)).numpy() == held_out
        chosen = np.concatenate([chosen, some_cells[fits & (some_cells != EMPTY).any((1, 2))]])
    chosen = chosen[:num]
    pixels = np.zeros((num, 2, 2, 8, 8), np.uint8)
    for digit in range(10):
        where = chosen == digit
        of = some.pixels[some.labels == digit].numpy()[:, 0]
        pixels[where] = of[rng.integers(len(of), size=where.sum())]
    together = pixels.transpose(0, 1, 3, 2, 4).reshape(num, 1, 16, 16)
    cells = torch.from_numpy(chosen)
    return Canvases(torch.from_numpy(together), cells, [caption(of) for of in cells])


def judge(pixels: Tensor, cells: Tensor, features: DigitFeatures | None = None) -> CanvasReport:
    """Whether canvases show what was asked for, cell by cell, by a classifier of digits.

    Arguments:
        pixels: (M, 1, 16, 16) of uint8.
        cells: (M, 2, 2), what was asked for.
        features: The classifier; the shipped one if None.

    Raises:
        ValueError: If pixels and cells do not fit each other.
    """
    check_shape((None, 1, 16, 16), "give canvases", torch.uint8, pixels=pixels)
    check_shape((len(pixels), 2, 2), "give the digits of each canvas", cells=cells)
    pixels, cells = pixels.cpu(), cells.cpu()
    each = pixels.view(-1, 2, 8, 2, 8).transpose(2, 3).reshape(-1, 1, 8, 8)
    found = (features or DigitFeatures.load()).logits(each).cpu().argmax(1)
    found = found.masked_fill(each.float().mean((1, 2, 3)) < FAINT, EMPTY).view(-1, 2, 2)
    right = found == cells
    asked, shown = (
        torch.nn.functional.one_hot(c.flatten(1).clamp(min=0), 16).mul(
            (c.flatten(1) >= 0)[..., None]
        )
        for c in (cells, found)
    )
    wanted, there = asked.sum(1), shown.sum(1)
    both = torch.minimum(wanted, there).sum() / wanted.sum().clamp(min=1)
    return CanvasReport(
        float(right.double().mean()),
        float(right.flatten(1).all(1).double().mean()),
        float(both),
        float((wanted.sum(1) == there.sum(1)).double().mean()),
    )

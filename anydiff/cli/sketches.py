"""What commands that draw sketches have in common, beside :mod:`anydiff.cli.flags`.

Sketches that were held out are completed (--inpaint), redrawn (--edit) or blended (--interpolate). Rows
are drawn in padded batches, and come back as those of each item, on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.cli.flags import SAMPLERS, draw, moments
from anydiff.data.sequences import Sequences, pad, pairs, split_items
from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import interpolate
from anydiff.samplers import Progress
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.films import animate_denoising, write_animated_svg
from anydiff.sketches.named import split
from anydiff.sketches.pictures import around, draw_grid, two_colors
from anydiff.sketches.rows import PointRows, StrokeRows
from anydiff.sketches.sketches import Sketches
from anydiff.spaces import Masked

__all__ = [
    "BLEND",
    "blend_sequences",
    "draw_sequences",
    "first_half",
    "held_out",
    "sound",
    "write_sketches",
]

BLEND = 8
"""Sketches from one of a pair to the other, both included."""


def held_out(
    args: argparse.Namespace, sketches: Sketches, rows: StrokeRows | PointRows
) -> Sketches:
    """What to begin from, of the validation part; for --interpolate pairs, one after the other."""
    valid = sketches.subset(split(sketches).valid)
    if not args.interpolate:
        return valid.subset(range(min(args.num, len(valid))))
    found = pairs(rows.encode(valid).sizes)
    if not len(found):
        raise ValueError(
            f"no two of the {len(valid)} held-out sketches have as many {args.rows}; --interpolate "
            "needs more data."
        )
    return valid.subset(found[: max(args.num // BLEND, 1)].ravel())


def first_half(sketches: Sketches) -> Sketches:
    """The strokes that --inpaint keeps: the first half of each, and the middle one."""
    return sketches.part(0, (np.diff(sketches.offsets) + 1) // 2)


def draw_sequences(
    args: argparse.Namespace,
    diffusion: GaussianDiffusion,
    lengths: Tensor,
    channels: int,
    *,
    items: Sequences | None = None,
    kept: Tensor | None = None,
    batch: int = 180,
    callback: Callable[[Progress], None] | None = None,
) -> list[Tensor]:
    """Rows as the flags say, (n, C) each: from noise, or from data.

    Arguments:
        lengths: Rows of each, (M,).
        channels: C.
        items: Data that --edit and --inpaint begin from, as long as that.
        kept: How many of the first rows of each --inpaint keeps, (M,).
        batch: Items drawn at once.
    """
    device = next(diffusion.parameters()).device
    drawn: list[Tensor] = []
    for start in range(0, len(lengths), batch):
        some = slice(start, start + batch)
        space = Masked.from_lengths(lengths[some], device=device)
        data: dict[str, Any] = {}
        if items is not None:
            data["x"] = _padded(items, range(len(items))[some])[0].to(device)
        if items is not None and kept is not None:
            rows = torch.arange(space.mask.shape[1])
            data["known"] = (rows < kept[some, None]).to(device)
        shape = (*space.mask.shape, channels)
        x = draw(args, diffusion, shape, space, start, **data, callback=callback)
        drawn += [item.cpu() for item in split_items(x, space.mask)]
    return drawn


def blend_sequences(
    args: argparse.Namespace,
    diffusion: GaussianDiffusion,
    items: Sequences,
    steps: int = BLEND,
    batch: int = 180,
) -> list[Tensor]:
    """From each item of a pair to the other in so many steps, both ends included, (n, C) each.

    Arguments:
        items: Pairs one after the other: the two of a pair are of one length.
        steps: Items made of a pair, which lie one after the other.
        batch: Items drawn at once, about.
    """
    device = next(diffusion.parameters()).device
    # there is no way back through an ancestral step
    sampler = SAMPLERS["dpm" if args.sampler == "ddpm" else args.sampler]
    numbers = list(range(len(items)))
    at_once = 2 * max(batch // steps, 1)
    drawn: list[Tensor] = []
    for start in range(0, len(items), at_once):
        x, mask = _padded(items, numbers[start : start + at_once])
        if not torch.equal(mask[::2], mask[1::2]):
            raise ValueError(
                f"the pairs have {mask.sum(1).tolist()} rows; give pairs of as many each, one pair "
                "after the other."
            )
        x, space = x.to(device), Masked(mask[::2].to(device))
        predictor = diffusion.predictor(space)
        between = interpolate(
            predictor, x[::2], x[1::2], steps, sampler=sampler, steps=args.steps
        ).cpu()
        for pair, length in enumerate(space.lengths.tolist()):
            drawn += list(between[:, pair, :length])
    return drawn


def _padded(items: Sequences, numbers: range | list[int]) -> tuple[Tensor, Tensor]:
    return pad([items[m] for m in numbers])


def sound(drawn: list[Tensor], all_of_them: bool = False) -> list[Tensor]:
    """Those that are finite; the command says how many are not.

    Arguments:
        all_of_them: None may be left out, since each has its place.
    """
    finite = [item for item in drawn if item.isfinite().all()]
    if not finite or (all_of_them and len(finite) < len(drawn)):
        raise ValueError(
            f"{len(drawn) - len(finite)} of {len(drawn)} sketches did not come out finite: the "
            "training diverged; lower --lr."
        )
    if len(finite) < len(drawn):
        print(f"{len(drawn) - len(finite)} sketches are left out: not finite")
    return finite


def write_sketches(
    args: argparse.Namespace,
    folder: Path,
    drawn: Sketches,
    path: list[Sketches],
    before: Sketches | None = None,
) -> None:
    """The files of what was drawn, and before.png of what it was begun from.

    Arguments:
        path: The first ones after each step, for a film.
        before: In pictures of the same frame; of a completed sketch, what was kept is in ink.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_ndjson(folder / "samples.ndjson", drawn)
    shown = drawn.subset(range(min(64, len(drawn))))
    look: dict[str, Any] = {}
    if before is not None:
        before = before.subset(range(min(64, len(before))))
        look["fit"] = around(before)
        if args.inpaint:
            before = first_half(before)
            look["stroke_colors"] = two_colors(shown, np.diff(before.offsets))
        draw_grid(folder / "before.png", before, columns=16, fit=look["fit"])
    draw_grid(folder / "samples.png", shown, columns=16, **look)
    write_animated_svg(folder / "drawing.svg", drawn[0])
    if path:  # blends have none
        frames = [path[k] for k in moments(len(path))]
        animate_denoising(folder / "denoising.gif", frames, size=180, fps=15)

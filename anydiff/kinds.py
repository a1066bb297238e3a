"""What the models of all kinds of data share: items are drawn batch after batch, each by its own seed.

A model of a kind (:mod:`anydiff.molecules.models`, :mod:`anydiff.sketches.models`,
:mod:`anydiff.images.models`) holds a diffusion and what its data need beside it. It says how a batch is
made and what becomes of the rows that were drawn; :func:`draw_all` does the rest. An item has the same
seed in whatever batch it is drawn, so that a drawing that was broken off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypedDict, TypeVar

import torch
from torch import Tensor

from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import edit, inpaint
from anydiff.guidance import classifier_free
from anydiff.samplers import DDPM, Progress, Sampler, sample
from anydiff.spaces import Space, child

__all__ = ["Batch", "How", "Stopped", "calls", "draw_all"]

Data = TypeVar("Data")


class How(TypedDict, total=False):
    """How items are drawn: keyword arguments of the models' methods.

    Arguments:
        sampler: The rule of one step; ancestral, :class:`anydiff.DDPM`, by default.
        steps: Steps of the sampler, 100 by default.
        guidance: The scale of classifier-free guidance: 0 ignores a condition, 1, the default, follows
            it as it was learned, more exaggerates it.
        seed: Of the whole; every item has one of its own made of it. 0 by default.
        skip: So many items were drawn by an earlier call with the same arguments and are left out.
        batch: Items drawn at once.
        progress: Show a bar for each batch.
    """

    sampler: Sampler | None
    steps: int
    guidance: float
    seed: int
    skip: int
    batch: int
    progress: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """Items that are drawn together.

    Arguments:
        shape: Of all of them, as the space has it.
        space: Where their noise lives, on the device of the diffusion.
        cond: Conditions, by name.
        x: Data to begin from, of this shape; None begins from noise.
        known: Which entries of x are kept, as :func:`anydiff.inpaint` takes them.
    """

    shape: Sequence[int]
    space: Space
    cond: Mapping[str, Tensor] = field(default_factory=dict)
    x: Tensor | None = None
    known: Tensor | None = None


class Stopped(KeyboardInterrupt, Generic[Data]):
    """A drawing was stopped by Ctrl-C, and whole batches had been drawn.

    Arguments:
        drawn: What there is, as the call would have returned it.
        num: How many items that are, of those that were asked for, those skipped included.
    """

    def __init__(self, drawn: Data, num: int) -> None:
        super().__init__(f"{num} items are drawn; skip={num} draws the others.")
        self.drawn, self.num = drawn, num


def draw_all(
    diffusion: GaussianDiffusion,
    num: int,
    make: Callable[[slice], Batch],
    finish: Callable[[list[Tensor]], Data],
    *,
    watch: Callable[[Tensor], None] | None = None,
    strength: float | None = None,
    resamples: int = 5,
    sampler: Sampler | None = None,
    steps: int = 100,
    guidance: float = 1.0,
    seed: int = 0,
    skip: int = 0,
    batch: int = 100,
    progress: bool = False,
) -> Data:
    """Items of one kind, drawn batch after batch.

    Arguments:
        diffusion: The model.
        num: How many items there are in all.
        make: The items of a range -> their batch.
        finish: What was drawn, a tensor for each batch on the CPU -> data of the kind.
        watch: Called with the state of the first batch after each step.
        strength: The time in (0, 1] to which x is noised before it is denoised.
        resamples: How many times each step is repeated where a part is known.
        sampler, steps, guidance, seed, skip, batch, progress: See :class:`How`.

    Raises:
        Stopped: After Ctrl-C, if whole batches are drawn by then. It is a ``KeyboardInterrupt``.
        ValueError: If nothing is left to draw.
    """
    if not 0 <= skip < num:
        raise ValueError(
            f"skip is {skip} of {num} items; give less, so that some are left to draw."
        )
    drawn: list[Tensor] = []

    def see(p: Progress) -> None:
        if watch is not None and not drawn:
            watch(p.x_s.cpu())

    start = skip
    try:
        for start in range(skip, num, batch):
            some = slice(start, min(start + batch, num))
            made = make(some)
            predictor = diffusion.predictor(made.space, **made.cond)
            if made.cond and guidance != 1:
                predictor = classifier_free(predictor, diffusion.predictor(made.space), guidance)
            options: dict[str, Any] = {
                "steps": steps,
                # the same for an item in whatever batch it is
                "seed": [child(seed, k) for k in range(some.start, some.stop)],
                "progress": progress,
                "callback": see,
            }
            if made.x is not None and made.known is not None:
                # the smaller variance falls short where steps are repeated
                options["sampler"] = sampler or DDPM("large")
                x = inpaint(predictor, made.x, made.known, resamples=resamples, **options)
            elif made.x is not None and strength is not None:
                x = edit(predictor, made.x, strength, sampler=sampler or DDPM(), **options)
            else:
                x = sample(predictor, made.shape, sampler or DDPM(), **options)
            drawn.append(x.cpu())
    except KeyboardInterrupt as stop:
        if not drawn:
            raise
        raise Stopped(finish(drawn), start) from stop
    return finish(drawn)


def calls(steps: int, guidance: float = 1.0, conditions: bool = False, resamples: int = 1) -> int:
    """Network calls for an item.

    Arguments:
        steps: Of the sampler, with one call each.
        guidance: The scale.
        conditions: Whether there is a condition that guidance is about.
        resamples: How many times each step is repeated.
    """
    twice = conditions and guidance not in (0, 1)  # with the condition, and without
    return steps * resamples * (2 if twice else 1)


def finite(items: Sequence[Tensor], kind: str, all_of_them: bool = False) -> Tensor:
    """Which of the items are finite, (M,) of booleans; a warning says how many are left out.

    Arguments:
        items: The rows or pixels of each.
        kind: What they are, in the plural.
        all_of_them: None may be left out, since each has its place.

    Raises:
        ValueError: If none is finite, or not all where all are needed.
    """
    import warnings

    sound = torch.tensor([bool(item.isfinite().all()) for item in items])
    lost = int((~sound).sum())
    if lost and (all_of_them or lost == len(items)):
        raise ValueError(
            f"{lost} of the {len(items)} {kind} are not finite: the training diverged; train again "
            "with a smaller lr."
        )
    if lost:
        warnings.warn(
            f"{lost} of the {len(items)} {kind} are not finite and left out.", stacklevel=3
        )
    return sound

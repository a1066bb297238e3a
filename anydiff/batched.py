"""Sampling in batches, with a seed for each item, for models of any kind of data.

:func:`draw_all` does what the models of all kinds have in common: runs from noise, from data and around
known parts, with guidance, of data or of their latents. The seed of an item does not depend on its batch,
so that an interrupted run can continue where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypedDict, TypeVar

import torch
from torch import Tensor

from anydiff.checkpoints.saving import bare
from anydiff.checks import check_range
from anydiff.denoisers import Completing
from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import complete, edit, inpaint
from anydiff.guidance import classifier_free
from anydiff.latent import Latent
from anydiff.losses import Rows
from anydiff.predictions import Predictor
from anydiff.samplers import DDPM, Progress, Sampler, sample
from anydiff.spaces import Space, child

__all__ = [
    "Batch", "How", "Stopped", "calls", "completes", "draw_all", "finite", "in_batches", "latent_shape",
    "steps_of", "to_data", "to_latents",
]  # fmt: skip

Data = TypeVar("Data")

_LARGE = 1e18


class How(TypedDict, total=False):
    """How items are sampled: keyword arguments of the models' methods.

    Arguments:
        sampler: The sampler; None takes that of the run of a distilled model, and ancestral sampling,
            :class:`anydiff.DDPM`, for others.
        steps: The number of sampling steps; None takes the run of a distilled model, and 100 for others.
        guidance: The scale of classifier-free guidance: 0 is unconditional, 1, the default, conditional,
            above 1 stronger. A distilled model takes 1 only: what guidance it has was folded in.
        seed: The seed of the run, from which a seed for each item is derived. 0 by default.
        skip: The number of items that an earlier call with the same arguments has sampled; these are
            left out.
        stop: The number of the item before which to stop; all of them by default.
        batch: The number of items sampled at once; of molecules of the mean size, and fewer of larger
            ones. Where a device has not the memory, batches are halved.
        progress: Show a progress bar for each batch.
    """

    sampler: Sampler | None
    steps: int | None
    guidance: float
    seed: int
    skip: int
    stop: int | None
    batch: int
    progress: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """Items that are sampled together.

    Arguments:
        shape: The shape of the whole batch, as its space defines it.
        space: The batch's space, on the device of the diffusion.
        cond: Conditions, by name.
        x: Data to start from, of this shape; None starts from noise.
        known: Which entries of x are kept: a mask, as :func:`anydiff.inpaint` takes it.
    """

    shape: Sequence[int]
    space: Space
    cond: Mapping[str, Tensor] = field(default_factory=dict)
    x: Tensor | None = None
    known: Tensor | None = None


class Stopped(KeyboardInterrupt, Generic[Data]):
    """Sampling was stopped by Ctrl-C after at least one complete batch.

    Arguments:
        drawn: The items sampled so far, in the form in which the call would have returned them.
        num: The number of items that are done, including those that were skipped.
    """

    def __init__(self, drawn: Data, num: int) -> None:
        super().__init__(f"{num} items are drawn; skip={num} draws the others.")
        self.drawn, self.num = drawn, num


def draw_all(
    diffusion: GaussianDiffusion | Latent,
    num: int,
    make: Callable[[slice], Batch],
    finish: Callable[[list[Tensor]], Data],
    *,
    watch: Callable[[Tensor], None] | None = None,
    strength: float | None = None,
    resamples: int = 5,
    sampler: Sampler | None = None,
    steps: int | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    skip: int = 0,
    stop: int | None = None,
    batch: int = 100,
    costs: Tensor | None = None,
    progress: bool = False,
) -> Data:
    """Sample items of one kind in batches.

    Arguments:
        diffusion: The model.
        num: The number of items in all, including those that are skipped.
        make: A slice of the items -> their batch.
        finish: The samples, a CPU tensor for each batch -> data of the kind.
        watch: Called with the state of the first batch after each step.
        strength: The time in (0, 1] up to which x is noised before it is denoised; for a distilled model
            one of its rows. 0 is the reconstruction of a latent model, which needs no run.
        resamples: How many times each step is repeated when a part of x is known, but for a model that
            completes.
        sampler: See :class:`How`.
        steps: See :class:`How`.
        guidance: See :class:`How`.
        seed: See :class:`How`.
        skip: See :class:`How`.
        stop: See :class:`How`.
        batch: See :class:`How`.
        costs: As :func:`in_batches` takes them.
        progress: See :class:`How`.

    Returns:
        What `finish` returns.

    Raises:
        Stopped: After Ctrl-C, if at least one batch is complete. It is a ``KeyboardInterrupt``.
        ValueError: If `skip` leaves no items to sample, the guidance is not finite, a batch is empty, or
            a distilled model is not for such a run.
    """
    check_range("(-inf, inf)", guidance=guidance)
    if strength:
        strength = _first_time(diffusion, strength)
    whole = completes(diffusion)

    def draw(some: slice, seeds: list[int]) -> Tensor:
        made = make(some)

        def see(p: Progress) -> None:
            if watch is not None and some.start == skip:
                watch(to_data(diffusion, p.x_s, made.space).cpu())

        shape = latent_shape(diffusion, made.shape)
        begun = None if made.x is None else to_latents(diffusion, made.x, made.space)
        if made.known is not None and isinstance(diffusion, Latent):
            raise ValueError(
                "the model draws latents, of which a known part of the data is no part; edit instead, or "
                "take a model without latents."
            )
        guided = partial(_guided, diffusion, made.cond, guidance)
        predictor, repeated = guided(made.space), made.known is not None and not whole
        options: dict[str, Any] = {
            "sampler": sampler, "steps": steps, "seed": seeds, "progress": progress, "callback": see,
        }  # fmt: skip
        if predictor.run is None:  # a distilled model takes its own where none is given
            # the smaller variance is slightly too small, which adds up over repeated steps
            options["sampler"] = sampler or (DDPM("large") if repeated else DDPM())
            options["steps"] = 100 if steps is None else steps
        if begun is not None and made.known is not None and whole:
            x = complete(guided, begun, known=made.known, space=made.space, **options)[0]
        elif begun is not None and made.known is not None:
            x = inpaint(predictor, begun, made.known, resamples=resamples, **options)
        elif begun is not None and strength == 0 and isinstance(diffusion, Latent):
            x = begun
        elif begun is not None and strength is not None:
            x = edit(predictor, begun, strength, **options)
        else:
            x = sample(predictor, shape, **options)
        return to_data(diffusion, x, made.space).cpu()

    own: dict[str, Any] = {"skip": skip, "stop": stop, "batch": batch, "costs": costs}
    return in_batches(num, draw, finish, seed=seed, **own)


def in_batches(
    num: int,
    draw: Callable[[slice, list[int]], Tensor],
    finish: Callable[[list[Tensor]], Data],
    *,
    seed: int = 0,
    skip: int = 0,
    stop: int | None = None,
    batch: int = 100,
    costs: Tensor | None = None,
) -> Data:
    """Sample items batch by batch, until all are done or Ctrl-C is pressed.

    Arguments:
        num: The number of items in all, including those that are skipped.
        draw: A slice of the items and a seed for each, which does not depend on its batch -> the batch.
            It is called again with fewer items if there is not the memory for so many.
        finish: The batches -> data of the kind.
        seed: See :class:`How`.
        skip: See :class:`How`.
        stop: See :class:`How`.
        batch: See :class:`How`.
        costs: What each item takes of memory and time, (num,), in any unit; None if all take the same.

    Returns:
        What `finish` returns.

    Raises:
        Stopped: As :func:`draw_all`.
        ValueError: If `skip` and `stop` leave no items to sample, or a batch is empty.
    """
    end = num if stop is None else stop
    if not 0 <= skip < end <= num:
        until = "" if stop is None else f" and stop is {stop}"
        raise ValueError(
            f"skip is {skip}{until} of {num} items; give less, so that some are left to draw."
        )
    check_range("[1, inf)", batch=batch)
    each = torch.ones(num) if costs is None else costs
    before = torch.cat([torch.zeros(1, dtype=torch.float64), each.double().cumsum(0)])
    room = batch * float(before[-1]) / num * (1 + 1e-9)
    drawn: list[Tensor] = []
    start = skip
    try:
        while start < end:
            last = int(torch.searchsorted(before, before[start] + room, right=True)) - 1
            some = slice(start, min(max(last, start + 1), end))
            try:
                drawn.append(draw(some, [child(seed, k) for k in range(some.start, some.stop)]))
                start = some.stop
            except torch.OutOfMemoryError:
                if some.stop == start + 1:
                    raise
                room = float(before[some.stop] - before[start]) / 2
    except KeyboardInterrupt as interrupt:
        if not drawn:
            raise
        raise Stopped(finish(drawn), start) from interrupt
    return finish(drawn)


def latent_shape(diffusion: GaussianDiffusion | Latent, shape: Sequence[int]) -> Sequence[int]:
    """The shape of what a diffusion draws, for data of a shape.

    Arguments:
        diffusion: Of the data, or of latents.
        shape: That of the data.
    """
    return diffusion.autoencoder.latent_shape(shape) if isinstance(diffusion, Latent) else shape


@torch.no_grad()
def to_latents(diffusion: GaussianDiffusion | Latent, x: Tensor, space: Space) -> Tensor:
    """What a diffusion begins from: data, or their latents without the posterior's noise.

    Arguments:
        diffusion: Of the data, or of latents.
        x: Data.
        space: Their space.
    """
    return diffusion.encode(x, space, mode=True) if isinstance(diffusion, Latent) else x


@torch.no_grad()
def to_data(diffusion: GaussianDiffusion | Latent, x: Tensor, space: Space) -> Tensor:
    """The data of what a diffusion has drawn.

    Arguments:
        diffusion: Of the data, or of latents.
        x: A state of it.
        space: That of the data.
    """
    return diffusion.decode(x, space) if isinstance(diffusion, Latent) else x


def completes(diffusion: GaussianDiffusion | Latent) -> bool:
    """Whether a model was trained to complete items of which a part is known, in one run.

    Arguments:
        diffusion: The model.
    """
    return isinstance(bare(diffusion), Completing)


def _guided(
    diffusion: GaussianDiffusion | Latent,
    cond: Mapping[str, Tensor],
    guidance: float,
    space: Space,
    **given: Tensor,
) -> Predictor:
    """A predictor with conditions, guided by them; what is given of the items themselves always is."""
    told = diffusion.predictor(space, **cond, **given)
    if not cond or guidance == 1:
        return told
    return classifier_free(told, diffusion.predictor(space, **given), guidance)


def _first_time(diffusion: GaussianDiffusion | Latent, strength: float) -> float:
    """The time to begin at; of a distilled model the row that is given in four digits."""
    rows = diffusion.times
    if not isinstance(rows, Rows) or not 0 < strength <= 1:
        return strength
    row: float = rows.times[rows.nearest(strength)]
    if abs(row - strength) > 1e-3 * row:
        known = " or ".join(f"{t:.4g}" for t in rows.times[:-1])
        raise ValueError(
            f"strength is {strength:g}, and the model was distilled for a run through some times alone; "
            f"give {known}, or its teacher."
        )
    return row


def steps_of(diffusion: GaussianDiffusion | Latent, steps: int, strength: float = 1.0) -> int:
    """The number of steps of a run: those of a distilled model from the strength on, or `steps`.

    Arguments:
        diffusion: The model.
        steps: The number of steps of a model that is not distilled.
        strength: The time at which the run begins.
    """
    if not isinstance(rows := diffusion.times, Rows):
        return steps
    return sum(t <= 1.001 * strength for t in rows.times[:-1])


def calls(steps: int, guidance: float = 1.0, conditions: bool = False, resamples: int = 1) -> int:
    """The number of network calls for an item.

    Arguments:
        steps: The number of sampling steps, of one call each.
        guidance: The guidance scale.
        conditions: Whether there is a condition to guide with.
        resamples: How many times each step is repeated.
    """
    twice = conditions and guidance not in (0, 1)  # with the condition, and without
    return steps * resamples * (2 if twice else 1)


def finite(items: Sequence[Tensor], kind: str, all_of_them: bool = False) -> Tensor:
    """Which of the items are finite, (M,), boolean; a warning states how many are left out.

    Numbers whose squares are infinite in float32 are not, as no distance follows from them.

    Arguments:
        items: The rows or pixels of each item.
        kind: What the items are called in messages, in the plural.
        all_of_them: Whether every item is needed, so that none may be left out.

    Raises:
        ValueError: If no item is finite, or if not all are where all are needed.
    """
    import warnings

    sound = torch.tensor([bool((item.abs() < _LARGE).all()) for item in items])  # not if nan
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

"""What is known of an item stays, and the rest is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.editing.kept import Kept, Report, back, check_floating, noise_at
from anydiff.editing.several import several
from anydiff.predictions import Predictor
from anydiff.samplers import DDPM, Grid, Progress, Sampler, Seed, Steps, follow, generators, plan
from anydiff.spaces import Space, supports

__all__ = ["ilvr", "impute", "inpaint"]

Callback = Callable[[Progress], None]


def inpaint(
    predictor: Predictor,
    x: Tensor,
    known: Tensor,
    *,
    sampler: Sampler = DDPM("large"),  # noqa: B008
    steps: Steps = 50,
    resamples: int = 5,
    jump: int = 1,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Draw the rest of an item of which a part is known.

    After every step the known part is replaced by what it is at that level of noise. RePaint goes each
    stretch of `jump` steps several times: the state is noised back to where the stretch began, so that
    what is drawn and what is known come to terms. It takes `steps` times `resamples` network calls.

    Arguments:
        x: The data, of which only the known part is looked at.
        known: What is kept, True: booleans of x's shape, in which axes may be 1, or of its first axes, as
            (B, N) or the rows (N,) of a ragged batch.
        resamples: How often a stretch is gone. 1 is plain replacement, which knows too late what it
            should fit to.
        jump: Steps of a stretch. A multistep sampler begins anew with each.
        sampler: The larger of the two ancestral variances, since the smaller one, which falls short a
            little in each step, adds up where steps are repeated.
        steps, grid, seed, callback, progress: See :func:`anydiff.sample`.

    Returns:
        Shaped like x. The known part is x's to the last bit; of centred columns, relative to one another
        and to rounding.

    References:
        RePaint (Lugmayr et al., 2022), algorithm 1 and section 4.2. https://arxiv.org/abs/2201.09865
    """
    if resamples < 1 or jump < 1:
        raise ValueError(f"resamples is {resamples} and jump {jump}; give 1 or more.")
    space: Any = predictor.space
    _check_restricts(space)
    check_floating(x)
    known = _entries(known, x)

    def part(z: Tensor) -> Tensor:
        return space.restrict(z, known)

    x0 = part(x.masked_fill(~known, 0))
    kept = Kept(sampler, x0, part)
    intervals = plan(predictor.schedule, steps, grid, kept)
    generator = generators(seed, x.device)
    z = kept.replaced(
        noise_at(intervals[0].t, x, space, generator), intervals[0].t, space, generator
    )

    jump = (
        len(intervals) if resamples == 1 else jump
    )  # a multistep sampler then looks back all along
    stretches = [intervals[k : k + jump] for k in range(0, len(intervals), jump)]
    report = Report(callback, progress, resamples * len(intervals))
    with report:
        for stretch in stretches:
            for again in range(resamples):
                if again:
                    z = back(z, stretch[-1].s, stretch[0].t, space, generator)
                z = follow(predictor, z, kept, stretch, generator, report)
    return z


def impute(
    predictor: Predictor,
    x: Tensor,
    n: int = 1,
    *,
    known: Tensor | None = None,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    """Draw what is missing, several times.

    Arguments:
        x: The data, NaN where a value is missing.
        n: How many draws.
        known: What is kept, if not all that is not NaN.
        seed: One number, or one for each item; the draws differ.
        options: Of :func:`inpaint`.

    Returns:
        All draws, (n, \\*x.shape).
    """
    seen = ~x.isnan()
    known = seen if known is None else _entries(known, x) & seen
    x, space = x.nan_to_num(), predictor.space
    return several(
        predictor,
        n,
        [x, known],
        lambda p, x, known, seed: inpaint(p, x, known, seed=seed, **options),
        seed,
        len(space.dim(x)),
    )


def ilvr(
    predictor: Predictor,
    reference: Tensor,
    low_pass: Callable[[Tensor], Tensor],
    *,
    until: float = 0.0,
    sampler: Sampler = DDPM(),  # noqa: B008
    steps: Steps = 100,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Draw items that look like the reference to a low-pass operator.

    .. math:: x_s \leftarrow x_s + \phi(\alpha_s y + \sigma_s \epsilon) - \phi(x_s)

    Arguments:
        reference: y, data.
        low_pass: phi, linear, from states to states: down and up again, a smoothing.
        until: The time down to which the reference is heeded; below, the model is free.
        steps, sampler, grid, seed, callback, progress: See :func:`anydiff.sample`.

    References:
        ILVR (Choi et al., 2021), algorithm 1. https://arxiv.org/abs/2108.02938
    """
    space, generator = predictor.space, generators(seed, reference.device)
    kept = Kept(sampler, space.project(reference), lambda z: space.project(low_pass(z)), until)
    intervals = plan(predictor.schedule, steps, grid, kept)
    z = noise_at(intervals[0].t, reference, space, generator)
    return follow(predictor, z, kept, intervals, generator, callback, progress)


def _entries(known: Tensor, x: Tensor) -> Tensor:
    """A mask of rows or of entries, shaped like x."""
    if known.dtype != torch.bool:
        raise ValueError(f"known is of {known.dtype}; give booleans, True where x stays.")
    fits = known.ndim <= x.ndim and all(
        k == n or (k == 1 and known.ndim == x.ndim)
        for k, n in zip(known.shape, x.shape, strict=False)
    )
    if not (known.ndim and fits):
        raise ValueError(
            f"known is {tuple(known.shape)} and x {tuple(x.shape)}; give it x's shape, or that of its "
            "first axes."
        )
    return known.reshape(known.shape + (1,) * (x.ndim - known.ndim)).expand_as(x)


def _check_restricts(space: Space) -> None:
    if not supports(space, "restrict"):
        raise ValueError(
            f"{type(space).__name__} has no method `restrict`, which says what a part of an item is; "
            "write it: restrict(x, mask) projects onto the states that are zero outside the mask."
        )

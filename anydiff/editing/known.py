"""What is known of an item stays, and the rest is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.editing.kept import Kept, back, check_floating
from anydiff.editing.several import several
from anydiff.predictions import Predictor
from anydiff.samplers import DDPM, Callback, Grid, Sampler, Steps, follow, plan
from anydiff.samplers.loop import first_noise, watched
from anydiff.spaces import Seed, generators

__all__ = ["ilvr", "impute", "inpaint"]


def inpaint(
    predictor: Predictor,
    x: Tensor,
    known: Tensor,
    *,
    sampler: Sampler = DDPM("large"),
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
        resamples: How many times each stretch is repeated. 1 is plain replacement, which fits what is
            drawn poorly to what is known.
        jump: Steps of a stretch. A multistep sampler begins anew with each.
        sampler: The larger of the two ancestral variances, since the smaller one, which falls short a
            little in each step, adds up where steps are repeated.
        steps, grid, seed, callback, progress: See :func:`anydiff.sample`.

    Returns:
        Shaped like x. The known part is x's to the last bit; of centred columns, relative to one another
        and to rounding.

    Raises:
        ValueError: If `known` has another shape or is not of booleans, or as of :func:`anydiff.sample`.
        NotImplementedError: If the space does not define `restrict`.

    References:
        RePaint (Lugmayr et al., 2022), algorithm 1 and section 4.2. https://arxiv.org/abs/2201.09865
    """
    check_range("[1, inf)", resamples=resamples, jump=jump)
    space = predictor.space
    check_floating(x)
    known = _entries(known, x)

    def part(z: Tensor) -> Tensor:
        return space.restrict(z, known)

    kept = Kept(sampler, part(x.masked_fill(~known, 0)), part)
    levels = plan(predictor.schedule, steps, kept, grid)
    generator, num = generators(seed, x.device), len(levels) - 1
    z = first_noise(levels[0], x, predictor, generator)
    z = kept.replaced(z, levels[0], space, generator)

    # without repetition a multistep sampler looks back all along
    jump = num if resamples == 1 else jump
    with watched(resamples * num, callback, progress) as report:
        for k in range(0, num, jump):
            stretch = levels[k : k + jump + 1]
            for again in range(resamples):
                if again:
                    z = back(z, stretch[-1], stretch[0], space, generator)
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

    def one(p: Predictor, x: Tensor, known: Tensor, seed: Seed) -> Tensor:
        return inpaint(p, x, known, seed=seed, **options)

    return several(predictor, n, [x.nan_to_num(), known], one, seed)


def ilvr(
    predictor: Predictor,
    reference: Tensor,
    low_pass: Callable[[Tensor], Tensor],
    *,
    until: float = 0.0,
    sampler: Sampler = DDPM(),
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

    Raises:
        ValueError: As of :func:`anydiff.sample`.

    References:
        ILVR (Choi et al., 2021), algorithm 1. https://arxiv.org/abs/2108.02938
    """
    space, generator = predictor.space, generators(seed, reference.device)
    kept = Kept(sampler, space.project(reference), lambda z: space.project(low_pass(z)), until)
    levels = plan(predictor.schedule, steps, kept, grid)
    z = first_noise(levels[0], reference, predictor, generator)
    with watched(len(levels) - 1, callback, progress) as report:
        return follow(predictor, z, kept, levels, generator, report)


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

"""Editing that keeps a known part of each item: inpainting, imputation, completion and ILVR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from anydiff.checks import check_floating, check_kind, check_whole
from anydiff.diffusion import GaussianDiffusion
from anydiff.editing.kept import Kept, back, data, finite
from anydiff.editing.several import several
from anydiff.predictions import Predictor, check_predictor
from anydiff.samplers import DDPM, Callback, Grid, Progress, Sampler, Steps, follow, plan, sample
from anydiff.samplers.loop import chosen, first_noise, watched
from anydiff.spaces import DENSE, Rest, Seed, Space, check_space, generators
from anydiff.spaces.rest import entries

__all__ = ["complete", "ilvr", "impute", "inpaint"]


def inpaint(
    predictor: Predictor,
    x: Tensor,
    known: Tensor,
    *,
    sampler: Sampler | None = None,
    steps: Steps | None = None,
    resamples: int = 5,
    jump: int = 1,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
    grad: bool = False,
) -> Tensor:
    r"""Inpainting: keep the known part of each item and generate the rest.

    After every step the known part is replaced by the known data, noised to the level of the step.
    RePaint repeats each stretch of `jump` steps: it noises the state back to the start of the stretch, so
    that the generated part adapts to the known part. A run takes `steps` times `resamples` network calls.

    Arguments:
        predictor: The model, bound to its batch.
        x: The data; only the known part is used.
        known: Booleans, True where x is kept: of the shape of x, where the length of an axis may be 1, or
            of the shape of its first axes, such as (B, N), or the rows (N,) of a ragged batch.
        sampler: The rule for one step; None takes ``DDPM("large")``. Of the two ancestral variances the
            smaller one is slightly too small in each step, which adds up over repeated steps.
        steps: The number of steps, or the times, see :func:`anydiff.sample`; None takes 50.
        resamples: How many times each stretch is repeated. 1 is plain replacement, which harmonises the
            two parts poorly.
        jump: The number of steps of a stretch. A multistep sampler restarts with each stretch.
        grid: Where the times lie, see :func:`anydiff.sample`.
        seed: An int, or one per item, see :func:`anydiff.sample`.
        callback: Called after each step with a :class:`~anydiff.samplers.Progress`.
        progress: Show a progress bar.
        grad: Keep the graph of the run, see :func:`anydiff.sample`.

    Returns:
        The result, shaped like x. The known part is exactly that of x; in centred columns the relative
        positions are those of x, to rounding.

    Raises:
        ValueError: If `known` does not have such a shape or is not boolean, if a known value is not
            finite, or as :func:`anydiff.sample`.
        NotImplementedError: If the space does not define `restrict`.

    References:
        RePaint (Lugmayr et al., 2022), algorithm 1 and section 4.2. https://arxiv.org/abs/2201.09865
    """
    check_whole("[1, inf)", resamples=resamples, jump=jump)
    check_predictor(predictor=predictor)
    space = predictor.space
    check_floating(x=x)
    known = entries(known, x)

    def part(z: Tensor) -> Tensor:
        return space.restrict(z, known)

    sampler, steps, _ = chosen(predictor, sampler, steps, usual=(DDPM("large"), 50))
    kept = Kept(sampler, finite("x, where it is known,", part(x.masked_fill(~known, 0))), part)
    levels = plan(predictor.schedule, steps, kept, grid)
    generator, num = generators(seed, x.device), len(levels) - 1
    z = first_noise(levels[0], x, predictor, generator)
    z = kept.replaced(z, levels[0], space, generator)

    # without repetition the run is one stretch, so that multistep samplers keep their past
    jump = num if resamples == 1 else jump
    with watched(resamples * num, callback, progress) as report:
        for k in range(0, num, jump):
            stretch = levels[k : k + jump + 1]
            for again in range(resamples):
                if again:
                    z = back(z, stretch[-1], stretch[0], space, generator)
                z = follow(predictor, z, kept, stretch, generator, report, grad)
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
    """Generate several samples of the missing values.

    Arguments:
        predictor: The model, bound to its batch.
        x: The data, NaN where a value is missing.
        n: The number of samples.
        known: Which of the values that are not NaN to keep, as for :func:`inpaint`; None keeps all.
        seed: One seed, or one for each item; the samples of an item differ.
        options: Options of :func:`inpaint`.

    Returns:
        All samples, (n, \\*x.shape).

    Raises:
        ValueError: If x is no tensor, or is infinite where it is kept; if n is below 1; or as
            :func:`inpaint`.
    """
    x, known = _seen(x, known)

    def one(p: Predictor, x: Tensor, known: Tensor, seed: Seed) -> Tensor:
        return inpaint(p, x, known, seed=seed, **options)

    return several(predictor, n, [x, known], one, seed)


def complete(
    model: GaussianDiffusion | Callable[..., Predictor],
    x: Tensor,
    n: int = 1,
    *,
    known: Tensor | None = None,
    space: Space = DENSE,
    seed: Seed = None,
    callback: Callback | None = None,
    **options: Any,
) -> Tensor:
    """Generate several samples of the missing values, with a model that was trained to.

    The state is what is missing, in :class:`~anydiff.spaces.Rest`; the known part is a condition, clean
    at every time. A run is one of :func:`anydiff.sample`: nothing is replaced or repeated, and all that
    predictors can do applies to the rest given the part.

    Arguments:
        model: A diffusion whose denoiser is :class:`~anydiff.denoisers.Completing`; or a function
            (space, given=...) -> predictor of the rest that adds conditions or guidance, as
            ``partial(diffusion.predictor, label=label)``.
        x: The data, in the space of whole items, NaN where a value is missing.
        n: The number of samples.
        known: Which of the values that are not NaN to keep, as for :func:`inpaint`; None keeps all.
        space: The batch's space, of whole items.
        seed: One seed, or one for each item; the samples of an item differ.
        callback: Called after each step with a :class:`~anydiff.samplers.Progress`, in whose state the
            known part is clean.
        options: Options of :func:`anydiff.sample`: sampler, steps, grid, ...

    Returns:
        All samples, (n, \\*x.shape), with the known part as :func:`inpaint` keeps it.

    Raises:
        ValueError: If x is no tensor, or is infinite where it is kept; if n is below 1; if `known` is no
            mask of x; or as :func:`anydiff.sample`.
        NotImplementedError: If the space does not define `restrict` and `diagonal`.

    References:
        Equivariant 3D-Conditional Diffusion Models for Molecular Linker Design (Igashov et al., 2024),
        DiffLinker. https://arxiv.org/abs/2210.05274
        Palette: Image-to-Image Diffusion Models (Saharia et al., 2022). https://arxiv.org/abs/2111.05826
    """
    predict = model.predictor if isinstance(model, GaussianDiffusion) else model
    check_kind(Callable, "a diffusion, or a function of a space, as its predictor", model=predict)
    check_kind(Callable | None, "a function of a Progress", callback=callback)
    check_space(space=space)
    x, known = _seen(x, known)
    given = space.restrict(x, known)

    def one(p: Predictor, given: Tensor, seed: Seed) -> Tensor:
        def whole(progress: Progress) -> None:
            assert callback is not None
            callback(progress._replace(x_s=progress.x_s + given))

        see = None if callback is None else whole
        x = sample(p, given.shape, seed=seed, callback=see, **options)
        return p.space.project(x) + given  # without the rounding errors of the run

    return several(predict(Rest(space, known), given=given), n, [given], one, seed)


def _seen(x: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """x without NaN, and which of its entries are kept."""
    check_kind(Tensor, "a tensor, NaN where a value is missing", x=x)
    check_floating(x=x)
    seen = ~x.isnan()
    known = seen if known is None else entries(known, x) & seen
    if bool((x.isinf() & known).any()):
        raise ValueError("x holds inf where it is kept; give finite values, or NaN where missing.")
    return x.masked_fill(~known, 0), known


def ilvr(
    predictor: Predictor,
    reference: Tensor,
    low_pass: Callable[[Tensor], Tensor],
    *,
    until: float = 0.0,
    sampler: Sampler | None = None,
    steps: Steps | None = None,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
    grad: bool = False,
) -> Tensor:
    r"""ILVR: generate items that match a reference after a low-pass operator.

    .. math:: x_s \leftarrow x_s + \phi(\alpha_s y + \sigma_s \epsilon) - \phi(x_s)

    Arguments:
        predictor: The model, bound to its batch.
        reference: The data y, in the space.
        low_pass: phi, a linear map of states to states of the same shape, such as a smoothing, or a
            reduction followed by an enlargement.
        until: The time down to which the reference is followed; below it the model is unconstrained.
        sampler: The rule for one step; None takes :class:`~anydiff.DDPM`.
        steps: The number of steps, or the times, see :func:`anydiff.sample`; None takes 100.
        grid: Where the times lie, see :func:`anydiff.sample`.
        seed: An int, or one per item, see :func:`anydiff.sample`.
        callback: Called after each step with a :class:`~anydiff.samplers.Progress`.
        progress: Show a progress bar.
        grad: Keep the graph of the run, see :func:`anydiff.sample`.

    Returns:
        The samples, shaped like the reference.

    Raises:
        ValueError: If the reference is not floating-point and finite, or as :func:`anydiff.sample`.

    References:
        ILVR (Choi et al., 2021), algorithm 1. https://arxiv.org/abs/2108.02938
    """
    check_kind(Callable, "a function of a state", low_pass=low_pass)
    reference = data(predictor, reference=reference)
    space, generator = predictor.space, generators(seed, reference.device)
    sampler, steps, _ = chosen(predictor, sampler, steps, usual=(DDPM(), 100))
    kept = Kept(sampler, reference, lambda z: space.project(low_pass(z)), until)
    levels = plan(predictor.schedule, steps, kept, grid)
    z = first_noise(levels[0], reference, predictor, generator)
    with watched(len(levels) - 1, callback, progress) as report:
        return follow(predictor, z, kept, levels, generator, report, grad)

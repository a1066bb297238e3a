"""What a network says of tokens: bound to a batch, guided, and drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, check_range, read
from anydiff.discrete.kernels import Kernel
from anydiff.precision import weights_dtype
from anydiff.predictions import like_of, modules_in, takes_space
from anydiff.schedules import Schedule
from anydiff.spaces import Dense, Random, Space, check_space

__all__ = [
    "Answer", "answer_of", "drawn", "guided", "one_hot", "tempered", "tokens_in",
]  # fmt: skip


def one_hot(
    tokens: Tensor, kernel: Kernel, axis: int = -1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Tokens as one-hot states of a kernel; zeros where a token is negative.

    Arguments:
        tokens: Whole numbers below the kernel's states; -1 for padding.
        kernel: The kernel.
        axis: Where the axis of the states is put.
        dtype: Of the states.

    Raises:
        ValueError: If they are no such numbers.
    """
    check_kind(Tensor, "whole numbers", tokens=tokens)
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"the tokens are of {tokens.dtype}; give whole numbers.")
    if tokens.numel() and read(tokens, lambda of: of.max() >= kernel.states):
        raise ValueError(
            f"a token is {int(tokens.max())}, and {kernel} has {kernel.states} states; give smaller "
            "ones."
        )
    states = torch.arange(kernel.states, device=tokens.device)
    return (tokens[..., None] == states).to(dtype).movedim(-1, axis)


def tokens_in(x: Tensor, space: Space, kernel: Kernel) -> Tensor:
    """The number of tokens of each item, (B,), at least 1.

    Arguments:
        x: A state.
        space: The batch's space.
        kernel: The kernel.
    """
    return (space.dim(x) / kernel.states).clamp(min=1)


def drawn(logits: Tensor, space: Space, like: Tensor, noise: Random | Tensor, axis: int) -> Tensor:
    """One-hot draws from the distributions of some logits, shaped like a state.

    The largest of logits with Gumbel noise is such a draw. The noise is made of the space's own Gaussian
    noise in float64, so that an item's draws do not depend on its batch, and padding draws nothing; in
    float32 its tail would be cut off, and rare values drawn too seldom.

    Arguments:
        logits: Shaped like the state; -inf is never drawn.
        space: The batch's space.
        like: Gives the shape, dtype and device of the state.
        noise: The source of noise, or the Gaussian noise itself.
        axis: That of the states.

    References:
        Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling (Zheng et al., 2024). https://arxiv.org/abs/2409.02908
    """
    z = noise.double() if isinstance(noise, Tensor) else space.noise(like.double(), noise)
    gumbel = -torch.log(-torch.special.log_ndtr(z))
    picked = (logits.double() + gumbel).argmax(axis, keepdim=True)
    return space.project(torch.zeros_like(like).scatter_(axis, picked, 1))


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known of a batch's tokens at a time: (x_t, t) -> log π, shaped like x_t.

    Arguments:
        answer: (x_t, t (B,)) -> the log-probabilities of π; -inf for a state that is of no datum.
        kernel: How tokens forget.
        schedule: When.
        axis: That of the states.
        space: The batch's space.
        models: The modules whose mode a run sets.
    """

    answer: Callable[[Tensor, Tensor], Tensor]
    kernel: Kernel
    schedule: Schedule
    axis: int
    space: Space
    models: tuple[nn.Module, ...]

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The log-probabilities of π; -inf for a state that is of no datum.

        Arguments:
            x_t: The state.
            t: (B,), the times.
        """
        return self.answer(x_t, t)

    @property
    def like(self) -> Tensor:
        """An empty tensor on the device of the models, of the dtype of most of their weights."""
        return like_of(self.models)


def answer_of(
    denoiser: Callable[..., Any],
    space: Space,
    cond: Mapping[str, Any],
    kernel: Kernel,
    schedule: Schedule,
    axis: int,
    models: tuple[nn.Module, ...],
) -> Answer:
    """A network bound to a batch's space and conditions.

    Arguments:
        denoiser: The network.
        space: The batch's space.
        cond: Conditions, passed to the network by their names.
        kernel: How tokens forget.
        schedule: When.
        axis: That of the states.
        models: The modules that hold the network.

    Returns:
        An answer, which raises ValueError if the network does not give logits shaped like the state.

    Raises:
        ValueError: If the space mixes entries, as that of a zero centre does, or if it is not Dense and
            the network has no parameter `space`.
    """
    check_space(space=space)
    if not space.free:
        raise ValueError(
            f"{type(space).__name__} mixes the entries of an item, and tokens are one-hot; give a "
            "space without a centre."
        )
    told = takes_space(denoiser)(space)
    if not (told or isinstance(space, Dense)):
        raise ValueError(
            f"the batch is in {type(space).__name__} and the denoiser does not take its space; give "
            "its forward a parameter `space`, used or not."
        )
    given = {**cond, "space": space} if told else dict(cond)
    dtype, values = weights_dtype(*modules_in(denoiser)), kernel.values

    def answer(x_t: Tensor, t: Tensor) -> Tensor:
        logits = denoiser(x_t.to(dtype or x_t.dtype), t, **given)
        if not isinstance(logits, Tensor) or logits.shape != x_t.shape:
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"x_t is {tuple(x_t.shape)} and the denoiser gives {what}; let it give logits of that "
                "shape."
            )
        known = logits.to(x_t.dtype).narrow(axis, 0, values).log_softmax(axis)
        none = logits.narrow(axis, values, kernel.states - values)
        return torch.cat([known, torch.full_like(none, -torch.inf).to(known.dtype)], axis)

    return Answer(answer, kernel, schedule, axis, space, models)


def tempered(predictor: Answer, temperature: float) -> Answer:
    r"""A predictor at a temperature T: :math:`\pi \propto \pi^{1 / T}`, for each token.

    Below 1 likely tokens are likelier. More samples are then sound, and fewer are different; they are no
    longer draws from the model.

    Arguments:
        predictor: The predictor.
        temperature: T; 1 changes nothing.

    Raises:
        ValueError: If the predictor is none of tokens, or the temperature not positive.
    """
    check_kind(Answer, "a predictor of tokens, diffusion.predictor(space)", predictor=predictor)
    check_range("(0, inf)", temperature=temperature)

    def answer(x_t: Tensor, t: Tensor) -> Tensor:
        return (predictor(x_t, t) / temperature).log_softmax(predictor.axis)

    return replace(predictor, answer=answer)


def guided(conditional: Answer, unconditional: Answer, scale: float) -> Answer:
    r"""Classifier-free guidance of tokens: :math:`\pi \propto \pi_u^{1 - s} \pi_c^s`, for each token.

    A value that only one of the two allows is as likely as in that one, unless the other forbids it: the
    conditional one for s above 0, the unconditional one for s below 1.

    Arguments:
        conditional: The predictor with its condition.
        unconditional: The predictor without, or of a weaker model.
        scale: s; 1 is conditional, 0 unconditional, above 1 stronger.

    Raises:
        ValueError: If the two are not of one kernel, schedule and space, or the scale is not finite.

    References:
        Simple Guidance Mechanisms for Discrete Diffusion Models (Schiff et al., 2024), section 3.1.
        https://arxiv.org/abs/2412.10193
    """
    hint = "a predictor, as diffusion.predictor(space, **cond) makes it"
    check_kind(Answer, hint, conditional=conditional, unconditional=unconditional)
    check_range("(-inf, inf)", scale=scale)
    for name in ("kernel", "schedule", "axis"):
        one, other = (getattr(of, name) for of in (conditional, unconditional))
        if one != other:
            raise ValueError(
                f"the two predictors have different values of {name}, {one} and {other}; guide a "
                "model by one of the same."
            )
    if unconditional.space is not conditional.space:
        raise ValueError(
            "the two predictors are bound to different spaces; bind both to the batch's own."
        )

    def answer(x_t: Tensor, t: Tensor) -> Tensor:
        told, free = conditional(x_t, t), unconditional(x_t, t)
        never, forbidden = told.isneginf(), free.isneginf()
        told, free = torch.where(never, free, told), torch.where(forbidden, told, free)
        never = never & forbidden | (never & (scale > 0)) | (forbidden & (scale < 1))
        mixed = (free + scale * (told - free)).masked_fill(never, -torch.inf)
        return mixed.log_softmax(conditional.axis)

    models = (*conditional.models, *unconditional.models)
    return replace(conditional, answer=answer, models=models)

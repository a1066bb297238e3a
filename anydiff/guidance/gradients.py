"""Guidance by the gradient of what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.guidance.guided import Scale, towards, wide
from anydiff.predictions import Prediction, Predictor, item_times
from anydiff.schedules import Level

__all__ = ["classifier", "clip_guidance"]


def classifier(
    predictor: Predictor, log_prob: Callable[[Tensor, Tensor], Tensor], scale: Scale = 1.0
) -> Predictor:
    r"""Towards what a classifier of noisy data, or any density, finds likely.

    .. math:: \nabla \log p_t(x_t) + w\, \nabla_{x_t} \log p(y \mid x_t)

    At w = 1 these are Bayes' rule, and exact if the density is.

    Arguments:
        log_prob: (x_t, t) -> the log-probability of each item, (B,), that autograd can follow; t is
            (B,). It runs as it is: put a network of your own in eval mode.

    References:
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 4.
        https://arxiv.org/abs/2105.05233
    """

    def term(x: Tensor, at: Level) -> tuple[Prediction | None, Tensor]:
        return None, log_prob(x, item_times(x, at.t, predictor.space))

    return towards(predictor, term, scale)


def clip_guidance(
    predictor: Predictor,
    encoders: tuple[Callable[[Tensor], Tensor], Callable[[Any], Tensor]],
    prompt: Any,
    scale: Scale = 100.0,
) -> Predictor:
    r"""Towards data whose embedding points where that of a prompt does.

    .. math:: - w\, \nabla_{x_t} \angle\bigl(E(\hat x_0(x_t)), E'(\text{prompt})\bigr)^2 / 2

    The gradient goes through the denoiser, so that the encoder sees clean data.

    Arguments:
        encoders: E, data -> (B, D), differentiable; and E', prompt -> (D,), or (B, D).
        prompt: What the second encoder takes, such as a text.

    References:
        Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021).
        https://arxiv.org/abs/2103.00020
        GLIDE (Nichol et al., 2022), section 2.4. https://arxiv.org/abs/2112.10741
    """
    encode, encode_prompt = encoders
    with torch.no_grad():
        goal = torch.nn.functional.normalize(encode_prompt(prompt), dim=-1)

    def term(x: Tensor, at: Level) -> tuple[Prediction, Tensor]:
        p = predictor.predict(x, at)
        seen = torch.nn.functional.normalize(encode(p.x0), dim=-1)
        # half the angle's sine, from the chord: an arc cosine has no gradient at 0
        half = (wide(seen - goal).square().sum(-1) + 1e-12).sqrt() / 2
        return p, -0.5 * (2 * torch.asin(half.clamp(max=1 - 1e-6))).square()

    return towards(predictor, term, scale)

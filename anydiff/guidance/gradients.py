"""Guidance by the gradient of an objective: a classifier, or a similarity of embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_kind
from anydiff.guidance.guided import Scale, towards, wide
from anydiff.predictions import Prediction, Predictor, check_predictor, item_times
from anydiff.schedules import Level

__all__ = ["classifier", "clip_guidance"]


def classifier(
    predictor: Predictor, log_prob: Callable[[Tensor, Tensor], Tensor], scale: Scale = 1.0
) -> Predictor:
    r"""Classifier guidance: towards data that are likely under a classifier or density of noisy data.

    .. math:: \nabla \log p_t(x_t) + w\, \nabla_{x_t} \log p(y \mid x_t)

    At w = 1 this is Bayes' rule, which is exact if the classifier is.

    Arguments:
        predictor: The model, bound to its batch.
        log_prob: (x_t, t) -> the log-probability of each item, (B,), differentiable by autograd; t is
            (B,). It is called as given: put its network in eval mode yourself.
        scale: w.

    Raises:
        ValueError: If an argument is not of its kind.

    References:
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 4.
        https://arxiv.org/abs/2105.05233
    """

    check_kind(Callable, "a function (x_t, t) -> (B,)", log_prob=log_prob)

    def term(x: Tensor, at: Level) -> tuple[Prediction | None, Tensor]:
        return None, log_prob(x, item_times(x, at.t, predictor.space))

    return towards(predictor, term, scale)


def clip_guidance(
    predictor: Predictor,
    encoders: tuple[Callable[[Tensor], Tensor], Callable[[Any], Tensor]],
    prompt: Any,
    scale: Scale = 100.0,
) -> Predictor:
    r"""CLIP guidance: towards data whose embedding has the direction of the embedding of a prompt.

    .. math:: - w\, \nabla_{x_t} \angle\bigl(E(\hat x_0(x_t)), E'(\text{prompt})\bigr)^2 / 2

    The gradient is propagated through the denoiser, so that the encoder gets denoised data.

    Arguments:
        predictor: The model, bound to its batch.
        encoders: E, data -> (B, D), differentiable; and E', prompt -> (D,), or (B, D).
        prompt: The input of the second encoder, such as a text.
        scale: w.

    Raises:
        ValueError: If an argument is not of its kind.

    References:
        Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021).
        https://arxiv.org/abs/2103.00020
        GLIDE (Nichol et al., 2022), section 2.4. https://arxiv.org/abs/2112.10741
    """
    check_predictor(predictor=predictor)
    check_kind(tuple | list, "two functions: of data, and of a prompt", encoders=encoders)
    encode, encode_prompt = encoders
    check_kind(Callable, "two functions: of data, and of a prompt", encoders=encode)
    check_kind(Callable, "two functions: of data, and of a prompt", encoders=encode_prompt)
    with torch.no_grad():
        goal = torch.nn.functional.normalize(encode_prompt(prompt), dim=-1)

    def term(x: Tensor, at: Level) -> tuple[Prediction, Tensor]:
        p = predictor.predict(x, at)
        seen = torch.nn.functional.normalize(encode(p.x0), dim=-1)
        # the sine of half the angle, from the chord: arccos has no finite gradient at angle 0
        half = (wide(seen - goal).square().sum(-1) + 1e-12).sqrt() / 2
        return p, -0.5 * (2 * torch.asin(half.clamp(max=1 - 1e-6))).square()

    return towards(predictor, term, scale)

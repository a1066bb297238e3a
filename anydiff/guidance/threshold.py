"""Dynamic thresholding: predictions of x0 that strong guidance drives out of the data's range."""

from __future__ import annotations

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.guidance.guided import guided
from anydiff.predictions import Prediction, Predictor, check_predictor
from anydiff.schedules import Level
from anydiff.spaces import Space

__all__ = ["thresholded"]


def thresholded(predictor: Predictor, percentile: float = 0.995, limit: float = 1.0) -> Predictor:
    r"""Dynamic thresholding: x0 within a range that its own large values determine.

    .. math:: \hat x_0 \leftarrow \frac{l}{s} \operatorname{clip}(\hat x_0, -s, s), \qquad
              s = \max(l, q_p(|\hat x_0|))

    with the quantile q over the valid entries of an item. Nothing lies beyond the limit l afterwards.
    Clipping at l alone would leave many values at it; here s shrinks all of them, which keeps contrast.
    The noise follows from the new x0, so that x_t stays the same. It goes around a guidance::

        strong = thresholded(classifier_free(with_text, without, 8.0))

    Arguments:
        predictor: A model or a guidance, for data within ±limit.
        percentile: p in [0, 1], the share of an item's entries that are not clipped; at 1 x0 is only
            scaled, where it is out of range, and at 0 only clipped, which suits data most of whose values
            are at a limit, such as paper and ink.
        limit: l, the largest absolute value of the data.

    Raises:
        ValueError: If an argument is out of its range, or the predictor's space has centred columns,
            whose values have no range of their own.

    References:
        Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding (Saharia et al.,
        2022), Imagen, section 2.3. https://arxiv.org/abs/2205.11487
    """
    check_predictor(predictor=predictor)
    check_range("[0, 1]", percentile=percentile)
    check_range("(0, inf)", limit=limit)
    space = predictor.space
    if not space.free:
        raise ValueError(
            f"the space {type(space).__name__} has centred columns, whose values have no range of their "
            "own; threshold data without them."
        )

    def answer(x_t: Tensor, at: Level) -> Prediction:
        p = predictor.predict(x_t, at)
        if percentile == 0:
            return p.with_x0(p.x0.clamp(-limit, limit))
        s = space.expand(quantile(p.x0.abs(), space, percentile).clamp(min=limit), p.x0)
        s = s.to(p.x0.dtype) if isinstance(s, Tensor) else s
        return p.with_x0(p.x0.clamp(-s, s) * (limit / s))

    def remake(predictor: Predictor) -> Predictor:
        return thresholded(predictor, percentile, limit)

    return guided(answer, predictor, remake=remake)


def quantile(x: Tensor, space: Space, share: float) -> Tensor:
    """The smallest value of each item, (B,), that a share of its valid entries does not exceed.

    Found by bisection of the bits of float32, which are ordered as the numbers are: exactly, in any
    space, and with no item's result depending on another's.

    Arguments:
        x: Entries that are not negative, in the space.
        space: The batch's space.
        share: In (0, 1].
    """
    x = x.detach().float()
    valid = space.diagonal(x)
    least = share * space.sum(valid)
    low = torch.full(least.shape, -1, dtype=torch.int32, device=x.device)  # below every number
    high = torch.full_like(low, 0x7F800000)  # infinity
    for _ in range(31):
        middle = low + (high - low) // 2
        # a number for each entry, in the space's own way
        bound = space.expand(middle.view(torch.float32), x)
        enough = space.sum(valid * (x <= bound)) >= least
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.view(torch.float32)

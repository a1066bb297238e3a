"""Contrastive training: encoders of data and of conditions that agree where both belong together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.checks import check_kind, check_shape
from anydiff.diffusion import noised
from anydiff.losses.times import Times, as_times
from anydiff.predictions import given_times
from anydiff.schedules import Schedule
from anydiff.spaces import DENSE, Random, Space

__all__ = ["Contrastive", "equal_rows"]

HOTTEST = math.log(100)
"""The logarithm of the largest factor of the cosines, as in CLIP."""


class Contrastive(nn.Module):
    r"""Two encoders whose embeddings have the same direction for an item and its condition: CLIP.

    .. math:: L_i = \tfrac12 KL(P_i \,\|\, \mathrm{softmax}_j(s \cos(a_i, b_j))) +
                    \tfrac12 KL(P_i \,\|\, \mathrm{softmax}_j(s \cos(a_j, b_i)))

    with P uniform over the items of the batch whose condition is that of item i. For conditions that all
    differ this is the loss of CLIP; equal ones are no wrong answers for each other. It is trained like a
    diffusion, by :class:`anydiff.training.module.DiffusionModule`::

        clip = Contrastive(of_data, lambda words: encoder(words).pooled, encoder=encoder)
        fit(DiffusionModule(clip, unpack), folder, loader)
        guided = classifier(predictor, lambda x, t: 3 * clip.similarity(x, t, space=space, words=words))

    Arguments:
        of_data: (x_t, t, space=...) -> embeddings (B, D); a module.
        of_condition: (\\*\\*cond) -> embeddings (B, D).
        schedule: Noises the data to times that are drawn, so that the encoder also knows noisy states,
            for guidance. None: data are clean, and t is 0.
        times: How these times are drawn, uniformly if None.
        parts: Modules that `of_condition` uses, by name, if it is none itself.

    Raises:
        ValueError: If an argument is not of its kind.

    References:
        Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
        CLIP, section 2.3. https://arxiv.org/abs/2103.00020
        GLIDE (Nichol et al., 2022), section 2.4, of noised data. https://arxiv.org/abs/2112.10741
    """

    def __init__(
        self,
        of_data: nn.Module,
        of_condition: Callable[..., Tensor],
        schedule: Schedule | None = None,
        times: Times | None = None,
        **parts: nn.Module,
    ) -> None:
        super().__init__()
        check_kind(nn.Module, "an encoder (x_t, t, space=...) -> (B, D)", of_data=of_data)
        check_kind(Callable, "an encoder (**cond) -> (B, D)", of_condition=of_condition)
        check_kind(Schedule | None, "a schedule, or None", schedule=schedule)
        check_kind(nn.Module, "a module", **parts)
        self.of_data, self.of_condition = of_data, of_condition
        self.schedule, self.times = schedule, as_times(times)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.parts = nn.ModuleDict(parts)

    def forward(self, x0: Tensor, *args: Any, **options: Any) -> Tensor:
        """The same as :meth:`loss`: what data parallel and compiled modules call."""
        return self.loss(x0, *args, **options)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | float | None = None,
        *,
        space: Space = DENSE,
        noise: Tensor | None = None,
        generator: Random = None,
        **cond: Any,
    ) -> Tensor:
        """The loss of each item, (B,); 0 where embeddings tell all different conditions apart, and for an
        item whose condition is absent, its embedding NaN, such as that of a text without words.

        Arguments:
            x0: Data, in the space.
            t: Times in [0, 1], (B,), or one for all. Drawn if None; without a schedule they are 0.
            space: The batch's space.
            noise: The eps to use. Drawn if None.
            generator: The source of noise and times.
            cond: What the data are to be told apart by: tensors of B rows.

        Raises:
            ValueError: If there are no conditions, the embeddings do not fit each other, or times are
                given without a schedule, or not given with one generator per item.
        """
        if not cond:
            raise ValueError("there are no conditions; give what belongs to the data, by name.")
        if self.schedule is None:
            if t is not None:
                raise ValueError("t is given, and there is no schedule to noise by; leave it out.")
            x_t = space.project(x0)
            t = torch.zeros_like(space.dim(x_t))
        else:
            x0, t, eps = noised(x0, t, space, noise, generator, self.times, self.schedule)
            alpha, sigma = (space.expand(c, x0) for c in self.schedule(t))
            x_t = (alpha * x0 + sigma * eps).to(x0.dtype)
        found = self.embed(x_t, t, space)
        goal, there = self._goal(cond, found)
        logits = self.log_scale.clamp(max=HOTTEST).exp() * found @ goal.t()
        same = (equal_rows(cond) & there & there[:, None]).to(logits.dtype)
        wanted = same / same.sum(1, keepdim=True).clamp(min=1)
        each = [
            F.kl_div(
                F.log_softmax(rows.masked_fill(~there, -1e4), 1), wanted, reduction="none"
            ).sum(1)
            for rows in (logits, logits.t())
        ]
        return (each[0] + each[1]) / 2

    def embed(self, x_t: Tensor, t: Tensor | float = 0.0, space: Space = DENSE) -> Tensor:
        """The directions of data, (B, D), of length 1.

        Arguments:
            x_t: States, in the space.
            t: Their times, (B,), or one for all.
            space: The batch's space.

        Raises:
            ValueError: If the encoder gives no vector for each item.
        """
        y: Tensor = self.of_data(x_t, given_times(x_t, t, space), space=space)
        check_shape((space.items(x_t), None), "give a vector for each item", of_data=y)
        return F.normalize(y, dim=1)

    def _goal(self, cond: dict[str, Any], found: Tensor) -> tuple[Tensor, Tensor]:
        """The directions of conditions, 0 of those that are absent; and which are there, (B,)."""
        y = self.of_condition(**cond)
        check_shape(found.shape, "give a vector for each item, as of_data does", of_condition=y)
        there = ~y.isnan().any(1)
        return F.normalize(y.masked_fill(~there[:, None], 0), dim=1), there

    def similarity(
        self, x_t: Tensor, t: Tensor | float = 0.0, *, space: Space = DENSE, **cond: Any
    ) -> Tensor:
        """The cosines of items and their conditions, (B,); 0 where the condition is absent.

        Arguments:
            x_t: States, in the space.
            t: Their times, (B,), or one for all.
            space: The batch's space.
            cond: The conditions, of B rows.
        """
        found = self.embed(x_t, t, space)
        return (found * self._goal(cond, found)[0]).sum(1)


def equal_rows(cond: dict[str, Tensor]) -> Tensor:
    """Which items of a batch have the same conditions, (B, B) booleans; NaN is equal to NaN.

    Arguments:
        cond: Tensors of B rows, by name.
    """
    same: Tensor | None = None
    for value in cond.values():
        rows = value.flatten(1) if value.ndim > 1 else value[:, None]
        a, b = rows[:, None], rows[None]
        equal = ((a == b) | ((a != a) & (b != b))).all(2)
        same = equal if same is None else same & equal
    assert same is not None
    return same

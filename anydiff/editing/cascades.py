"""From coarse to fine, one model after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anydiff.diffusion import GaussianDiffusion
from anydiff.losses import conditions as conditioning
from anydiff.predictions import Predictor
from anydiff.samplers import Seed, generators, sample
from anydiff.spaces import Dense, Generators, Space

__all__ = ["Stage", "cascade"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One model of a cascade.

    Arguments:
        diffusion: The model.
        shape: Of what it draws, batch included.
        cond: Its conditions, besides what the stage before drew.
        name: The condition that the stage before is given as; the denoiser brings it to size. None for
            a first stage that is given nothing.
        noise: The time up to which that is noised, which hides what is wrong with it: conditioning
            augmentation. The model has to be trained with `augment`; 0 gives it as it is.
        guide: predictor -> predictor, a guidance.
        space: Of the batch; items as arrays if None.
        options: Of :func:`anydiff.sample`: sampler, steps, …
    """

    diffusion: GaussianDiffusion
    shape: Sequence[int]
    cond: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    noise: float = 0.0
    guide: Callable[[Predictor], Predictor] | None = None
    space: Space | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def cascade(stages: Sequence[Stage], x: Tensor | None = None, *, seed: Seed = None) -> list[Tensor]:
    """Draw with one model after the other, each given what the one before drew.

    Arguments:
        stages: From coarse to fine.
        x: What the first stage is given: something coarse to refine. None if it begins from nothing.
        seed: As in :func:`anydiff.sample`.

    Returns:
        What each stage drew.

    References:
        Cascaded Diffusion Models for High Fidelity Image Generation (Ho et al., 2022).
        https://arxiv.org/abs/2106.15282
        Image Super-Resolution via Iterative Refinement (Saharia et al., 2021).
        https://arxiv.org/abs/2104.07636
    """
    drawn: list[Tensor] = []
    generator: Generators = None
    before: Space = Dense()
    for stage in stages:
        parameter = next(stage.diffusion.parameters(), torch.empty(0))
        if generator is None:
            generator = generators(seed, parameter.device)
        cond = dict(stage.cond)
        if x is not None:
            if stage.name is None:
                raise ValueError(
                    "a stage that comes after something needs the name of the condition to give it as, "
                    "an argument of its denoiser."
                )
            cond[stage.name] = x
            if stage.noise:
                level = torch.full_like(before.dim(x), stage.noise)
                schedule = stage.diffusion.schedule
                cond |= conditioning.noise(stage.name, x, level, schedule, before, generator)
        before = Dense() if stage.space is None else stage.space
        predictor = stage.diffusion.predictor(before, **cond)
        predictor = predictor if stage.guide is None else stage.guide(predictor)
        x = sample(predictor, tuple(stage.shape), generator=generator, **stage.options)
        drawn.append(x)
    return drawn

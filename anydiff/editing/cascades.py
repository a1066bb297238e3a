"""Cascades: several models in turn, from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_floating, check_kind, check_range
from anydiff.losses import conditions
from anydiff.predictions import Predictor
from anydiff.samplers import sample
from anydiff.spaces import DENSE, Random, Seed, Space, generators

__all__ = ["Stage", "cascade"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One model of a cascade.

    Arguments:
        predictor: conditions -> Predictor: ``diffusion.predictor``, ``partial(diffusion.predictor, space,
            label=y)``, or a function that adds guidance.
        shape: The shape of its samples, batch included.
        name: The name of the condition through which the stage gets the samples of the previous stage,
            which its denoiser resizes itself. None for a first stage without an input.
        noise: The time up to which this condition is noised, which hides the errors of the previous
            stage: conditioning augmentation. The model has to be trained with `augment`; 0 adds no noise.
        options: Options of :func:`anydiff.sample`: sampler, steps, …

    Raises:
        ValueError: If the noise lies outside [0, 1], or if an argument is not of its kind.
    """

    predictor: Callable[..., Predictor]
    shape: Sequence[int]
    name: str | None = None
    noise: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind(
            Callable, "a function of conditions, as diffusion.predictor", predictor=self.predictor
        )
        check_kind(Mapping, "options of sample by name", options=self.options)
        check_range("[0, 1]", noise=self.noise)


def cascade(stages: Sequence[Stage], x: Tensor | None = None, *, seed: Seed = None) -> list[Tensor]:
    """Sample from a cascade: each model is conditioned on the samples of the previous one.

    Arguments:
        stages: The models, from coarse to fine.
        x: The condition of the first stage: coarse data to refine. None if the first stage has none.
        seed: An int, or one per item, see :func:`anydiff.sample`.

    Returns:
        The samples of each stage.

    Raises:
        ValueError: If a stage after the first has no name for its condition, if a stage is none, or if x
            is not floating-point.

    References:
        Cascaded Diffusion Models for High Fidelity Image Generation (Ho et al., 2022).
        https://arxiv.org/abs/2106.15282
        Image Super-Resolution via Iterative Refinement (Saharia et al., 2021).
        https://arxiv.org/abs/2104.07636
    """
    check_kind(Sequence, "a list of stages", stages=stages)
    check_kind(
        Stage, "a Stage(predictor, shape)", **{f"stages[{k}]": s for k, s in enumerate(stages)}
    )
    if x is not None:
        check_floating(x=x)
    drawn: list[Tensor] = []
    generator: Random = None
    before: Space = DENSE
    for stage in stages:
        given: dict[str, Any] = {}
        if x is not None:
            if stage.name is None:
                raise ValueError(
                    "a stage with an input has no name; give the name of the condition that takes it, an "
                    "argument of the stage's denoiser."
                )
            given = {stage.name: x}
        predictor = stage.predictor(**given)
        if generator is None:
            generator = generators(seed, predictor.like.device)
        if x is not None and stage.noise:
            level = torch.full_like(before.dim(x), stage.noise)
            given = conditions.noise(
                str(stage.name), x, level, predictor.schedule, before, generator
            )
            predictor = stage.predictor(**given)
        before = predictor.space
        x = sample(predictor, tuple(stage.shape), seed=generator, **stage.options)
        drawn.append(x)
    return drawn

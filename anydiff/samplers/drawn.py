"""Steps with random numbers as a condition: for denoisers that draw what they predict."""

from __future__ import annotations

from torch import Tensor

from anydiff.checks import check_whole, frozen
from anydiff.predictions import Predictor
from anydiff.samplers.ancestral import DDPM
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped
from anydiff.schedules import Level
from anydiff.spaces import DENSE, Random

__all__ = ["DrawnContext"]


@frozen()
class DrawnContext(Sampler):
    """Steps before each of which every item gets new normal numbers z as the denoiser's `context`.

    The sampler of denoising diffusion GANs (:mod:`anydiff.adversarial`): given x_t, the denoiser says
    with z one of the x0 that are possible, and not their mean.

    Arguments:
        columns: How many numbers, the `context` of the network.

    Raises:
        ValueError: If there are none.

    References:
        Tackling the Generative Learning Trilemma with Denoising Diffusion GANs (Xiao et al., 2022).
        https://arxiv.org/abs/2112.07804
    """

    columns: int

    steps = 4

    def __post_init__(self) -> None:
        check_whole("[1, inf)", columns=self.columns)

    def prepare(self, levels: Levels) -> Levels:
        return DDPM().prepare(levels)

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        return DDPM().step(self.drawn(predictor, x_t, generator), x_t, t, s, past, generator)

    def drawn(self, predictor: Predictor, x_t: Tensor, generator: Random) -> Predictor:
        """The predictor with new numbers as its context.

        Arguments:
            predictor: Without a context.
            x_t: A state.
            generator: The source of the numbers.

        Raises:
            ValueError: If there is a context already.
        """
        if "context" in getattr(predictor.answer, "cond", ()):
            raise ValueError(
                "the predictor has a context already, which DrawnContext draws anew in each step; give "
                "other conditions, a label or tokens."
            )
        items = predictor.space.items(x_t)
        z = DENSE.noise(x_t.new_empty(items, self.columns), generator)
        return predictor.given(context=z)

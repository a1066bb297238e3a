"""Discrete diffusion: tokens, such as characters, grey values and kinds, in place of numbers with noise.

    from anydiff.discrete import AbsorbingKernel, CategoricalDiffusion, one_hot

    kernel = AbsorbingKernel(values=20)  # masked diffusion
    diffusion = CategoricalDiffusion(Transformer(kernel.states), kernel)
    loss = diffusion.loss(one_hot(tokens, kernel)).mean()

The networks, spaces, schedules and trainers are those of Gaussian diffusion.
"""

from anydiff.discrete.answers import Answer, guided, one_hot, tempered
from anydiff.discrete.bits import bits_per_token, chain_bound, continuous_bound
from anydiff.discrete.categorical import CategoricalDiffusion
from anydiff.discrete.kernels import AbsorbingKernel, Kernel, OrdinalKernel, UniformKernel
from anydiff.discrete.samplers import Ancestral, CategoricalSampler, FirstHitting, Unmask, sample

__all__ = [
    "AbsorbingKernel", "Ancestral", "Answer", "CategoricalDiffusion", "CategoricalSampler",
    "FirstHitting", "Kernel", "OrdinalKernel", "UniformKernel", "Unmask", "bits_per_token",
    "chain_bound", "continuous_bound", "guided", "one_hot", "sample", "tempered",
]  # fmt: skip

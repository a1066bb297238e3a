"""Time of a sampling step, of a loss, and of a compiled training step.

OMP_NUM_THREADS=1 python benchmarks/calls.py  # a tiny network: the cost of the library itself
python benchmarks/calls.py --compile          # PairNet and UNet, with and without torch.compile
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anydiff import DDIM, Cosine, Dense, GaussianDiffusion, Ragged
from anydiff.denoisers import PairNet, UNet


class Smallest(nn.Module):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([x_t, t[:, None]], 1))
        return y


def best(call: Callable[[], Any], repeats: int) -> float:
    """The shortest time of a call, in seconds.

    Arguments:
        call: What is measured.
        repeats: How many times.
    """
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    torch.manual_seed(0)
    if not parser.parse_args().compile:
        diffusion, x = GaussianDiffusion(Smallest(), Cosine(), "v"), torch.randn(64, 2)
        run = best(lambda: diffusion.sample((64, 2), steps=1000, sampler=DDIM(), seed=0), 8)
        short = best(lambda: diffusion.sample((64, 2), steps=100, sampler=DDIM(), seed=0), 30)
        print(f"a step of DDIM {(run - short) / 900 * 1e6:.1f} us")
        print(f"a loss {best(lambda: diffusion.loss(x), 800) * 1e6:.0f} us")
        return
    sizes = torch.randint(10, 28, (64,))
    molecules = Ragged.from_sizes(sizes, centered=3)
    for network, space, shape in (
        (PairNet(6, 64, layers=4), molecules, (int(sizes.sum()), 9)),
        (UNet(1, (32, 64)), Dense(), (64, 1, 8, 8)),
    ):
        x = space.project(torch.randn(shape))
        for name, denoiser in (("eager", network), ("compiled", torch.compile(network))):
            diffusion = GaussianDiffusion(denoiser, Cosine(), "v")
            call = lambda d=diffusion, x=x, s=space: d.loss(x, space=s).mean().backward()  # noqa: E731
            first, step = best(call, 1), best(call, 14)
            kind = type(network).__name__
            print(f"{kind} {name}: {step * 1e3:.0f} ms, the first {first:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""Time of a sampling step, of a loss, and of a compiled training step; what options of PairNet cost.

OMP_NUM_THREADS=1 python benchmarks/calls.py  # a tiny network: the cost of the library itself
python benchmarks/calls.py --compile          # PairNet and UNet, with and without torch.compile
python benchmarks/calls.py --pairnet          # PairNet of molecules like QM9's, with bonds and without
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anydiff import DDIM, Cosine, Dense, GaussianDiffusion, Packed, Ragged
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


def compare(calls: dict[str, Callable[[], Any]], rounds: int = 15) -> None:
    """Print the median time of each call, and its ratio to the first.

    Arguments:
        calls: What is measured, by turns, so that what else the machine does hits all alike.
        rounds: How many turns.
    """
    times: dict[str, list[float]] = {name: [best(call, 1)] for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(best(call, 1))
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name}: {median * 1e3:.0f} ms, {median / first:.2f} of the first", flush=True)


def pairnet() -> None:
    """A training step's loss and gradients, and a call, of 64 molecules of 18 atoms on average."""
    sizes = torch.randint(12, 25, (64,))
    atoms = Ragged.from_sizes(sizes, centered=3)
    rows, bonds = (len(atoms.index), 8), (len(atoms.pair_space.index), 2)
    bonded = Packed({"atoms": (atoms, rows), "bonds": (atoms.pair_space, bonds)}, {"bonds": 0.3})
    losses: dict[str, Callable[[], Any]] = {}
    answers: dict[str, Callable[[], Any]] = {}
    for name, network, space, shape in (
        ("points", PairNet(5), atoms, rows),
        ("points and bonds", PairNet(5, pairs=2), bonded, bonded.shape),
    ):
        diffusion, x = GaussianDiffusion(network, Cosine(), "eps"), torch.randn(shape)
        losses[name] = lambda d=diffusion, x=x, s=space: d.loss(x, space=s).mean().backward()
        predictor = diffusion.predictor(space)
        answers[name] = lambda p=predictor, x=x: p.predict(x, 0.5)
    print("loss and gradients")
    compare(losses)
    print("a call")
    with torch.no_grad():
        compare(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pairnet", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.pairnet:
        return pairnet()
    if not args.compile:
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

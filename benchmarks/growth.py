"""How time and memory grow: with points, rows and pixels of an item, with items, and with steps.

    python benchmarks/growth.py --picture growth.png         # a quiet machine, some ten minutes
    python benchmarks/growth.py --only PairNet --short

Each point is a process of its own: the median time of a training step, forward and backward, and how much
memory it takes beyond that of the process before it. Exponents are those between two sizes. The last
table shows the memory of a process after more and more steps of training and of sampling.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch

from anydiff import DDPM, Cosine, GaussianDiffusion
from anydiff.denoisers import EGNN, BiRNN, PairNet, Transformer, UNet
from anydiff.metrics.tables import aligned
from anydiff.spaces import DENSE, Masked, Ragged, Space

Made = tuple[Any, tuple[int, ...], Space]


def points(make: Callable[[], Any]) -> Callable[[int, int], Made]:
    """Molecules of so many atoms, with five numbers each."""

    def made(size: int, items: int) -> Made:
        return make(), (size * items, 8), Ragged.from_sizes([size] * items, centered=3)

    return made


def rows(make: Callable[[], Any]) -> Callable[[int, int], Made]:
    """Sequences of so many rows."""

    def made(size: int, items: int) -> Made:
        return make(), (items, size, 5), Masked.from_lengths([size] * items)

    return made


def pixels(size: int, items: int) -> Made:
    """Images of so many pixels a side."""
    return UNet(3, (16, 32, 64), groups=8), (items, 3, size, size), DENSE


SYSTEMS: dict[str, tuple[Callable[[int, int], Made], str, list[int], int]] = {
    "PairNet": (
        points(lambda: PairNet(5, 64, layers=4)),
        "atoms",
        [10, 20, 40, 80, 160, 320, 500],
        4,
    ),
    "EGNN": (points(lambda: EGNN(5, 64, layers=4)), "atoms", [10, 20, 40, 80, 160, 320, 500], 4),
    "BiRNN": (rows(lambda: BiRNN(5, 64, 2)), "rows", [16, 64, 256, 1024, 4096], 8),
    "Transformer": (rows(lambda: Transformer(5, 64, 2)), "rows", [16, 64, 256, 1024, 4096], 8),
    "UNet": (pixels, "pixels a side", [16, 32, 64, 128, 256], 2),
}


def resident() -> float:
    """The most memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, size: int, items: int, repeats: int) -> dict[str, float]:
    """A training step: milliseconds, and MB beyond what the process had before it."""
    network, shape, space = SYSTEMS[name][0](size, items)
    diffusion = GaussianDiffusion(network, Cosine(), "v")
    x0, before, seconds = space.project(torch.randn(shape)), resident(), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        diffusion.loss(x0, space=space).mean().backward()
        seconds.append(time.perf_counter() - start)
        diffusion.zero_grad()
    return {"ms": 1000 * float(np.median(seconds[1:])), "MB": resident() - before}


def steps(name: str, many: list[int]) -> dict[str, list[float]]:
    """The memory after steps of training, and after a run of as many steps of sampling."""
    network, shape, space = SYSTEMS[name][0](SYSTEMS[name][2][1], 4)
    diffusion = GaussianDiffusion(network, Cosine(), "v")
    optimizer = torch.optim.AdamW(diffusion.parameters())
    x0, done = space.project(torch.randn(shape)), 0
    found: dict[str, list[float]] = {"training": [], "sampling": []}
    for until in many:
        for _ in range(until - done):
            diffusion.loss(x0, space=space).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        done = until
        found["training"].append(resident())
    for until in many:
        diffusion.sample(shape, space=space, sampler=DDPM(), steps=until, seed=0)
        found["sampling"].append(resident())
    return found


def alone(*words: Any) -> Any:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, "--point", *map(str, words)]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def of_sizes(
    args: argparse.Namespace, grown: dict[str, list[tuple[int, float, float]]]
) -> list[list[str]]:
    """Time and memory over the size of an item, and their exponents."""
    table = [["network", "of", "size", "items", "ms", "MB", "exponent of time, of memory"]]
    for name in args.only:
        _, unit, sizes, items = SYSTEMS[name]
        found = grown[name] = []
        for size in sizes[: 3 if args.short else None]:
            point = alone(name, args.threads, "size", size, items, args.repeats)
            found.append((size, point["ms"], point["MB"]))
            print(name, size, f"{point['ms']:.1f} ms, {point['MB']:.0f} MB", flush=True)
        for a, b in pairwise([found[0], *found]):
            powers = [
                f"{math.log(b[k] / a[k]) / math.log(b[0] / a[0]):.2f}"
                for k in (1, 2)
                if b[0] > a[0] and a[k] > 1
            ]
            cells = [str(items), f"{b[1]:.1f}", f"{b[2]:.0f}", ", ".join(powers)]
            table.append([name, unit, str(b[0]), *cells])
    return table


def of_items(args: argparse.Namespace) -> list[list[str]]:
    """Time over the number of items of a batch."""
    table = [["network", "items", "ms", "ms for each"]]
    for name in args.only:
        for items in (1, 4, 16) if args.short else (1, 4, 16, 64, 256):
            size = SYSTEMS[name][2][1]
            ms = alone(name, args.threads, "size", size, items, args.repeats)["ms"]
            table.append([name, str(items), f"{ms:.1f}", f"{ms / items:.2f}"])
    return table


def of_steps(args: argparse.Namespace) -> list[list[str]]:
    """The most memory of a process after more and more steps."""
    many = [20, 40] if args.short else [200, 1000, 5000]
    table = [["MB at most after steps", *map(str, many)]]
    for name in args.only:
        for what, each in alone(name, args.threads, "steps", *many).items():
            table.append([f"{name}, {what}", *(f"{mb:.0f}" for mb in each)])
    return table


def draw(path: Path, grown: dict[str, list[tuple[int, float, float]]]) -> None:
    """Time and memory over sizes, with both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, found in grown.items():
        for axis, k in zip(axes, (1, 2), strict=True):
            axis.loglog([f[0] for f in found], [max(f[k], 0.1) for f in found], "o-", label=name)
    for axis, label in zip(axes, ("ms a step", "MB"), strict=True):
        axis.set(xlabel="atoms, rows, or pixels a side", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    print(path)


def main() -> None:
    """Measure what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    kinds = ["sizes", "items", "steps"]
    parser.add_argument("--what", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="the three smallest sizes, few steps")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--point", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        name, *rest = args.point
        torch.set_num_threads(int(rest[0]))
        numbers = [int(number) for number in rest[2:]]
        print(json.dumps(measure(name, *numbers) if rest[1] == "size" else steps(name, numbers)))
        return
    tables, grown = [], dict[str, list[tuple[int, float, float]]]()
    if "sizes" in args.what:
        tables.append(of_sizes(args, grown))
    if "items" in args.what:
        tables.append(of_items(args))
    if "steps" in args.what:
        tables.append(of_steps(args))
    for each in tables:
        print("", aligned(each, "markdown"), sep="\n", flush=True)
    if args.picture and grown:
        draw(args.picture, grown)


if __name__ == "__main__":
    main()

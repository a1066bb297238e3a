"""How much faster is EGNN than its equations written out?

Trains one step (forward and backward) of both on the same weights and the same batch of molecule
sizes: the textbook network of tests/helpers/textbook_egnn.py, padded and dense, and anydiff's. Their
repetitions alternate, so that a busy machine slows both.

    python benchmarks/egnn.py                         # all three sizes, about two minutes
    python benchmarks/egnn.py --config 128x6 --repeats 9 --threads 4
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import anydiff
from anydiff.denoisers.points.egnn import EGNN
from anydiff.spaces import Ragged

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.textbook_egnn import TextbookEGNN

TARGETS = {"64x4": 4.5, "128x6": 6.0, "256x9": 8.0}
FEATURES = 6
BATCH = 64


def draw_sizes(seed: int = 0) -> Tensor:
    """Sizes of a batch, drawn from the histogram of the QM9 molecules that ship with anydiff."""
    with np.load(Path(anydiff.__file__).parent / "molecules" / "qm9_5k.npz") as data:
        sizes = np.diff(data["offsets"])
    return torch.from_numpy(np.random.default_rng(seed).choice(sizes, BATCH))


def pad(x: Tensor, mask: Tensor) -> Tensor:
    """(N, F) rows to (B, max n, F)."""
    return x.new_zeros(*mask.shape, x.shape[1]).masked_scatter(mask[..., None], x)


def seconds(step: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    step().square().mean().backward()
    return time.perf_counter() - start


def networks(config: str) -> tuple[EGNN, TextbookEGNN]:
    hidden, layers = map(int, config.split("x"))
    torch.manual_seed(0)
    textbook = TextbookEGNN(FEATURES, hidden, layers)
    return EGNN.from_edm(textbook.state_dict()), textbook


def compare(config: str, repeats: int, compiled: bool) -> list[str]:
    ours, textbook = networks(config)
    parameters = sum(p.numel() for p in ours.parameters())

    sizes = draw_sizes()
    space = Ragged.from_sizes(sizes, centered=3)
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    x_t, t = space.noise(torch.empty(len(space.index), 3 + FEATURES)), torch.rand(BATCH)
    padded = pad(x_t, mask)

    steps = {
        "textbook": lambda: textbook(padded, t, mask),
        "anydiff": lambda: ours(x_t, t, space=space),
    }
    if compiled:
        fast = torch.compile(ours)
        steps["compiled"] = lambda: fast(x_t, t, space=space)

    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            elapsed = seconds(step)
            if repeat > 0:  # the first one warms up
                times[name].append(elapsed)
        for p in [*ours.parameters(), *textbook.parameters()]:
            p.grad = None
    median = {name: statistics.median(values) for name, values in times.items()}

    with torch.no_grad():
        exact = textbook.double()(padded.double(), t.double(), mask)[mask]
        difference = ours.double()(x_t.double(), t.double(), space=space) - exact
    target = f"{TARGETS[config]:.1f}" if config in TARGETS else "-"
    row = [
        config,
        f"{parameters:,}",
        f"{median['textbook']:.4f}",
        f"{median['anydiff']:.4f}",
        f"{median['textbook'] / median['anydiff']:.2f}",
        target,
        f"{difference.abs().max():.1e}",
    ]
    if compiled:
        row += [f"{median['compiled']:.4f}"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", action="append", metavar="HIDDENxLAYERS", help="repeatable; default: all three"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="time torch.compile of EGNN as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    sizes = draw_sizes()
    print(
        f"forward + backward, {BATCH} molecules, {int(sizes.sum())} atoms, "
        f"{int((sizes * (sizes - 1)).sum()):,} edges of "
        f"{BATCH * int(sizes.max()) ** 2:,} dense pairs, "
        f"{args.threads} threads, torch {torch.__version__}"
    )
    header = ["config", "parameters", "textbook s", "anydiff s", "ratio", "target", "max |diff|"]
    header += ["compiled s"] * args.compile
    print("  ".join(f"{name:>10}" for name in header))
    for config in args.config or TARGETS:
        row = compare(config, args.repeats, args.compile)
        print("  ".join(f"{cell:>10}" for cell in row), flush=True)


if __name__ == "__main__":
    main()

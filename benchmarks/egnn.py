"""How much faster is EGNN than EDM's code, and than its equations written out?

Trains one step (forward and backward) of three forms of one function, on the same weights and the same
batch of molecule sizes:

- published: as EDM's code computes it, on lists of all pairs, padding and self-loops included
  (tests/helpers/published_egnn.py);
- textbook: the equations on dense, padded arrays, which gathers and scatters nothing
  (tests/helpers/textbook_egnn.py);
- anydiff: on the pairs that there are.

Their repetitions alternate, so that a busy machine slows all. "mults ÷" is how many times fewer
multiplications anydiff's linear layers do, which limits the ratios where these take the time, as in wide
networks. In narrow ones most of it goes to what is done with each number of each pair, SiLU, sums and
copies: of these there are fewer by the ratio of the pairs (the first line), and fewer copies.

    python benchmarks/egnn.py                         # all three sizes, about three minutes
    python benchmarks/egnn.py --config 128x6 --repeats 9 --threads 4
    python benchmarks/egnn.py --config 64x4 --busy 1  # beside another program with as many threads
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from torch import Tensor

import anydiff
from anydiff.denoisers.points.egnn import EGNN
from anydiff.spaces import Ragged

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.steps import neighbours
from tests.helpers.published_egnn import PublishedEGNN
from tests.helpers.textbook_egnn import TextbookEGNN

# how many times faster anydiff is to be than the published and the textbook form
TARGETS = {"64x4": (5.0, 4.5), "128x6": (7.0, 6.0), "256x9": (None, 8.0)}
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


def networks(config: str) -> tuple[EGNN, PublishedEGNN, TextbookEGNN]:
    hidden, layers = map(int, config.split("x"))
    torch.manual_seed(0)
    published, textbook = (form(FEATURES, hidden, layers) for form in (PublishedEGNN, TextbookEGNN))
    textbook.load_state_dict(published.state_dict())
    return EGNN.from_edm(published.state_dict()), published, textbook


def multiplications(config: str, sizes: Tensor) -> tuple[float, float]:
    """Those of a layer's linear maps for each hidden channel, of EDM's forms and of anydiff.

    Of both edge networks the first map has 2 × hidden + 2 inputs, and the second one as many as channels.
    anydiff applies the first one to h_i and h_j for each atom, not for each pair. The networks of atoms
    are the same, but for padding.
    """
    hidden = int(config.split("x")[0])
    padded, atoms = BATCH * int(sizes.max()), int(sizes.sum())
    edges = int((sizes * (sizes - 1)).sum())
    theirs = (2 * (2 * hidden + 2 + hidden) + 2) * padded * int(sizes.max()) + 3 * hidden * padded
    ours = (2 * (2 + hidden) + 2) * edges + (4 + 3) * hidden * atoms
    return float(theirs), float(ours)


def compare(config: str, repeats: int, compiled: bool) -> list[str]:
    ours, published, textbook = networks(config)
    parameters = sum(p.numel() for p in ours.parameters())

    sizes = draw_sizes()
    space = Ragged.from_sizes(sizes, centered=3)
    mask = torch.arange(int(sizes.max())) < sizes[:, None]
    x_t, t = space.noise(torch.empty(len(space.index), 3 + FEATURES)), torch.rand(BATCH)
    padded = pad(x_t, mask)

    steps = {
        "published": lambda: published(padded, t, mask),
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
        for p in [*ours.parameters(), *published.parameters(), *textbook.parameters()]:
            p.grad = None
    median = {name: statistics.median(values) for name, values in times.items()}

    with torch.no_grad():
        exact = textbook.double()(padded.double(), t.double(), mask)[mask]
        edm = published.double()(padded.double(), t.double(), mask)[mask]
        own = ours.double()(x_t.double(), t.double(), space=space)
    difference = max(float((form - exact).abs().max()) for form in (edm, own))
    wanted = TARGETS.get(config, (None, None))
    theirs, least = multiplications(config, sizes)
    row = [
        config,
        f"{parameters:,}",
        *(f"{median[name]:.4f}" for name in ("published", "textbook", "anydiff")),
        *(f"{median[name] / median['anydiff']:.2f}" for name in ("published", "textbook")),
        " ".join("-" if ratio is None else f"{ratio:.1f}" for ratio in wanted),
        f"{theirs / least:.2f}",
        f"{difference:.1e}",
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
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="other programs beside it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    sizes = draw_sizes()
    print(
        f"forward + backward, {BATCH} molecules, {int(sizes.sum())} atoms, "
        f"{int((sizes * (sizes - 1)).sum()):,} edges of "
        f"{BATCH * int(sizes.max()) ** 2:,} dense pairs, "
        f"{args.threads} threads, other programs: {args.busy}, torch {torch.__version__}"
    )
    header = ["config", "parameters", "published s", "textbook s", "anydiff s"]
    header += ["published ÷", "textbook ÷", "targets", "mults ÷", "max |diff|"]
    header += ["compiled s"] * args.compile
    print("  ".join(f"{name:>11}" for name in header))
    with neighbours(args.busy, args.threads):
        for config in args.config or TARGETS:
            row = compare(config, args.repeats, args.compile)
            print("  ".join(f"{cell:>11}" for cell in row), flush=True)


if __name__ == "__main__":
    main()

"""What a training step costs, by its parts, and what a compiler, bfloat16 or a busy neighbour change.

Networks as the examples have them, on batches of the data that come with the package, and a U-Net on
128 images of 32 × 32 pixels, whatever is on them: the loss with its gradient, and in brackets the share
of it that the system takes, which clears pages of memory; then Muon, then the average of the weights.
`compiled` is the loss by a network that PyTorch's compiler has compiled, after the seconds that it took;
`bfloat16` is the loss under autocast, which pays off where a processor multiplies such numbers.
Repetitions alternate; medians.

    python benchmarks/steps.py                          # half a minute
    python benchmarks/steps.py --only PairNet --compile --repeats 15
    python benchmarks/steps.py --busy 1                 # beside another program with as many threads
    python benchmarks/steps.py --give-back              # freed memory goes back to the system
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anydiff import Cosine, GaussianDiffusion, LogNormal, Polynomial, Preconditioned
from anydiff.data.sequences import loader as rows_of
from anydiff.data.sequences import unpack as unpack_rows
from anydiff.denoisers import BiRNN, PairNet, UNet
from anydiff.images import Images, load_images
from anydiff.images import loader as images_of
from anydiff.images import unpack as unpack_images
from anydiff.losses import PairDistances
from anydiff.metrics.tables import aligned
from anydiff.molecules import Atoms, load_qm9
from anydiff.molecules import loader as molecules_of
from anydiff.molecules.bonded import Bonded
from anydiff.sketches.named import load_sketches
from anydiff.sketches.rows import StrokeRows
from anydiff.training.memory import keep_freed
from anydiff.training.muon import Muon

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

BUSY = """
import torch
torch.set_num_threads({threads})
x = torch.randn(1500, 1500)
while True:
    x @ x
"""

Case = tuple[GaussianDiffusion, Callable[[Any], tuple[Any, ...]], Any]


def pair_net() -> Case:
    molecules = load_qm9("5k", bonds=True)
    atoms = Bonded(Atoms(molecules.elements, charge_scale=None))
    network = PairNet(atoms.features - 3, hidden=128, layers=6, pairs=2)
    target, times = Preconditioned(sigma_data=1.0), LogNormal(-1.26, 1.41)
    diffusion = GaussianDiffusion(network, Polynomial(), target, times=times, error=PairDistances())
    return diffusion, atoms.unpack, molecules_of(molecules, 64)


def u_net() -> Case:
    network = UNet(1, [32, 64], groups=8)
    return (
        GaussianDiffusion(network, Cosine(), "v"),
        unpack_images,
        images_of(load_images("digits"), 64),
    )


def larger_u_net() -> Case:
    network = UNet(3, [32, 64, 96], groups=8)
    pixels = torch.randint(256, (128, 3, 32, 32)).to(torch.uint8)
    return GaussianDiffusion(network, Cosine(), "v"), unpack_images, images_of(Images(pixels), 128)


def bi_rnn() -> Case:
    sketches = load_sketches("kanji")
    rows = StrokeRows.fit(sketches)
    network = BiRNN(rows.channels, hidden=128, layers=3, cell="gru")
    data = rows_of(rows.encode(sketches.subset(range(1000))), 128)
    return GaussianDiffusion(network, Cosine(), "v"), unpack_rows, data


CASES = {"PairNet": pair_net, "UNet": u_net, "UNet32": larger_u_net, "BiRNN": bi_rnn}


@contextmanager
def neighbours(count: int, threads: int) -> Iterator[None]:
    """Other programs, which multiply matrices all the time."""
    words = [sys.executable, "-c", BUSY.format(threads=threads)]
    others = [subprocess.Popen(words) for _ in range(count)]
    try:
        time.sleep(5 * bool(count))
        yield
    finally:
        for other in others:
            other.kill()


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(name: str, repeats: int, compiled: bool) -> list[str]:
    """The table's row of a network: milliseconds, and ratios."""
    torch.manual_seed(0)
    diffusion, unpack, data = CASES[name]()
    x0, space, cond = unpack(next(iter(data)))
    optimizer = Muon(diffusion.parameters())
    mean = AveragedModel(diffusion, multi_avg_fn=get_ema_multi_avg_fn(0.995))

    def loss(of: GaussianDiffusion) -> None:
        of.zero_grad()
        of.loss(x0, space=space, **cond).mean().backward()

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss(diffusion)

    runs = {
        "half": half,
        "loss": lambda: loss(diffusion),
        "Muon": optimizer.step,
        "mean": lambda: mean.update_parameters(diffusion),
    }
    took = 0.0
    if compiled:
        fast = copy.deepcopy(diffusion)
        fast.denoiser.compile(dynamic=True)
        took = seconds(lambda: loss(fast))
        runs["compiled"] = lambda: loss(fast)

    times: dict[str, list[float]] = {each: [] for each in runs}
    system: list[float] = []
    for repeat in range(repeats + 2):  # the first two warm up
        for each, run in runs.items():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_stime
            elapsed = 1000 * seconds(run)
            if repeat > 1:
                times[each].append(elapsed)
                if each == "loss":
                    system.append(resource.getrusage(resource.RUSAGE_SELF).ru_stime - before)
    median = {each: statistics.median(all_of) for each, all_of in times.items()}

    whole = median["loss"] + median["Muon"] + median["mean"]
    share = (
        100_000 * statistics.mean(system) / torch.get_num_threads() / statistics.mean(times["loss"])
    )
    row = [name, f"{median['loss']:.1f} ({share:.1f} %)"]
    for part in ("Muon", "mean"):
        row.append(f"{median[part]:.1f} ({100 * median[part] / whole:.1f} %)")
    row.append(f"{median['loss'] / median['half']:.2f}")
    return [*row, f"{median['loss'] / median['compiled']:.2f}", f"{took:.0f}"] if compiled else row


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=15, help="of each, interleaved")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="and by a compiled network")
    parser.add_argument(
        "--give-back", action="store_true", help="leave freed memory to the system, as torch does"
    )
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="other programs beside it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.give_back:
        keep_freed()
    how = [f"{key}={os.environ[key]}" for key in WAITING if key in os.environ]
    print(f"{args.threads} threads, {' '.join(how)}, other programs: {args.busy}, ms")
    head = ["", "loss", "Muon", "average", "bfloat16 ×", "compiled ×", "compiling s"]
    rows = [head[: len(head) if args.compile else -2]]
    with neighbours(args.busy, args.threads):
        for name in args.only:
            rows.append(measure(name, args.repeats, args.compile))
    print(aligned(rows, "markdown"))


if __name__ == "__main__":
    main()

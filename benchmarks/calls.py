"""Time of a sampling step, of a loss, of a compiled training step, and of networks of points.

OMP_NUM_THREADS=1 python benchmarks/calls.py  # a tiny network: the cost of the library itself
python benchmarks/calls.py --compile          # PairNet and UNet, with and without torch.compile
python benchmarks/calls.py --pairnet          # PairNet of molecules like QM9's, with bonds, and modulated
OMP_NUM_THREADS=1 python benchmarks/calls.py --points --steps 400  # networks of points side by side
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import seed_everything
from torch import Tensor, nn

from anydiff import DDIM, Cosine, Dense, GaussianDiffusion, Packed, Polynomial, Ragged
from anydiff.denoisers import EGNN, Harmonic, PairNet, UNet
from anydiff.losses import Power
from anydiff.molecules import Atoms, load_qm9, loader
from anydiff.molecules.qm9 import split
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

POINTS: dict[str, Callable[[int], nn.Module]] = {
    "PairNet": PairNet,
    "PairNet, modulated": lambda features: PairNet(features, modulated=True),
    "Harmonic": Harmonic,
    "Harmonic, no parity": lambda features: Harmonic(features, parity=False),
    "Harmonic, 128 and 64 wide": lambda features: Harmonic(features, 128, 64),
    "EGNN, 128 wide, 6 layers": lambda features: EGNN(features, 128, 6),
}


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
        ("points, modulated", PairNet(5, modulated=True), atoms, rows),
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


def points(steps: int, names: list[str]) -> None:
    """The times of networks on 64 molecules of QM9, and their losses after some steps of training.

    Arguments:
        steps: How many; 0 for the times alone.
        names: The networks to train.
    """
    molecules, atoms, parts = load_qm9("5k"), Atoms(charge_scale=None), split(5000)
    learn, check = molecules.subset(parts.train), molecules.subset(parts.valid)
    x0, space, _ = atoms.unpack(next(iter(loader(learn, 64, seed=0))))
    networks = {name: make(atoms.features - 3) for name, make in POINTS.items()}
    losses: dict[str, Callable[[], Any]] = {}
    answers: dict[str, Callable[[], Any]] = {}
    for name, network in networks.items():
        print(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters")
        diffusion = GaussianDiffusion(network, Polynomial(), "eps")
        losses[name] = lambda d=diffusion: d.loss(x0, space=space).mean().backward()
        answers[name] = lambda n=network: n(x0, torch.full((64,), 0.5), space=space)
    print("loss and gradients")
    compare(losses)
    print("a call")
    with torch.no_grad():
        compare(answers)

    for name in names if steps else ():
        seed_everything(0, verbose=False)  # as examples/qm9_molecules.py trains
        diffusion = GaussianDiffusion(
            POINTS[name](atoms.features - 3), Polynomial(), "eps", times=Power(1.5)
        )
        module = DiffusionModule(
            diffusion, atoms.unpack, lr=8e-3, warmup=min(200, steps // 2), seed=0, optimizer=Muon
        )
        start = time.process_time()
        with TemporaryDirectory() as folder:
            fit(
                module, folder, loader(learn, 64, seed=0), max_steps=steps, ema=0.995,
                accelerator="cpu", enable_progress_bar=False,
            )  # fmt: skip
        seconds = time.process_time() - start
        generator = torch.Generator().manual_seed(0)  # the same noise and times for each network
        errors = []
        with torch.no_grad():
            for batch in loader(check, 64, shuffle=False):
                x0, space, _ = atoms.unpack(batch)
                errors.append(diffusion.eval().loss(x0, space=space, generator=generator))
        loss = torch.cat(errors)
        print(
            f"{name}, {steps} steps, {seconds:.0f} s: eps loss {loss.mean():.4f} ± "
            f"{loss.std() / len(loss) ** 0.5:.4f} of molecules that it has not seen",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pairnet", action="store_true")
    parser.add_argument("--points", action="store_true")
    parser.add_argument("--steps", type=int, default=0, help="of training, with --points")
    parser.add_argument("--names", nargs="*", default=["PairNet", "Harmonic"], choices=POINTS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.pairnet:
        return pairnet()
    if args.points:
        return points(args.steps, args.names)
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

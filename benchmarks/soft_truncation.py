"""Soft truncation against a fixed least time, where a model is trained by the weights of the likelihood.

Trains small U-Nets on the shipped digits, by the same number of passes, with the linear schedule of DDPM
in continuous time and the weighting `Likelihood()`: with times from 1e-5 on, and with `SoftTruncation`,
whose batches have least times of their own. Prints the Fréchet distance of drawn digits and the bound in
bits per dimension of held-out ones, for each seed and in the mean.

    python benchmarks/soft_truncation.py                     # three seeds, about half an hour
    python benchmarks/soft_truncation.py --seeds 0 --epochs 1

Models are kept in the folder, and not trained again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from pytorch_lightning import seed_everything
from torch import Tensor

from anydiff import DPMSolver, GaussianDiffusion
from anydiff.checks import frozen
from anydiff.denoisers import UNet
from anydiff.images import from_uint8, load_images, loader, split, to_uint8, unpack
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import evaluate
from anydiff.likelihood import DiscretizedGaussian, continuous_bound
from anydiff.losses import Likelihood, SoftTruncation, Times
from anydiff.metrics.tables import aligned
from anydiff.schedules.schedule import VariancePreserving
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

LEAST = 1e-5


@frozen()
class Linear(VariancePreserving):
    """beta(t) rises linearly, as in DDPM, in continuous time."""

    low: float = 0.1
    high: float = 20.0

    def _logsnr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self.low * t + (self.high - self.low) * t.square() / 2))


def fixed(u: Tensor) -> Tensor:
    return LEAST + (1 - LEAST) * u


TIMES: dict[str, Callable[[Tensor], Tensor] | Times] = {
    "fixed": fixed,
    "soft, k = 1": SoftTruncation(1.0, LEAST),
    "soft, k = 2": SoftTruncation(2.0, LEAST),
}


def measured(name: str, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """The Fréchet distance, and the bits per dimension."""
    images = load_images("digits")
    parts = split(images)
    learn, test = images.subset(parts.train), images.subset(parts.test)
    seed_everything(seed, verbose=False)
    network = UNet(1, [32, 64], groups=8)
    diffusion = GaussianDiffusion(
        network, Linear(), "eps", weighting=Likelihood(), times=TIMES[name]
    )
    folder = args.out / f"{name.replace(' ', '').replace(',', '-')}-{seed}"
    file = folder / "weights.pt"
    if not file.exists():
        module = DiffusionModule(diffusion, unpack, lr=3e-3, warmup=100, seed=seed, optimizer=Muon)
        fit(module, folder, loader(learn, 64, seed=seed), epochs=args.epochs, ema=0.998, devices=1)
        torch.save(network.state_dict(), file)
    network.load_state_dict(torch.load(file, weights_only=True))
    diffusion.eval()

    drawn = torch.cat([
        diffusion.sample((len(part), 1, 8, 8), sampler=DPMSolver(), steps=50, seed=1000 + k)
        for k, part in enumerate(torch.split(torch.arange(len(learn)), 200))
    ])  # fmt: skip
    features = DigitFeatures.load()
    frechet = evaluate(to_uint8(drawn), features.features(learn.pixels), features=features).frechet

    levels = sorted(set(from_uint8(images.pixels).flatten().tolist()))
    end = float(Linear().logsnr(torch.tensor(LEAST, dtype=torch.float64)))
    with torch.no_grad():
        bound = continuous_bound(
            diffusion.predictor(), from_uint8(test.pixels), draws=64, uniform="logsnr",
            decoder=DiscretizedGaussian(levels=levels), logsnr_max=end,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    return frechet, float(bound.bits_per_dim().mean())


def main() -> None:
    """Train and measure what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/soft_truncation"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    cells = [["times", "seeds", "Fréchet", "bits/dim"]]
    for name in TIMES:
        figures = []
        for seed in args.seeds:
            figures.append(measured(name, seed, args))
            print(f"{name}, seed {seed}: {figures[-1][0]:.3g}, {figures[-1][1]:.4g}", flush=True)
        mean = np.mean(figures, axis=0)
        cells.append([name, " ".join(map(str, args.seeds)), *(
            f"{mean[k]:.{3 + k}g} ({', '.join(f'{f[k]:.{3 + k}g}' for f in figures)})" for k in (0, 1)
        )])  # fmt: skip
    print(aligned(cells, "markdown"))


if __name__ == "__main__":
    main()

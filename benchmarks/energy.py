"""Energies trained by recovery likelihoods: mixtures in the plane, and digits by a perceptron.

    python benchmarks/energy.py                              # three seeds
    python benchmarks/energy.py --only plane --seeds 0
    python benchmarks/energy.py --short --out runs/short      # to see that it runs

- `plane`: three Gaussians with the weights .5, .3 and .2: the weights of the samples, and those that the
  energy itself says, by integration.
- `digits`: the Fréchet distance of drawn digits, and how often the energy ranks a held-out digit above
  noise of the same mean and variance, and above a digit that is rolled by three pixels.

What is in the folder already is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from pytorch_lightning import seed_everything
from torch import Tensor, nn

from anydiff.denoisers import Energy
from anydiff.images import from_uint8, load_images, loader, split, to_uint8, unpack
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import evaluate
from anydiff.metrics.tables import aligned
from anydiff.recovery import RecoveryLikelihood
from anydiff.spaces import DENSE
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import fit

CENTRES = torch.tensor([[-1.2, -0.8], [1.2, -0.8], [0.0, 1.3]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
STD = 0.25


class Perceptron(nn.Module):
    """Of flat states and times, with smooth activations."""

    def __init__(self, columns: int, hidden: int = 256) -> None:
        super().__init__()
        self.columns = columns
        self.net = nn.Sequential(
            nn.Linear(columns + 8, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, columns),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Any:
        waves = t[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0]).to(t) * np.pi
        inputs = torch.cat([x.flatten(1), waves.sin(), waves.cos()], 1)
        return self.net(inputs).reshape(x.shape)


def train(
    args: argparse.Namespace,
    name: str,
    model: RecoveryLikelihood,
    batches: Any,
    unpacked: Any,
    seed: int,
) -> float:
    """Train, or read what is there; the minutes that it took."""
    file, start = args.out / name / "weights.pt", time.perf_counter()
    if not file.exists():
        epochs = 1 if args.short else {"plane": 60, "digits": 250}[name.split("-")[0]]
        module = DiffusionModule(model, unpacked, lr=1e-3, warmup=100, seed=seed)
        fit(
            module, file.parent, batches, epochs=epochs, ema=0.998, accelerator="cpu", devices=1,
            title=name,
        )  # fmt: skip
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()
    return (time.perf_counter() - start) / 60


def plane(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Three Gaussians."""
    seed_everything(seed, verbose=False)
    which = torch.multinomial(WEIGHTS, 20_000, True)
    data = CENTRES[which] + STD * torch.randn(20_000, 2)
    model = RecoveryLikelihood(Energy(Perceptron(2, 128)), steps=20, step_size=0.3)
    loading = torch.utils.data.DataLoader(
        data, 256, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )
    train(args, f"plane-{seed}", model, loading, lambda x: (x, DENSE, {}), seed)
    x = model.sample((200 if args.short else 10_000, 2), seed=seed)
    drawn = torch.bincount(torch.cdist(x, CENTRES).argmin(1), minlength=3) / len(x)
    axis = torch.linspace(-4, 4, 321)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        f = model.energy.value(points, torch.zeros(len(points))).double()
    share = torch.zeros(3, dtype=torch.float64).index_add_(
        0, torch.cdist(points, CENTRES).argmin(1), (f - f.max()).exp()
    )
    share /= share.sum()
    found = {
        f"weight {w:g}, of samples": v.item() for w, v in zip(WEIGHTS.tolist(), drawn, strict=True)
    }
    found |= {
        f"weight {w:g}, of the energy": v.item()
        for w, v in zip(WEIGHTS.tolist(), share, strict=True)
    }
    return found


def digits(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Digits, by a perceptron."""
    images = load_images("digits")
    parts = split(images)
    learn, test = images.subset(parts.train), from_uint8(images.subset(parts.test).pixels)
    features = DigitFeatures.load()
    real = features.features(learn.pixels)
    seed_everything(seed, verbose=False)
    model = RecoveryLikelihood(Energy(Perceptron(64)), steps=30, step_size=0.2)
    minutes = train(args, f"digits-{seed}", model, loader(learn, 64, seed=seed), unpack, seed)
    num = 64 if args.short else len(learn)
    x = model.sample((num, 1, 8, 8), seed=seed)
    generator = torch.Generator().manual_seed(0)
    mean, std = test.mean(), test.std()
    noise = mean + std * torch.randn(test.shape, generator=generator)
    with torch.no_grad():
        own, other, rolled = (
            model.energy.value(of, torch.zeros(len(of))) for of in (test, noise, test.roll(3, -1))
        )

    def ranked(low: Tensor) -> float:
        return (own[:, None] > low).double().mean().item()

    return {
        "Fréchet": evaluate(to_uint8(x), real, features=features).frechet,
        "AUC, noise": ranked(other), "AUC, rolled": ranked(rolled), "minutes": minutes,
    }  # fmt: skip


SYSTEMS = {"plane": plane, "digits": digits}


def main() -> None:
    """Train, draw and judge, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/energy"))
    parser.add_argument("--short", action="store_true", help="one pass and few samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [["data", "figure", "mean", f"seeds {', '.join(map(str, args.seeds))}"]]
    for name in args.only:
        found: dict[str, list[float]] = {}
        for seed in args.seeds:
            for figure, value in SYSTEMS[name](args, seed).items():
                found.setdefault(figure, []).append(value)
                print(name, seed, figure, f"{value:.3g}", flush=True)
        for figure, values in found.items():
            each = ", ".join(f"{v:.3g}" for v in values)
            rows.append([name, figure, f"{np.mean(values):.3g}", each])
    print(aligned(rows, "markdown"))


if __name__ == "__main__":
    main()

"""Denoising diffusion GANs and adversarial score matching, on digits, kanji and a grid of Gaussians.

    python benchmarks/adversarial.py                         # all, three seeds
    python benchmarks/adversarial.py --only grid digits --seeds 0
    python benchmarks/adversarial.py --short --out runs/short # to see that it runs

- `grid`: 25 narrow Gaussians in the plane, four calls: the share of the modes that are found and of the
  samples within three deviations of one.
- `digits`: four calls, against the Fréchet distance of a diffusion of all times with 50 (`DPMSolver`),
  trained for as many passes.
- `kanji`: the rows of characters, four calls.
- `score`: the loss of a diffusion of digits without and with a critic of its means, of two weights, drawn
  from by `DPMSolver` and by consistent annealed sampling.

What is in the folder already is kept.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from pytorch_lightning import seed_everything
from torch import Tensor, nn

from anydiff import Cosine, DPMSolver, GaussianDiffusion, Linear, Renoise
from anydiff.adversarial import AdversarialScoreMatching, Critic, DenoisingGAN
from anydiff.data.sequences import LengthDistribution, split_items
from anydiff.data.sequences import loader as row_loader
from anydiff.data.sequences import unpack as unpack_rows
from anydiff.denoisers import BiRNN, UNet
from anydiff.images import load_images, loader, split, to_uint8, unpack
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import evaluate
from anydiff.losses import Rows
from anydiff.metrics.tables import aligned
from anydiff.samplers import DrawnContext, LogSNR
from anydiff.sketches.evaluate import evaluate as evaluate_sketches
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.named import split as split_sketches
from anydiff.sketches.rows import StrokeRows
from anydiff.spaces import DENSE, Masked
from anydiff.training.critics import AdversarialModule
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

FOUR = (1.0, 0.75, 0.5, 0.25, 0.0)
NEAR = (1.0, 0.5, 0.25, 0.1, 0.0)
"""Nearer to the data, where the modes of the grid are apart."""
EPOCHS = {"grid": 300, "digits": 150, "kanji": 70, "score": 100}


class Plane(nn.Module):
    """A perceptron of points in the plane, with a condition; waves show a critic narrow modes."""

    def __init__(self, columns: int, context: int = 0, waves: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.waves = waves
        layers: list[nn.Module] = []
        first = columns * (1 + 2 * len(waves)) + context + 1
        for before, after in ((first, 128), (128, 128), (128, 128)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(128, columns))

    def forward(self, x: Tensor, t: Tensor, *, context: Tensor | None = None) -> Any:
        angles = [math.pi * w * x for w in self.waves]
        parts = [x, t[:, None], *(a.sin() for a in angles), *(a.cos() for a in angles)]
        parts += [] if context is None else [context]
        return self.net(torch.cat(parts, 1))


def train(
    args: argparse.Namespace, name: str, objective: Any, batches: Any, unpacked: Any, **how: Any
) -> None:
    """Train an objective, or read what is there."""
    folder = args.out / name
    file = folder / "weights.pt"
    if not file.exists():
        epochs = 1 if args.short else EPOCHS[name.split("-")[0]]
        critic = hasattr(objective, "critic_loss")
        module = (AdversarialModule if critic else DiffusionModule)(objective, unpacked, **how)
        fit(
            module,
            folder,
            batches,
            epochs=epochs,
            ema=0.998,
            accelerator="cpu",
            devices=1,
            title=name,
        )
        torch.save(objective.state_dict(), file)
    objective.load_state_dict(torch.load(file, weights_only=True))
    objective.eval()


def grid(args: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """25 Gaussians: modes found, samples near one, both in percent."""
    seed_everything(seed, verbose=False)
    centres = torch.cartesian_prod(torch.arange(-2.0, 3), torch.arange(-2.0, 3))
    std = 0.05
    which = torch.randint(25, (20_000,))
    data = (centres[which] + std * torch.randn(20_000, 2)) / 1.42  # of variance 1
    diffusion = GaussianDiffusion(Plane(2, 16), Linear(), "x0", times=Rows(NEAR, DrawnContext(16)))
    gan = DenoisingGAN(diffusion, Critic(Plane(4, waves=(1.0, 2.0, 4.0, 8.0))), penalty=0.001)
    loading = torch.utils.data.DataLoader(
        data, 512, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )
    how = {"lr": 1e-3, "critic_lr": 1e-3, "seed": seed}
    train(args, f"grid-{seed}", gan, loading, lambda x: (x, DENSE, {}), **how)
    x = 1.42 * diffusion.sample((5000, 2), seed=seed)
    distance, nearest = torch.cdist(x, centres).min(1)
    near = distance < 3 * std
    share = torch.bincount(nearest[near], minlength=25) / len(x)
    return {"modes %": [100 * (share > 0.004).double().mean().item()],
            "within 3 deviations %": [100 * near.double().mean().item()]}  # fmt: skip


def judged(
    x: Tensor, real: Tensor, learn: Tensor, features: DigitFeatures, row: str
) -> dict[str, list[float]]:
    """Figures of drawn digits, whose row they are in."""
    report = evaluate(to_uint8(x), real, learn, features=features)
    return {
        f"{row}, Fréchet": [report.frechet], f"{row}, recall": [report.recall],
        f"{row}, near": [report.nearest], f"{row}, least class %": [100 * report.least_share],
    }  # fmt: skip


def digits(args: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """Digits by four calls."""
    images = load_images("digits")
    parts = split(images)
    learn, test = images.subset(parts.train), images.subset(parts.test)
    features = DigitFeatures.load()
    real, known = (features.features(of.pixels) for of in (test, learn))
    num = 64 if args.short else len(learn)
    seed_everything(seed, verbose=False)
    diffusion = GaussianDiffusion(
        UNet(1, (32, 64), groups=8, context=16), Linear(), "x0", times=Rows(FOUR, DrawnContext(16))
    )
    gan = DenoisingGAN(diffusion, Critic(UNet(2, (24, 48), groups=8), axis=1))
    train(
        args, f"digits-gan-{seed}", gan, loader(learn, 64, seed=seed), unpack, lr=4e-4, critic_lr=4e-4,
        seed=seed,
    )  # fmt: skip
    found = judged(
        diffusion.sample((num, 1, 8, 8), seed=seed), real, known, features, "GAN, 4 calls"
    )
    seed_everything(seed, verbose=False)
    plain = GaussianDiffusion(UNet(1, (32, 64), groups=8), Cosine(), "v")
    train(
        args, f"digits-plain-{seed}", plain, loader(learn, 64, seed=seed), unpack, lr=8e-3, warmup=100,
        optimizer=Muon, seed=seed,
    )  # fmt: skip
    for steps in (4, 50):
        x = plain.sample((num, 1, 8, 8), sampler=DPMSolver(), steps=steps, seed=seed)
        found |= judged(x, real, known, features, f"diffusion, {steps} calls")
    return found


def kanji(args: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """Characters by four calls."""
    known = load_kanji()
    parts = split_sketches(known)
    learn, test = known.subset(parts.train), known.subset(parts.test)
    rows = StrokeRows.fit(learn)
    items = rows.encode(learn)
    C = rows.channels
    seed_everything(seed, verbose=False)
    diffusion = GaussianDiffusion(
        BiRNN(C, 128, 3, context=16), Linear(), "x0", times=Rows(FOUR, DrawnContext(16))
    )
    gan = DenoisingGAN(diffusion, Critic(BiRNN(2 * C, 96, 2)))
    train(
        args, f"kanji-{seed}", gan, row_loader(items, 128, seed=seed), unpack_rows, lr=5e-4,
        critic_lr=5e-4, seed=seed,
    )  # fmt: skip
    lengths = LengthDistribution.from_sizes(items.sizes)
    num = 40 if args.short else 720
    space = Masked.from_lengths(lengths.sample(num, torch.Generator().manual_seed(seed)))
    x = diffusion.sample((*space.mask.shape, C), space=space, seed=seed)
    each = split_items(x, space.mask)
    drawn = rows.decode(torch.cat(each), list(map(len, each)))
    report = evaluate_sketches(drawn, test)
    return {"Fréchet": [report.frechet], "valid %": [100 * report.validity]}


def score(args: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """Digits with and without a critic of the denoised means."""
    images = load_images("digits")
    parts = split(images)
    learn, test = images.subset(parts.train), images.subset(parts.test)
    features = DigitFeatures.load()
    real = features.features(test.pixels)
    num, found = 64 if args.short else len(learn), {}
    for weight in (0.0, 1 / 64, 1.0):  # 64 values: the weight 1 of a loss that is a sum over them
        seed_everything(seed, verbose=False)
        diffusion = GaussianDiffusion(UNet(1, (32, 64), groups=8), Cosine(), "v")
        both = AdversarialScoreMatching(diffusion, Critic(UNet(1, (24, 48), groups=8)), weight)
        train(
            args, f"score-{weight:g}-{seed}", both, loader(learn, 64, seed=seed), unpack, lr=8e-3,
            critic_lr=4e-4, warmup=100, optimizer=Muon, seed=seed,
        )  # fmt: skip
        model = both.diffusion
        grid_of = LogSNR(1.0, 8.0, -8.0)
        ratio = float(np.exp(-16 / (2 * 49)))
        for name, sampler, grid in (
            ("DPMSolver", DPMSolver(), None),
            ("annealed", Renoise.annealed(1 - ratio**2, ratio), grid_of),
        ):
            x = model.sample((num, 1, 8, 8), sampler=sampler, steps=50, grid=grid, seed=seed)
            distance = evaluate(to_uint8(x), real, features=features).frechet
            found[f"critic × {weight:g}, {name}, Fréchet"] = [distance]
    return found


SYSTEMS = {"grid": grid, "digits": digits, "kanji": kanji, "score": score}


def main() -> None:
    """Train, draw and judge, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/adversarial"))
    parser.add_argument("--short", action="store_true", help="one pass and few samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [["system", "figure", "mean", f"seeds {', '.join(map(str, args.seeds))}"]]
    for name in args.only:
        found: dict[str, list[float]] = {}
        for seed in args.seeds:
            for figure, value in SYSTEMS[name](args, seed).items():
                found.setdefault(figure, []).extend(value)
                print(name, seed, figure, f"{value[0]:.3g}", flush=True)
        for figure, values in found.items():
            each = ", ".join(f"{v:.3g}" for v in values)
            rows.append([name, figure, f"{np.mean(values):.3g}", each])
    print(aligned(rows, "markdown"))


if __name__ == "__main__":
    main()

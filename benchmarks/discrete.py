"""Digits as tokens: 64 of 17 grey values, by three kernels with one network.

    python benchmarks/discrete.py                            # three seeds
    python benchmarks/discrete.py --seeds 0 --kernels ordinal
    python benchmarks/discrete.py --short --out runs/short    # to see that it runs

The bound is in bits for a pixel, of held-out digits; the entropy of each pixel alone stands beside it.
The Fréchet distance of drawn digits is that of the shipped features to the digits that were learned from.
What is in the folder already is kept. SMILES are in benchmarks/smiles.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from pytorch_lightning import seed_everything
from torch import Tensor

from anydiff import Cosine, Flow
from anydiff.denoisers import UNet
from anydiff.discrete import (
    AbsorbingKernel,
    CategoricalDiffusion,
    OrdinalKernel,
    UniformKernel,
    bits_per_token,
    one_hot,
)
from anydiff.images import load_images, loader, split
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import evaluate
from anydiff.metrics.tables import aligned
from anydiff.spaces import DENSE
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

VALUES = 17
KERNELS: dict[str, tuple[Any, Any]] = {
    "ordinal": (OrdinalKernel(VALUES), Cosine()),
    "absorbing": (AbsorbingKernel(VALUES), Flow()),
    "uniform": (UniformKernel(VALUES), Cosine()),
}


def tokens_of(pixels: Tensor) -> Tensor:
    """Grey values of digits, 0 to 16, (B, 8, 8)."""
    return (pixels[:, 0].double() / 255 * (VALUES - 1)).round().long()


def pixels_of(tokens: Tensor) -> Tensor:
    """Pictures of grey values, (B, 1, 8, 8) of uint8."""
    return (tokens[:, None].double() / (VALUES - 1) * 255).round().to(torch.uint8)


def build(name: str) -> CategoricalDiffusion:
    """A model, one network for all kernels."""
    kernel, schedule = KERNELS[name]
    return CategoricalDiffusion(UNet(kernel.states, (32, 64), groups=8), kernel, schedule, axis=1)


def main() -> None:
    """Train, draw and judge, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=KERNELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/discrete"))
    parser.add_argument("--short", action="store_true", help="two passes and few digits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images = load_images("digits")
    parts = split(images)
    learn, test = images.subset(parts.train), images.subset(parts.test)
    features = DigitFeatures.load()
    real = features.features(learn.pixels)
    counts = torch.stack([(tokens_of(learn.pixels) == k).double().mean(0) for k in range(VALUES)])
    p = (counts + 1 / len(learn) / VALUES) / (1 + 1 / len(learn))
    held = tokens_of(test.pixels)
    alone = -p.log2().gather(0, held).mean().item()
    rows = [["kernel", "bits for a pixel", "Fréchet, 64 calls", "16 calls"]]
    rows += [["each pixel alone", f"{alone:.3f}", "", ""]]
    for name in args.kernels:
        found = []
        for seed in args.seeds:
            seed_everything(seed, verbose=False)
            model = build(name)
            folder = args.out / f"{name}-{seed}"
            file = folder / "weights.pt"
            if not file.exists():
                module = DiffusionModule(
                    model,
                    lambda batch, of=model: (
                        one_hot(tokens_of(batch.pixels), of.kernel, 1), DENSE, {},
                    ),
                    lr=4e-3, warmup=100, seed=seed, optimizer=Muon,
                )  # fmt: skip
                fit(
                    module, folder, loader(learn, 64, seed=seed), ema=0.998,
                    epochs=2 if args.short else args.epochs, accelerator="cpu", devices=1, title=name,
                )  # fmt: skip
                torch.save(model.state_dict(), file)
            model.load_state_dict(torch.load(file, weights_only=True))
            model.eval()
            x0 = one_hot(held, model.kernel, 1, torch.float64)
            generator = torch.Generator().manual_seed(0)
            bits = bits_per_token(
                model, x0, draws=4 if args.short else 64, generator=generator
            ).mean()
            num = 64 if args.short else len(learn)
            row = [bits.item()]
            for steps in (64, 16):
                drawn = model.sample(
                    (num, model.kernel.states, 8, 8), steps=steps, seed=1000 + seed
                )
                row.append(evaluate(pixels_of(drawn.argmax(1)), real, features=features).frechet)
            found.append(row)
            print(name, seed, *(f"{v:.3f}" for v in row), flush=True)
        rows.append([name, *(spread(v) for v in np.array(found).T)])
    print(aligned(rows, "markdown"))


def spread(values: np.ndarray) -> str:
    """The mean of some values, and the values."""
    each = ", ".join(f"{v:.3g}" for v in values)
    return f"{values.mean():.3g} ({each})" if len(values) > 1 else each


if __name__ == "__main__":
    main()

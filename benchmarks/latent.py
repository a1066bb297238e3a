"""Diffusions of latents beside those of the data, for as many passes over the data, or minutes.

    python benchmarks/latent.py                                   # all, for two hours of one core
    python benchmarks/latent.py --only digits --seeds 0
    python benchmarks/latent.py --only lsgm                       # both stages at once
    python benchmarks/latent.py --only cifar10 --minutes 30 --seeds 0
    python benchmarks/latent.py --only kanji --picture latent_kanji.png
    python benchmarks/latent.py --short --out runs/short          # to see that it runs

A latent model gets a third of its passes for the autoencoder (`anydiff train ... --latent`). Items are
drawn by `DPMSolver()` with 10 and 50 calls and, but for CIFAR-10, by ancestral sampling; *reconstructed*
is what the autoencoder makes of held-out data, the best that a latent model can draw. What is in the
folder already is kept.

`lsgm` trains an autoencoder of digits twice, from the same weights: with the standard normal as the prior
of its latents, and with a diffusion of them (`Latent.loss`), for the same number of passes. Its figures
are upper bounds of -log p of held-out digits, in nats, and Fréchet distances of drawn ones.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from pytorch_lightning import seed_everything

from anydiff import DDPM, DPMSolver, GaussianDiffusion
from anydiff.autoencoders import Autoencoding, Convolutional
from anydiff.cli import train
from anydiff.cli.runs import kind_of, open_model
from anydiff.cli.sketches import draw_runs
from anydiff.denoisers import UNet
from anydiff.images import from_uint8, load_images, loader, split, to_uint8, unpack
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import evaluate
from anydiff.kinds import first
from anydiff.latent import Latent
from anydiff.losses import Unit
from anydiff.metrics.tables import aligned
from anydiff.schedules import Geometric
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


@dataclass(frozen=True)
class System:
    """A model of the data and one of latents.

    Arguments:
        train: Of both: (epochs, seed, out, **options).
        options: Of both.
        latent: The columns of a latent.
        epochs: Of both.
        num: How many items are drawn for each figure.
        calls: Of ancestral sampling, 0 for none.
    """

    train: Callable[..., Any]
    options: Mapping[str, Any]
    latent: int
    epochs: int
    num: int
    calls: int = 100


SYSTEMS = {
    "digits": System(train.images, {"data": "digits"}, 4, 100, 1258),
    "kanji": System(train.sketches, {}, 6, 70, 720),
    "qm9": System(train.molecules, {"data": "5k"}, 2, 40, 300, 250),
    "cifar10": System(train.images, {"data": "cifar10"}, 4, 6, 500, 0),
}


def spread(values: list[float]) -> str:
    """The mean of some values, and the values."""
    each = ", ".join(f"{v:.3g}" for v in values)
    return f"{np.mean(values):.3g} ({each})" if len(values) > 1 else each


def compare(name: str, args: argparse.Namespace) -> str:
    """The table of a system."""
    system, figures = SYSTEMS[name], {}
    for seed in args.seeds:
        for which in ("data", "latents"):
            out = args.out / f"{name}-{which}-{seed}"
            path = out / "model.safetensors"
            if not path.exists():
                length: dict[str, Any] = {"epochs": 3 if args.short else system.epochs}
                if args.minutes:
                    length = {"minutes": args.minutes}
                system.train(
                    **system.options, **({"latent": system.latent} if which == "latents" else {}),
                    **length, seed=seed, out=out, accelerator="cpu",
                )  # fmt: skip
            model = open_model(path)
            kind = kind_of(model.kind)
            held_out, judge, _ = kind.judge(model.read_data())
            num = 20 if args.short else system.num
            runs = {f"{which}, DPMSolver, {k}": (DPMSolver(), k) for k in (10, 50)}
            if system.calls:
                runs[f"{which}, ancestral, {system.calls}"] = DDPM(), system.calls
            drawn = {
                row: model.sample(num, sampler=s, steps=k, seed=1000 + seed)
                for row, (s, k) in runs.items()
            }
            if which == "latents":
                drawn["reconstructed"] = model.edit(first(held_out, num), 0.0)
            for row, items in drawn.items():
                asked = min(num, len(held_out)) if row == "reconstructed" else num
                report = judge(items, asked - len(items))
                cells = {c.title: c.cell(report).rstrip("%") for c in kind.FIGURES}
                for title, cell in cells.items():
                    if cell != "–":
                        figures.setdefault(row, {}).setdefault(title, []).append(float(cell))
                print(f"{name}, seed {seed}, {row}: {cells}", flush=True)
    titles = list(dict.fromkeys(t for row in figures.values() for t in row))
    cells = [[f"{name}, seeds {', '.join(map(str, args.seeds))}", *titles]]
    cells += [[row, *(spread(of[t]) for t in titles)] for row, of in figures.items()]
    return aligned(cells, "markdown")


def picture(args: argparse.Namespace) -> None:
    """Held-out characters, what the autoencoder keeps of them, and what is drawn."""
    model = open_model(args.out / f"kanji-latents-{args.seeds[0]}" / "model.safetensors")
    held_out, _, _ = kind_of(model.kind).judge(model.read_data())
    real = first(held_out, 12)
    runs = {"held out": real, "as its latents": model.edit(real, 0.0), "drawn": model.sample(12)}
    draw_runs(args.picture, runs)
    print(args.picture)


def lsgm(args: argparse.Namespace) -> str:
    """Both stages at once on digits, against the standard normal as the prior."""
    images = load_images("digits")
    parts = split(images)
    learn, test = images.subset(parts.train), from_uint8(images.subset(parts.test).pixels)
    features = DigitFeatures.load()
    real = features.features(learn.pixels)
    epochs, rows = (2 if args.short else 100), {"standard normal": [], "diffusion": []}
    for seed in args.seeds:
        for name, found in rows.items():
            seed_everything(seed, verbose=False)
            net = Convolutional(1, 4, (32, 64), groups=8)
            objective = Autoencoding(net)
            prior = GaussianDiffusion(
                UNet(4, [32], groups=8), Geometric(), "v", weighting=Unit("eps")
            )
            latent = Latent(net, prior, objective)
            learned: Any = objective if name == "standard normal" else latent
            folder = args.out / f"lsgm-{name.replace(' ', '-')}-{seed}"
            file = folder / "weights.pt"
            if not file.exists():
                module = DiffusionModule(
                    learned, unpack, lr=3e-3, warmup=100, seed=seed, optimizer=Muon
                )
                fit(
                    module, folder, loader(learn, 64, seed=seed), epochs=epochs, ema=0.998,
                    accelerator="cpu", devices=1,
                )  # fmt: skip
                torch.save(latent.state_dict(), file)
            latent.load_state_dict(torch.load(file, weights_only=True))
            latent.eval()
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                bounds = []
                for _ in range(4 if args.short else 16):
                    q = latent.posterior(test)
                    z = q.sample(generator)
                    if name == "diffusion":
                        bound = latent.bound(test, z, q, generator=generator, draws=4)
                    else:
                        bound = q.kl() - objective.log_likelihood(test, z)
                    bounds.append(bound.mean().item())
                num = 64 if args.short else len(learn)
                if name == "diffusion":
                    x = latent.sample((num, 1, 8, 8), sampler=DPMSolver(), steps=20, seed=seed)
                else:
                    shape = net.latent_shape((num, 1, 8, 8))
                    x = net.decode(torch.randn(shape, generator=generator))
            distance = evaluate(to_uint8(x), real, features=features).frechet
            found.append((float(np.mean(bounds)), distance))
            print(f"lsgm, {name}, seed {seed}: {found[-1]}", flush=True)
    cells = [[f"digits, seeds {', '.join(map(str, args.seeds))}", "-log p, nats", "Fréchet"]]
    for name, found in rows.items():
        cells.append([name, *(spread([f[k] for f in found]) for k in (0, 1))])
    return aligned(cells, "markdown")


def main() -> None:
    """Train and measure what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*SYSTEMS, "lsgm"]
    usual = ["digits", "kanji", "qm9", "lsgm"]
    parser.add_argument("--only", nargs="+", default=usual, choices=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="of each model, instead of passes")
    parser.add_argument("--out", type=Path, default=Path("runs/latent"))
    parser.add_argument("--short", action="store_true", help="three passes and few items")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--picture", type=Path, help="of characters, by the model of them")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.only:
        print(lsgm(args) if name == "lsgm" else compare(name, args), "", sep="\n", flush=True)
    if args.picture:
        picture(args)


if __name__ == "__main__":
    main()

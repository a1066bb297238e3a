"""Steering molecules: properties asked for, scaffolds kept, fragments linked, compositions given.

    python benchmarks/molecules.py --minutes 25

One network is trained with the polarizability as a condition, which a tenth of the molecules go
without, on the second half of QM9's training part; a judge that was trained on the first half
(`scripts/train_property_model.py`) says what the drawn molecules have.
"""

import argparse
from pathlib import Path

import torch
from pytorch_lightning import seed_everything

import anydiff
from anydiff import GaussianDiffusion, Polynomial
from anydiff.data.molecules import Atoms, loader
from anydiff.data.properties import (
    Properties,
    PropertyDistribution,
    halves,
    with_properties,
)
from anydiff.data.qm9 import load_qm9, split
from anydiff.denoisers import PairNet
from anydiff.lightning import DiffusionModule, fit
from anydiff.optimizers import Muon


def train(args: argparse.Namespace) -> Path:
    """The generator, as the example trains it; one that is there is taken."""
    path = args.folder / "generator" / "model.safetensors"
    if path.exists():
        return path
    molecules, atoms = load_qm9(args.data), Atoms(charge_scale=None)
    parts = split(len(molecules))
    learn = molecules.subset(halves(parts.train)[1])
    properties = Properties.from_molecules(learn, args.property)
    unpack = with_properties(atoms.unpack, properties, molecules.prop_names)
    seed_everything(0, verbose=False)
    network = PairNet(atoms.features - 3, 128, layers=6, context=1)
    diffusion = GaussianDiffusion(
        network, Polynomial(), "eps", times=lambda u: u**1.5, drop={"context": 0.1}
    )
    fit(
        DiffusionModule(diffusion, unpack, lr=8e-3, warmup=200, seed=0, optimizer=Muon),
        path.parent,
        loader(learn, 64, seed=0),
        loader(molecules.subset(parts.valid), 64, shuffle=False),
        minutes=args.minutes,
        ema=0.995,
        val_check_interval=500,
        check_val_every_n_epoch=None,
        limit_val_batches=20,
        accelerator="cpu",
    )
    targets = PropertyDistribution.from_molecules(learn, args.property)
    extra = {
        "atoms": atoms.config,
        "properties": properties.config,
        "sizes": targets.sizes,
        "values": targets.values,
    }
    anydiff.save(path, diffusion, extra)
    return path


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--data", default="full", help="full, or 5k for a quick look")
    flags.add_argument("--property", default="alpha", help="what is asked for")
    flags.add_argument("--minutes", type=float, default=25, help="how long to train")
    flags.add_argument("--folder", type=Path, default=Path("runs/molecules"))
    args = flags.parse_args()
    print(train(args))


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

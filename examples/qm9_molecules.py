"""Molecules from noise: train on QM9, draw new ones, count what is stable, look at them.

    python examples/qm9_molecules.py                       five minutes on 5,000 molecules
    python examples/qm9_molecules.py --data full --minutes 30
    python examples/qm9_molecules.py --sample-only runs/qm9_molecules/model.safetensors --num 1000
    python examples/qm9_molecules.py --property alpha --target 90 --guidance 2
    python examples/qm9_molecules.py --inpaint --num 24    keep rings of held-out molecules

Everything lands in one folder: the model, the molecules as SDF, a picture of them (and of those that were
begun from), one denoising path as
"""

import argparse
import time
from pathlib import Path

from pytorch_lightning import seed_everything

import anydiff
from anydiff import GaussianDiffusion, Polynomial
from anydiff.cli.flags import (
    TRAINER_FLAGS,
    calls,
    parse,
    parser,
    run_folder,
    training_settings,
)
from anydiff.cli.molecules import ask, begin, draw_molecules, write_molecules
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import PairNet
from anydiff.molecules import Atoms, load_qm9, loader
from anydiff.molecules.evaluate import evaluate, smiles, table
from anydiff.molecules.properties import Properties, PropertyDistribution, with_properties
from anydiff.molecules.qm9 import split
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def arguments() -> argparse.Namespace:
    flags = parser(__doc__, out="runs/qm9_molecules", items="molecules", steps=250)
    add = flags.add_argument
    add(
        "--data",
        default="5k",
        help="5k (shipped), full (130,831), or an .npz, .sdf or .xyz file, of H, C, N, O, F",
    )
    add("--root", help="folder of PyG's QM9 dataset, to take --data full from there")
    add("--hidden", type=int, default=128, help="width of the network")
    add("--layers", type=int, default=6, help="depth of the network")
    add("--property", metavar="NAME", help="train with this property as a condition, alpha say")
    add("--target", type=float, metavar="VALUE", help="its value to draw for, not those that occur")
    return parse(flags, "hidden", "layers")


def train(args: argparse.Namespace, folder: Path) -> Path:
    """Train, or go on training, and return the file of the model."""
    molecules, atoms = load_qm9(args.data, args.root), Atoms(charge_scale=None)
    parts = split(len(atoms.check(molecules)))
    if not min(map(len, parts)):
        raise ValueError(f"{args.data} holds {len(molecules)} molecules; give at least 10.")
    learn, unpack, asked = molecules.subset(parts.train), atoms.unpack, {}
    if args.property:
        properties = Properties.from_molecules(learn, args.property)
        unpack = with_properties(unpack, properties, learn.prop_names)
        pairs = PropertyDistribution.from_molecules(learn, args.property)
        asked = {"properties": properties.config, "values": pairs.values, "of_size": pairs.sizes}
    seed_everything(args.seed, verbose=False)
    network = PairNet(
        atoms.features - 3, args.hidden, layers=args.layers, context=int(bool(args.property))
    )
    # more times at little noise, where bond lengths are settled
    diffusion = GaussianDiffusion(
        network, Polynomial(), "eps", times=lambda u: u**1.5,
        drop={"context": 0.1} if args.property else None,
    )  # fmt: skip
    print(
        f"{len(parts.train):,} molecules to learn from, {len(parts.valid):,} to check with; "
        f"{sum(p.numel() for p in network.parameters()):,} parameters"
    )
    run = fit(
        DiffusionModule(diffusion, unpack, lr=args.lr, warmup=200, seed=args.seed, optimizer=Muon),
        folder,
        loader(learn, args.batch_size, seed=args.seed),
        loader(molecules.subset(parts.valid), args.batch_size, shuffle=False),
        settings=training_settings(
            args, "data", "hidden", "layers", *["property"] * bool(args.property)
        ),
        minutes=None if args.epochs else args.minutes,
        epochs=args.epochs,
        ema=0.995,
        val_check_interval=500,
        check_val_every_n_epoch=None,
        limit_val_batches=20,
        use_distributed_sampler=False,  # the loader shares its batches out itself
        **{k: getattr(args, k) for k in TRAINER_FLAGS},
    )
    if not run.is_global_zero:  # the other processes of several have done their part
        raise SystemExit
    sizes = SizeDistribution.from_sizes(molecules.sizes[parts.train])
    extra = {"atoms": atoms.config, "sizes": sizes.counts, "data": args.data, "root": args.root}
    extra |= asked
    anydiff.save(folder / "model.safetensors", diffusion, extra)
    try:
        plot_curve(folder, folder / "curve.png")
    except ValueError as error:  # a run of a few steps, or one that diverged
        print(f"no curve: {error}")
    return folder / "model.safetensors"


def main() -> None:
    args = arguments()
    try:
        folder = run_folder(args, "samples.sdf")
        checkpoint = args.sample_only or train(args, folder)
        diffusion, extra = anydiff.load(checkpoint)
        before = kept = None
        if args.inpaint or args.edit:
            molecules = load_qm9(extra["data"], extra["root"])
            before, kept = begin(args, molecules.subset(split(len(molecules)).test))
        ask(args, extra, before)  # so that errors come before the drawing
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    num = args.num if before is None else len(before)
    print(f"drawing {num} molecules with {checkpoint}")
    folder.mkdir(parents=True, exist_ok=True)

    diffusion.to("cuda" if args.accelerator == "gpu" else "cpu")
    start = time.perf_counter()
    drawn, path = draw_molecules(args, diffusion, extra, before, kept)
    seconds = (time.perf_counter() - start) / num

    write_molecules(folder, drawn, path, before, kept)
    print("counting ...")
    rows, of = [], {}
    try:
        molecules = load_qm9(extra["data"], extra["root"])
        parts = split(len(molecules))
        known, test = molecules.subset(parts.train), molecules.subset(parts.test[:1000])
        of["train_smiles"] = smiles(known.pos, known.z, known.index)
        rows.append(evaluate(test.pos, test.z, test.index, name="real, held out", **of))
        of["reference"] = (test.pos, test.z, test.index)
    except (ValueError, OSError, ImportError) as error:  # the model may have travelled without them
        print(f"nothing to compare with: {error}")
    nfe = calls(args, guided="properties" in extra)
    rows.append(evaluate(*drawn, name="drawn", nfe=nfe, seconds=seconds, **of))
    print("", table(rows), "", sep="\n")
    (folder / "table.txt").write_text(table(rows) + "\n")
    print(*sorted(p for p in folder.iterdir() if p.is_file()), sep="\n")


if __name__ == "__main__":
    main()

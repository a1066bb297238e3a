"""Molecules from noise: train on QM9, draw new ones, count what is stable, look at them.

    python examples/qm9_molecules.py                       five minutes on 5,000 molecules
    python examples/qm9_molecules.py --data full --minutes 30
    python examples/qm9_molecules.py --sample-only runs/qm9_molecules/model.safetensors --num 1000

Everything lands in one folder: the model, the molecules as SDF, a picture of them, one denoising path
as XYZ and GIF, the training curve and the table. Ctrl-C while it trains keeps what was learned; the
same command goes on from there.
"""

import argparse
import time
from pathlib import Path

import torch
from pytorch_lightning import seed_everything

import anydiff
from anydiff import GaussianDiffusion, Polynomial, Ragged
from anydiff.commands import (
    SAMPLERS,
    TRAINER_FLAGS,
    parse,
    parser,
    run_folder,
    seeds,
    training_settings,
)
from anydiff.data.molecule_files import write_sdf, write_xyz
from anydiff.data.molecule_pictures import animate, draw_grid
from anydiff.data.molecules import Atoms, SizeDistribution, loader
from anydiff.data.qm9 import load_qm9, split
from anydiff.denoisers import PairNet
from anydiff.lightning import DiffusionModule, fit, plot_curve
from anydiff.metrics.molecules import evaluate, smiles, table, to_rdkit
from anydiff.optimizers import Muon


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
    return parse(flags, "hidden", "layers")


def train(args: argparse.Namespace, folder: Path) -> Path:
    """Train, or go on training, and return the file of the model."""
    molecules, atoms = load_qm9(args.data, args.root), Atoms(charge_scale=None)
    parts = split(len(atoms.check(molecules)))
    if not min(map(len, parts)):
        raise ValueError(f"{args.data} holds {len(molecules)} molecules; give at least 10.")
    seed_everything(args.seed, verbose=False)
    network = PairNet(atoms.features - 3, args.hidden, layers=args.layers)
    # more times at little noise, where bond lengths are settled
    diffusion = GaussianDiffusion(network, Polynomial(), "eps", times=lambda u: u**1.5)
    print(
        f"{len(parts.train):,} molecules to learn from, {len(parts.valid):,} to check with; "
        f"{sum(p.numel() for p in network.parameters()):,} parameters"
    )
    run = fit(
        DiffusionModule(
            diffusion, atoms.unpack, lr=args.lr, warmup=200, seed=args.seed, optimizer=Muon
        ),
        folder,
        loader(molecules.subset(parts.train), args.batch_size, seed=args.seed),
        loader(molecules.subset(parts.valid), args.batch_size, shuffle=False),
        settings=training_settings(args, "data", "hidden", "layers"),
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
    anydiff.save(folder / "model.safetensors", diffusion, extra)
    try:
        plot_curve(folder, folder / "curve.png")
    except ValueError as error:  # a run of a few steps, or one that diverged
        print(f"no curve: {error}")
    return folder / "model.safetensors"


def draw(args: argparse.Namespace, diffusion: GaussianDiffusion, extra: dict) -> tuple:
    """Molecules, as positions, elements and index; and the path of the first one."""
    atoms = Atoms.from_config(extra["atoms"])
    generator = torch.Generator().manual_seed(args.seed)
    sizes = SizeDistribution(extra["sizes"]).sample(args.num, generator)
    sampler = SAMPLERS[args.sampler]
    rows, path = [], []

    def keep(p: anydiff.samplers.Progress) -> None:
        if not rows:  # the first molecule of the first batch
            path.append(atoms.decode(p.x_s[: sizes[0]].cpu()))

    device = "cuda" if args.accelerator == "gpu" else "cpu"
    diffusion.to(device)
    for start in range(0, args.num, 100):
        space = Ragged.from_sizes(sizes[start : start + 100], centered=3, device=device)
        shape = (len(space.index), atoms.features)
        rows.append(
            diffusion.sample(
                shape, space=space, sampler=sampler, steps=args.steps,
                seed=seeds(args, start, space.num_items), progress=True, callback=keep,
            )
        )  # fmt: skip
    whole = Ragged.from_sizes(sizes, centered=3)
    return (*atoms.decode(torch.cat(rows).cpu(), whole), whole.index), path


def main() -> None:
    args = arguments()
    try:
        folder = run_folder(args, "samples.sdf")
        checkpoint = args.sample_only or train(args, folder)
        diffusion, extra = anydiff.load(checkpoint)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"drawing {args.num} molecules with {checkpoint}")
    folder.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    drawn, path = draw(args, diffusion, extra)
    seconds = (time.perf_counter() - start) / args.num

    write_sdf(folder / "samples.sdf", to_rdkit(*drawn))
    first = drawn[2] < 24
    draw_grid(folder / "samples.png", *(d[first] for d in drawn), columns=min(8, args.num))
    write_xyz(folder / "path.xyz", path)
    animate(folder / "path.gif", *zip(*path[:: max(1, args.steps // 125)], path[-1], strict=True))

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
    rows.append(evaluate(*drawn, name="drawn", nfe=args.steps, seconds=seconds, **of))
    print("", table(rows), "", sep="\n")
    (folder / "table.txt").write_text(table(rows) + "\n")
    print(*sorted(p for p in folder.iterdir() if p.is_file()), sep="\n")


if __name__ == "__main__":
    main()

"""Molecules from noise: train on QM9, draw new ones with their bonds, count what is stable, look at them.

    python examples/qm9_molecules.py                       five minutes on 5,000 molecules
    python examples/qm9_molecules.py --data full --minutes 30

One folder gets the model, the molecules as SDF, the path of one from noise, pictures, figures and a page.
Ctrl-C while it trains keeps what was learned; the same command goes on from there.
"""

import os
import time
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # idle threads soon leave the cores to others

import torch
from pytorch_lightning import seed_everything

from anydiff import DPMSolver, GaussianDiffusion, LogNormal, Polynomial, Preconditioned, Ragged
from anydiff.cli.main import run
from anydiff.cli.report import write_report
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import PairNet
from anydiff.files import free_folder
from anydiff.losses import PairDistances
from anydiff.molecules import Atoms, load_qm9, loader
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.evaluate import table
from anydiff.molecules.files import write_sdf, write_xyz
from anydiff.molecules.models import MoleculeModel, compare_parts
from anydiff.molecules.pictures import animate, draw_grid
from anydiff.molecules.qm9 import split
from anydiff.samplers import LogSNR
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def main(
    *,
    data: str = "5k",
    minutes: float = 5.0,
    epochs: int | None = None,
    num: int = 100,
    steps: int = 50,
    seed: int = 0,
    out: Path = Path("runs/qm9_molecules"),
    resume: bool = False,
) -> None:
    """Train on QM9, draw new molecules, count what is stable, look at them.

    Arguments:
        data: 5k (shipped), full (130,831), or an .npz or .sdf file of molecules with bonds.
        minutes: Training time.
        epochs: Number of passes over the data, instead of a time.
        num: Number of samples.
        steps: Number of sampling steps.
        seed: Random seed of the weights, of training and of sampling.
        out: Folder for all files.
        resume: Continue the training in the folder, up to the minutes or epochs in total.
    """
    out = out if resume else free_folder(out, "curve.png")

    # data: a row for each atom, its position beside its element, and one for each pair of atoms, its bond
    molecules = load_qm9(data, bonds=True)
    parts = split(len(molecules))
    learn, check = molecules.subset(parts.train), molecules.subset(parts.valid)
    atoms = Bonded.fit(Atoms(molecules.elements, charge_scale=None), learn)
    print(f"{len(learn):,} molecules to learn from, {len(check):,} to check with")

    # model: trained mostly at little noise, where bond lengths are settled, and by distances as well
    seed_everything(seed, verbose=False)
    network = PairNet(atoms.features - 3, hidden=128, layers=6, pairs=2)
    diffusion = GaussianDiffusion(
        network, Polynomial(), Preconditioned(sigma_data=1.0), times=LogNormal(-1.26, 1.41),
        error=PairDistances(),
    )  # fmt: skip

    # training
    fit(
        DiffusionModule(diffusion, atoms.unpack, lr=8e-3, warmup=200, seed=seed, optimizer=Muon),
        out, loader(learn, 64, seed=seed), loader(check, 64, shuffle=False),
        settings={"data": data, "seed": seed}, minutes=None if epochs else minutes, epochs=epochs,
        ema=0.995, devices=1, val_check_interval=500, check_val_every_n_epoch=None, limit_val_batches=20,
    )  # fmt: skip
    sizes = SizeDistribution.from_sizes(learn.sizes)
    MoleculeModel(diffusion, atoms, sizes, data=data).save(out / "model.safetensors")

    # drawing: sizes as they occur, noise in the space of such molecules, denoised step by step
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = Ragged.from_sizes(sizes.sample(num, torch.Generator().manual_seed(seed)), centered=3)
    space, states, start = atoms.space(rows).to(device), [], time.perf_counter()
    x = diffusion.to(device).eval().sample(
        space.shape, space=space, sampler=DPMSolver(eta=1.0), grid=LogSNR(1.0, 8.0, -4.0),
        steps=steps, seed=seed, progress=True, callback=lambda p: states.append(p.x_s.cpu()),
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / num
    drawn = atoms.molecules(atoms.apart(x.cpu(), rows), rows.sizes)
    path = [(of.pos[rows.index == 0], of.z[rows.index == 0])
            for of in (atoms.decode(state, atoms.space(rows)) for state in states)]  # fmt: skip

    # files, pictures, figures
    write_sdf(out / "samples.sdf", drawn)
    some = drawn.subset(range(min(24, num)))
    own = {"bonds": some.bonds, "orders": some.orders, "charges": some.charges}
    draw_grid(out / "samples.png", some.pos, some.z, some.index, columns=min(8, num), **own)
    write_xyz(out / "path.xyz", path)
    animate(out / "path.gif", *zip(*path[:: max(1, steps // 125)], path[-1], strict=True))
    text = table(compare_parts(drawn, molecules, nfe=steps, seconds=seconds))
    (out / "table.txt").write_text(text + "\n")
    plot_curve(out, out / "curve.png")
    write_report(out, "molecules", f"{num} molecules from noise", drawn, table=text,
                 pictures={"Training": "curve.png"}, asked={"data": data, "steps": steps})  # fmt: skip
    print("", text, "", *sorted(out.glob("*.*")), sep="\n")


if __name__ == "__main__":
    run(main)

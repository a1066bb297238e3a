"""A model of molecules with bonds that was trained with known parts: all that it answers, and pictures.

    anydiff train molecules --data full --bonds --parts --minutes 22
    python benchmarks/joint.py runs/molecules/model.safetensors
    python benchmarks/joint.py runs/molecules/model.safetensors --pictures docs/pictures

Each table is of what `anydiff inpaint --keep` keeps of molecules of the test part, by two samplers of one
call a step. Columns are by the bonds that were drawn, but for the last ones: `by distance` are EDM's
stable atoms and molecules, `as by distance` the share whose bonds are those that the distances show, and
`the molecule` the share that is the one that the part was taken from, by its SMILES. Cells are means
over the seeds of the draws.
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

from anydiff.cli.distill import Even
from anydiff.cli.molecules import ATOMS, kept, with_parts
from anydiff.cli.runs import open_model
from anydiff.kinds import first
from anydiff.metrics.tables import aligned
from anydiff.molecules import Molecules
from anydiff.molecules.bond_metrics import agreement, stable_bonds, strict_bonds
from anydiff.molecules.bonds import stability
from anydiff.molecules.fragments import count_pieces
from anydiff.molecules.pictures import draw_grid
from anydiff.molecules.qm9 import load_qm9, split
from anydiff.samplers import DDPM, Sampler

KEEPS = {
    "nothing": "nothing known", "ring": "scaffolds", "ends": "links", "heavy": "hydrogens",
    "elements": "isomers", "graph": "conformers", "positions": "bonds of positions",
}  # fmt: skip

SAMPLERS: dict[str, Sampler] = {"ancestral": DDPM(), "DPMSolver(eta=1)": Even(eta=1.0)}


def drawn(model: Any, real: Molecules, keep: str, **how: Any) -> Molecules:
    """The molecules again, of which only a part is known."""
    if keep == "nothing":
        return model.sample(len(real), **how)
    return model.inpaint(real, kept(real, keep), **how)


def figures(found: Molecules, real: Molecules, same: bool) -> dict[str, float]:
    """Shares in percent."""
    atoms, molecules = stable_bonds(found)
    names = strict_bonds(found)
    rows = found.pos, found.z, found.index
    near = stability(*rows)
    shares = {
        "atoms": atoms.mean(), "mols": molecules.mean(),
        "strict": np.mean([name is not None for name in names]),
        "connected": (count_pieces(*rows) == 1).mean(),
        "by distance: atoms": near.atom_ratio, "mols ": near.molecule_ratio,
        "as by distance": agreement(found)[0].mean(),
    }  # fmt: skip
    if same:
        pairs = zip(names, strict_bonds(real), strict=True)
        shares["the molecule"] = np.mean([a is not None and a == b for a, b in pairs])
    return {name: 100 * float(share) for name, share in shares.items()}


def table(model: Any, test: Molecules, keep: str, args: argparse.Namespace) -> str:
    """The figures of one part to keep, by every sampler, beside those of the real molecules."""
    part = keep if keep in (*ATOMS, "graph", "elements", "positions") else "graph"
    real = with_parts(test, args.num, part)
    rows: dict[str, list[dict[str, float]]] = {}
    for name, sampler in SAMPLERS.items():
        for seed in args.seeds:
            start = time.perf_counter()
            found = drawn(
                model, real, keep, sampler=sampler, steps=args.steps, seed=seed, batch=100
            )
            seconds = time.perf_counter() - start
            told = figures(found, real, keep != "nothing")
            rows.setdefault(f"{name}, {args.steps} calls", []).append(told)
            print(f"{keep}, {name}, seed {seed}: {seconds:.0f} s", flush=True)
    rows["real"] = [figures(real, real, False)]
    titles = list(next(iter(rows.values()))[0])
    cells = [[f"{KEEPS[keep]}, seeds {', '.join(map(str, args.seeds))}", *titles]]
    for name, runs in rows.items():
        each = [[run[title] for run in runs if title in run] for title in titles]
        cells.append([name, *(f"{np.mean(values):.1f}" if values else "–" for values in each)])
    return aligned(cells, "markdown")


def only(molecules: Molecules, atoms: np.ndarray) -> Molecules:
    """Some atoms of molecules, and the bonds between them."""
    assert molecules.bonds is not None and molecules.orders is not None
    row, both = np.cumsum(atoms) - 1, atoms[molecules.bonds].all(1)
    sizes = np.bincount(molecules.index[atoms], minlength=len(molecules))
    return Molecules(
        molecules.z[atoms], molecules.pos[atoms], np.concatenate([[0], sizes.cumsum()]),
        bonds=row[molecules.bonds[both]], orders=molecules.orders[both],
    )  # fmt: skip


def picture(model: Any, test: Molecules, keep: str, path: Path, args: argparse.Namespace) -> None:
    """What is kept of the first four molecules, and three draws of the rest."""
    real = with_parts(test, 4, keep)
    part = kept(real, keep)
    atoms = part if isinstance(part, np.ndarray) else np.ones(len(real.z), bool)
    how = {"sampler": SAMPLERS["DPMSolver(eta=1)"], "steps": args.steps}
    draws = [drawn(model, real, keep, seed=seed, **how) for seed in range(3)]
    columns = [only(real, atoms), *draws]
    marks = [np.ones(int(atoms.sum()), bool), *(atoms for _ in draws)]
    each = [(of.subset([m]), mark[of.index == m]) for m in range(4)
            for of, mark in zip(columns, marks, strict=True)]  # fmt: skip
    shown = Molecules.concatenate([one for one, _ in each])
    marked = np.concatenate([mark for _, mark in each]) if isinstance(part, np.ndarray) else None
    draw_grid(
        path, shown.pos, shown.z, shown.index, columns=4, size=230, marked=marked,
        bonds=shown.bonds, orders=shown.orders,
    )  # fmt: skip
    print(path)


def main() -> None:
    """Print tables and write pictures, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", help="whole QM9 as a file, to read it from there")
    parser.add_argument("--only", nargs="*", default=list(KEEPS), choices=KEEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num", type=int, default=100)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = open_model(args.model)
    known = load_qm9(args.data, bonds=True) if args.data else model.read_data()
    parts = split(len(known)).test
    test = first(known.subset(parts), 20 * args.num)
    for keep in args.only:
        print(table(model, test, keep, args), "", sep="\n", flush=True)
    if args.pictures:
        for keep, name in (("ring", "scaffold"), ("ends", "link"), ("graph", "conformers")):
            picture(model, test, keep, args.pictures / f"molecules_{name}.png", args)


if __name__ == "__main__":
    main()

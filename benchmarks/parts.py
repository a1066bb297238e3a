"""Known parts of molecules: a model that was trained to complete them, beside one that was not.

    python benchmarks/parts.py --minutes 22
    python benchmarks/parts.py --short --folder runs/short      # to see that it runs

Two networks of the same size are trained for the same time on the second half of QM9's training part: one
on whole molecules, and one for which parts of them are known (`anydiff.molecules.skeletons`). The first
fills in by repeated replacement (`impute`), the second in one run (`complete`). What is known comes from
the test part: ring systems, two ends, elements. Cells are means over the seeds of the draws, with the
least and the largest. The last table has what it costs: the loss where nothing is known.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from molecules import Figures, kept_apart, quality, same
from pytorch_lightning import seed_everything
from torch import Tensor

import anydiff
from anydiff import GaussianDiffusion, Polynomial, Ragged
from anydiff.data.parts import with_parts
from anydiff.denoisers import Completing, PairNet
from anydiff.editing import complete, impute
from anydiff.losses import Power
from anydiff.metrics.tables import aligned
from anydiff.molecules import Atoms, Molecules, load_qm9, loader
from anydiff.molecules.fragments import first_with, largest_ring, two_ends
from anydiff.molecules.properties import halves
from anydiff.molecules.qm9 import split
from anydiff.molecules.skeletons import molecule_parts
from anydiff.samplers import DDPM, DPMSolver
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

ATOMS = Atoms(charge_scale=None)
RESAMPLES = (1, 5, 10)
SAMPLERS = {"DPM-Solver": DPMSolver(), "ancestral": DDPM()}


def train(args: argparse.Namespace, molecules: Molecules, parts: bool) -> GaussianDiffusion:
    """A generator, with known parts or without; one that is there is taken."""
    folder = args.folder / ("parts" if parts else "plain")
    path = folder / "model.safetensors"
    if path.exists():
        return anydiff.load(path)[0]
    shares = split(len(molecules))
    learn = molecules.subset(halves(shares.train)[1])
    columns = ATOMS.features * (2 if parts else 1)
    seed_everything(0, verbose=False)
    network = PairNet(columns - 3, 16 if args.short else 128, layers=1 if args.short else 6)
    diffusion = GaussianDiffusion(
        Completing(network) if parts else network, Polynomial(), "eps", times=Power(1.5)
    )
    unpack = ATOMS.unpack
    if parts:
        unpack = with_parts(unpack, molecule_parts(molecules.elements))
    fit(
        DiffusionModule(diffusion, unpack, lr=8e-3, warmup=200, seed=0, optimizer=Muon),
        folder,
        loader(learn, 64, seed=0),
        loader(molecules.subset(shares.valid), 64, shuffle=False),
        **({"epochs": 1} if args.short else {"minutes": args.minutes}),
        ema=0.995,
        val_check_interval=500,
        check_val_every_n_epoch=None,
        limit_val_batches=20,
        accelerator="cpu",
    )
    anydiff.save(path, diffusion, {"atoms": ATOMS.config})
    return diffusion.eval()


class Bench:
    """The two models, the test part, and the tables."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.molecules = load_qm9("5k" if args.short else args.data)
        self.plain, self.parts = (train(args, self.molecules, parts) for parts in (False, True))
        self.test = self.molecules.subset(split(len(self.molecules)).test)
        self.tables: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))

    def draws(self, real: Molecules, known: np.ndarray, seed: int) -> dict[str, Tensor]:
        """The states of molecules of which `known`, rows (N,) or entries (N, F), is kept, by method."""
        space, steps = Ragged.from_sizes(real.sizes, centered=3), self.args.steps
        pos, z = torch.from_numpy(real.pos), torch.from_numpy(real.z)
        x, kept = space.project(ATOMS.encode(pos, z)), torch.from_numpy(known)
        found = {}
        for name, sampler in SAMPLERS.items():
            (found[f"complete, {name}, {steps} calls"],) = complete(
                self.parts, x, known=kept, space=space, sampler=sampler, steps=steps, seed=seed
            )
        for count in RESAMPLES:
            (found[f"impute, {count * steps} calls"],) = impute(
                self.plain.predictor(space), x, known=kept, steps=steps, resamples=count, seed=seed
            )
        for name, model in (("with parts", self.parts), ("plain", self.plain)):
            found[f"nothing kept, {name}"] = anydiff.sample(
                model.predictor(space), x.shape, steps=steps, seed=seed
            )
        return found

    def add(self, table: str, row: str, figures: Figures) -> None:
        self.tables[table][row].append(figures)
        cells = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"{time.strftime('%H:%M:%S')}  {table}, {row}: {cells}", flush=True)

    def show(self) -> None:
        for table, rows in self.tables.items():
            names = list(dict.fromkeys(name for runs in rows.values() for f in runs for name in f))
            cells = [["", "seeds", *names]]
            for row, runs in rows.items():
                values = [[f[name] for f in runs if name in f] for name in names]
                cells.append([row, str(len(runs)), *map(cell, names, values)])
            print("", table, aligned(cells), "", sep="\n", flush=True)


def cell(name: str, values: list[float]) -> str:
    """The mean, and from where to where the values go."""
    if not values:
        return "–"
    low, high, mean = min(values), max(values), sum(values) / len(values)
    form = ".1f" if name.endswith("%") else ".1e" if high < 1e-3 else ".3f"
    low, mean, high = (format(v, form) for v in (low, mean, high))
    return mean if low == high else f"{mean} ({low}–{high})"


# the tables --------------------


def fill(
    bench: Bench,
    seed: int,
    table: str,
    real: Molecules,
    known: np.ndarray,
    more: Callable[[tuple[Tensor, Tensor, Tensor]], Figures],
) -> None:
    """The rest of test molecules, by every method."""
    index = torch.from_numpy(real.index)
    for name, x in bench.draws(real, known, seed).items():
        drawn = (*ATOMS.decode(x), index)
        figures = {**quality(*drawn), "the molecule %": same(drawn, real)}
        bench.add(
            table, name, figures if name.startswith("nothing") else {**figures, **more(drawn)}
        )
    if not bench.tables[table]["real molecules"]:
        bench.add(table, "real molecules", quality(real.pos, real.z, real.index))


def part(bench: Bench, seed: int, table: str, known_of: Callable[..., np.ndarray]) -> None:
    real, known = first_with(bench.test, bench.args.kept, known_of)
    fill(bench, seed, table, real, known, lambda drawn: kept_apart(drawn, real, known))


def scaffold(bench: Bench, seed: int) -> None:
    part(bench, seed, "scaffold", largest_ring)


def link(bench: Bench, seed: int) -> None:
    part(bench, seed, "link", two_ends)


def composition(bench: Bench, seed: int) -> None:
    """The elements known, the positions drawn."""
    real = bench.test.subset(np.arange(bench.args.kept))
    known = np.zeros((len(real.z), ATOMS.features), bool)
    known[:, 3:] = True

    def formula(drawn: tuple[Tensor, Tensor, Tensor]) -> Figures:
        wrong = real.index[drawn[1].numpy() != real.z]
        right = np.bincount(wrong, minlength=len(real)) == 0
        return {"formula %": 100 * float(right.mean())}

    fill(bench, seed, "composition", real, known, formula)


def whole(bench: Bench, seed: int) -> None:
    """The loss of held-out molecules where nothing is known."""
    valid = bench.molecules.subset(split(len(bench.molecules)).valid)
    for name, model in (("with parts", bench.parts), ("plain", bench.plain)):
        generator, losses = torch.Generator().manual_seed(seed), []
        for k, batch in enumerate(loader(valid, 64, shuffle=False)):
            if k < 20:
                x0, space, _ = ATOMS.unpack(batch)
                with torch.no_grad():
                    losses.append(model.loss(x0, space=space, generator=generator))
        bench.add("loss", name, {"of whole molecules": float(torch.cat(losses).mean())})


TABLES = {"scaffold": scaffold, "link": link, "composition": composition, "loss": whole}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = flags.add_argument
    add("--data", default="full", help="full, or 5k for a quick look")
    add("--minutes", type=float, default=22, help="how long to train each of the two")
    add("--folder", type=Path, default=Path("runs/parts"))
    add("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the draws")
    add("--kept", type=int, default=40, help="test molecules of which a part is kept")
    add("--steps", type=int, default=50, help="steps of each draw")
    add("--threads", type=int, default=2, help="1 where other programs keep the processor busy")
    add("--short", action="store_true", help="an epoch of little data, and few draws")
    args = flags.parse_args()
    if args.short:
        args.seeds, args.kept, args.steps = [0], 6, 3
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    for seed in args.seeds:
        for table in args.tables:
            TABLES[table](bench, seed)
        bench.show()


if __name__ == "__main__":
    main()

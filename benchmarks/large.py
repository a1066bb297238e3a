"""Data larger than memory: a store of molecules, made of QM9 by noise, and training from it.

    python benchmarks/large.py --num 1_000_000 --steps 300
    python benchmarks/large.py --num 10_000_000 --steps 300      # 2 GB on disk, written once

Prints how long a store takes to write and a batch to come, and the most memory that was resident. What is
in the folder already is kept.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch

from anydiff import GaussianDiffusion, Polynomial
from anydiff.data.streamed import Streamed
from anydiff.denoisers import PairNet
from anydiff.metrics.tables import aligned
from anydiff.molecules import Molecules, load_qm9, store
from anydiff.molecules.atoms import Atoms
from anydiff.molecules.batches import loader
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import fit


def noised(num: int, size: int) -> Iterator[Molecules]:
    """Molecules of QM9 again and again, with positions off by 0.02 ångström."""
    known, rng = load_qm9(), np.random.default_rng(0)
    for first in range(0, num, size):
        chosen = known.subset(rng.integers(len(known), size=min(size, num - first)))
        pos = chosen.pos + rng.normal(scale=0.02, size=chosen.pos.shape).astype(np.float32)
        yield Molecules(chosen.z, pos, chosen.offsets)


def resident() -> float:
    """The most memory that this process had so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write the store, train from it, and say what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=10_000, help="molecules of a file")
    parser.add_argument("--block", type=int, default=16, help="files of a block")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/large"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.out / f"store-{args.num}"
    rows = [["", ""]]
    before = resident()
    if not (folder / "manifest.json").exists():
        start = time.perf_counter()
        store.write(noised(args.num, args.size), folder)
        rows.append(
            ["written, molecules a second", f"{args.num / (time.perf_counter() - start):,.0f}"]
        )
    known = store.open(folder)
    disk = sum(path.stat().st_size for path in folder.iterdir())
    rows += [["molecules", f"{len(known):,}"], ["on disk, MB", f"{disk / 1e6:,.0f}"]]
    train = Streamed(known, lambda m: loader(m, 64), 64, block=args.block)
    start = time.perf_counter()
    batches, waited = iter(train), []
    for _ in range(min(len(train), 6000)):  # more than two blocks
        then = time.perf_counter()
        next(batches)
        waited.append(1000 * (time.perf_counter() - then))
    rows.append(["the first batch, ms", f"{waited[0]:.0f}"])
    rows.append(
        ["a batch of 64, ms, median and longest", f"{np.median(waited):.2f}, {max(waited[1:]):.0f}"]
    )
    batches.close()  # type: ignore[attr-defined]
    atoms = Atoms(known.read(0).elements, charge_scale=None)
    diffusion = GaussianDiffusion(PairNet(atoms.features - 3, 32, layers=2), Polynomial())
    train = Streamed(known, lambda m: loader(m, 64), 64, block=args.block)
    start = time.perf_counter()
    fit(
        DiffusionModule(diffusion, atoms.unpack), args.out / f"run-{args.num}", train,
        max_steps=args.steps, accelerator="cpu", devices=1,
    )  # fmt: skip
    rows.append(
        ["a step of training, ms", f"{1000 * (time.perf_counter() - start) / args.steps:.1f}"]
    )
    rows.append(["resident at most, MB", f"{resident():,.0f}"])
    rows.append(["before, with all packages, MB", f"{before:,.0f}"])
    print(aligned(rows, "markdown"))


if __name__ == "__main__":
    main()

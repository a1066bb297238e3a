"""SMILES of QM9 by masked diffusion: validity, and how many calls it takes.

    python benchmarks/smiles.py                                # the shipped molecules
    python benchmarks/smiles.py --qm9 qm9.npz --minutes 15      # all of QM9, from a file

Drawn are 1,000 strings by ancestral sampling with several numbers of steps, the surest tokens first, and
token by token, which is exact, at several temperatures; then strings around a phenyl ring. RDKit says
which are molecules, and of how many of them the ring is a part. What is in the folder already is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from rdkit import Chem, rdBase

from anydiff.cli import train
from anydiff.data.sequences import loader
from anydiff.discrete import Ancestral, FirstHitting, Unmask, bits_per_token
from anydiff.molecules.qm9 import load_qm9, split
from anydiff.molecules.string_metrics import canonical, compare_strings, string_table
from anydiff.molecules.string_models import SmilesModel
from anydiff.molecules.strings import load_strings, strings_of

FRAGMENT = "c1ccccc1"
TEMPERATURES = (1.0, 0.8, 0.6, 0.4)


def main() -> None:
    """Train, draw and judge, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--qm9", type=Path, help="all of QM9, as anydiff.molecules reads it")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--epochs", type=int, help="instead of a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/smiles"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    data = "5k"
    if args.qm9:
        data = str(args.out / "qm9.smi")
        if not Path(data).exists():
            strings = strings_of(load_qm9(str(args.qm9), bonds=True))
            Path(data).write_text("".join(f"{text}\n" for text in strings.texts))
    folder = args.out / f"seed-{args.seed}"
    path = folder / "model.safetensors"
    if not path.exists():
        train.smiles(
            data, minutes=args.minutes, epochs=args.epochs, seed=args.seed, out=folder,
            accelerator="cpu",
        )  # fmt: skip
    model, known = SmilesModel.load(path), load_strings(data)
    test = known.subset(split(len(known)).test[:2000])
    bits, rows = [], []
    for batch in loader(model.alphabet.sequences(test), 500, shuffle=False):
        x0, space, _ = model.unpack(batch)
        found = bits_per_token(
            model.diffusion, x0, space=space, generator=torch.Generator().manual_seed(0)
        )
        bits += (found * batch.mask.sum(1)).tolist()
    tokens = sum(len(row) for row in model.alphabet.numbers(test.texts))
    print(f"bound of held-out strings: {sum(bits) / tokens:.3f} bits for a token")
    runs = {f"Ancestral, {k}": (Ancestral(), k) for k in (8, 16, 64)}
    runs |= {f"Unmask confident, {k}": (Unmask("confident"), k) for k in (8, 16)}
    runs |= {f"FirstHitting, T {k:g}": (FirstHitting(), None) for k in TEMPERATURES}
    for name, (sampler, steps) in runs.items():
        cold = float(name.rpartition("T ")[2]) if "T " in name else 1.0
        start = time.perf_counter()
        drawn = model.sample(
            args.num, sampler=sampler, steps=steps, seed=1000 + args.seed, temperature=cold
        )
        seconds = (time.perf_counter() - start) / args.num
        real, made = compare_strings(drawn, known, nfe=steps, seconds=seconds)
        rows += [real] * (not rows) + [made.__class__(**{**made.__dict__, "name": name})]
        print(string_table(rows[-1:], "markdown").splitlines()[-1], flush=True)
    print(string_table(rows, "markdown"))
    rng = np.random.default_rng(args.seed)
    patterns = []
    for _ in range(args.num // 4):
        left, right = rng.integers(0, 4), rng.integers(0, 4)
        patterns.append("?" * left + FRAGMENT + "?" * right)
    filled = canonical(model.sample(len(patterns), pattern=patterns, seed=args.seed).texts)
    ring = Chem.MolFromSmiles(FRAGMENT)
    with rdBase.BlockLogs():
        having = [Chem.MolFromSmiles(s).HasSubstructMatch(ring) for s in filled if s]
    print(
        f"{FRAGMENT} in the middle of up to three tokens on each side: {len(having) / len(filled):.1%} "
        f"valid, {len({s for s in filled if s})} different, {np.mean(having):.1%} of them have the ring"
    )


if __name__ == "__main__":
    main()

"""Adapters of low rank, full finetuning and training from scratch, for the same number of steps.

    python benchmarks/lora.py sketches runs/sketches/model.safetensors
    python benchmarks/lora.py sketches runs/sketches/model.safetensors --picture lora_kana.png
    python benchmarks/lora.py molecules runs/molecules/model.safetensors --qm9 qm9.npz
    python benchmarks/lora.py cost runs/sketches/model.safetensors   # of a step, on a quiet machine

`sketches` needs a model of kanji in strokes (`anydiff train sketches`), which learns kana, letters and
digits, the 243 of KanjiVG that are no ideographs or parts of some (`pip install "anydiff[kanji]"`).
`molecules` needs a model of QM9, which learns molecules with fluorine, or with a ring of five atoms. All
runs are limited by passes over the data, so that what else runs does not change the figures. What is in
the folder already is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch

from anydiff.cli.finetune import finetune
from anydiff.cli.runs import kind_of, open_model
from anydiff.cli.sketches import draw_runs
from anydiff.cli.train import sketches as train_sketches
from anydiff.lora import adapt, load_adapter, strength
from anydiff.metrics.tables import aligned
from anydiff.molecules import Molecules, load_qm9
from anydiff.molecules.bonds import stability
from anydiff.molecules.evaluate import smiles
from anydiff.molecules.files import write_npz
from anydiff.molecules.fragments import largest_ring
from anydiff.molecules.qm9 import split
from anydiff.sketches.evaluate import evaluate
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.sketches import Sketches

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOLECULES = 20_000
"""How many molecules each finetuning sees, in as many passes as that takes."""


def kana() -> Sketches:
    """Kana, Latin letters, digits and punctuation, without the parts of ideographs."""
    known = load_kanji("full")
    codes = np.array([ord(label) for label in known.labels])
    return known.subset(np.flatnonzero((codes < 0x3400) & ((codes < 0x2E80) | (codes >= 0x3000))))


def cells(values: list[float], form: str) -> str:
    """The mean, and the values."""
    each = ", ".join(format(v, form) for v in values)
    return f"{np.mean(values):{form}} ({each})" if len(values) > 1 else each


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


def of_sketches(args: argparse.Namespace) -> None:
    """Kana from a model of kanji: the Fréchet distance to all of them, and the files."""
    data = args.out / "kana.ndjson"
    real = kana()
    write_ndjson(data, real)
    base = open_model(args.model)
    common = {"data": str(data), "epochs": args.epochs or 200, "accelerator": "cpu"}

    def tuned(**how: Any) -> Callable[[int, Path], Path]:
        return lambda seed, out: finetune(args.model, **common, seed=seed, out=out, **how)

    def scratch(seed: int, out: Path) -> Path:
        return train_sketches(**common, seed=seed, out=out)

    runs = {"finetuned": tuned()}
    runs |= {f"rank {rank}": tuned(rank=rank, **args.how) for rank in args.ranks}
    runs |= {"from scratch": scratch}
    rows = [["kana", "Fréchet", "file"]]
    distances = [
        evaluate(base.sample(len(real), seed=1000 + seed), reference=real).frechet
        for seed in args.seeds
    ]
    rows.append(["the model of kanji", cells(distances, ".1f"), megabytes(args.model)])
    for name, run in runs.items():
        found = []
        for seed in args.seeds:
            folder = args.out / f"{name.replace(' ', '-')}-{seed}"
            path = folder / "model.safetensors"
            if not path.exists():
                run(seed, folder)
            drawn = open_model(path).sample(len(real), seed=1000 + seed)
            found.append(evaluate(drawn, reference=real).frechet)
            print(f"{name}, seed {seed}: {found[-1]:.3g}", flush=True)
        adapter = path.with_name("adapter.safetensors")
        file = adapter if adapter.exists() else path
        rows.append([name, cells(found, ".1f"), megabytes(file)])
    half = [real.subset(range(k, len(real), 2)) for k in range(2)]
    rows.append(["one half of the real ones, to the other", f"{evaluate(*half).frechet:.1f}", ""])
    print(aligned(rows, "markdown"))
    if args.picture:
        strip(args, args.out / f"rank-{args.ranks[0]}-{args.seeds[0]}/adapter.safetensors")


def strip(args: argparse.Namespace, adapter: Path) -> None:
    """What is drawn from the same noise, by how much the adapter changes the model."""
    model = open_model(args.model)
    network = model.diffusion.denoiser
    load_adapter(adapter, network)
    runs = {}
    for s in STRENGTHS:
        strength(network, s)
        runs[f"{s:g}"] = model.sample(12, length=4, seed=5)
    draw_runs(args.picture, runs)
    print(args.picture)


def with_fluorine(molecules: Molecules) -> np.ndarray:
    """Which molecules have fluorine, (M,)."""
    return np.bincount(molecules.index[molecules.z == 9], minlength=len(molecules)) > 0


def with_five(molecules: Molecules) -> np.ndarray:
    """Which molecules have a ring of five atoms and no larger ring system, (M,)."""
    ring = largest_ring(molecules.pos, molecules.z, molecules.index)
    return np.bincount(molecules.index[ring], minlength=len(molecules)) == 5


def of_molecules(args: argparse.Namespace) -> None:
    """Molecules with fluorine, and with a ring of five: the share that has it, and what is stable."""
    known = load_qm9(str(args.qm9) if args.qm9 else "full", bonds=True)
    learn = known.subset(split(len(known)).train[:20000])
    base = open_model(args.model)
    wanted = {"fluorine": with_fluorine, "a ring of five": with_five}
    wanted = {name: has for name, has in wanted.items() if name in args.wanted}
    rows = [["", "with it %", "atoms stable %", "mols stable %", "valid %", "file"]]

    def measured(name: str, has: Callable[[Molecules], np.ndarray], files: list[Path]) -> None:
        figures = []
        for seed, file in zip(args.seeds, files, strict=True):
            tuned = open_model(file.with_name("model.safetensors")) if file != args.model else base
            drawn = tuned.sample(args.num, steps=100, seed=1000 + seed)
            rows_of = drawn.pos, drawn.z, drawn.index
            counts = stability(*rows_of)
            valid = np.mean([s is not None for s in smiles(*rows_of)])
            shares = [has(drawn).mean(), counts.atom_ratio, counts.molecule_ratio, valid]
            figures.append([100 * float(share) for share in shares])
        rows.append([name, *(cells(list(of), ".1f") for of in zip(*figures, strict=True))])
        rows[-1].append(megabytes(files[0]))
        print("  ".join(rows[-1]), flush=True)

    for name, has in wanted.items():
        some = learn.subset(np.flatnonzero(has(learn)))
        print(f"{len(some):,} of {len(learn):,} molecules with {name}")
        data = args.out / f"{name.replace(' ', '-')}.npz"
        write_npz(data, some)
        measured(f"{name}: the model of all", has, [args.model] * len(args.seeds))
        for rank in (*args.ranks, None):
            more = f"-{args.epochs}" * bool(args.epochs) + f"-{args.lr}" * bool(args.lr)
            files = []
            for seed in args.seeds:
                folder = args.out / f"{name.replace(' ', '-')}-{rank or 'full'}{more}-{seed}"
                files.append(folder / f"{'adapter' if rank else 'model'}.safetensors")
                if not (folder / "model.safetensors").exists():
                    finetune(
                        args.model, data=str(data), rank=rank, out=folder, accelerator="cpu",
                        epochs=args.epochs or -(-MOLECULES // len(some)), seed=seed,
                        **(args.how if rank else {}),
                    )  # fmt: skip
            measured(f"{name}: {f'rank {rank}' if rank else 'finetuned'}", has, files)
    print(aligned(rows, "markdown"))


def of_steps(args: argparse.Namespace) -> None:
    """A training step of a model and of its adapters, forward and backward, interleaved: medians."""
    tuned, adapted = open_model(args.model), open_model(args.model)
    adapt(adapted.diffusion.denoiser, args.ranks[0])
    items = tuned.read_data()
    loading, _, unpack = kind_of(tuned.kind).batches(tuned, items, tuned.data, 64, 0)
    seconds: dict[str, list[float]] = {"all weights": [], f"rank {args.ranks[0]}": []}
    for batch in islice(loading, 25):
        x0, space, cond = unpack(batch)
        for name, model in zip(seconds, (tuned, adapted), strict=True):
            diffusion = model.diffusion.train()
            diffusion.zero_grad()
            start = time.perf_counter()
            diffusion.loss(x0, space=space, **cond).mean().backward()
            seconds[name].append(time.perf_counter() - start)
    rows = [["a step of 64", "ms"]]
    rows += [[name, f"{1000 * np.median(each[3:]):.1f}"] for name, each in seconds.items()]
    print(aligned(rows, "markdown"))


def main() -> None:
    """Train, draw and compare, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["sketches", "molecules", "cost"])
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--epochs", type=int, help="200 of sketches, and of 20,000 molecules in all"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[4])
    parser.add_argument("--lr", type=float, help="of adapters; that of the command by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--wanted", nargs="+", default=["fluorine", "a ring of five"])
    parser.add_argument("--num", type=int, default=200, help="molecules for each seed")
    parser.add_argument("--qm9", type=Path, help="whole QM9 as a file, to read it from there")
    parser.add_argument("--out", type=Path, default=Path("runs/lora"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    args.how = {"lr": args.lr} if args.lr else {}
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    {"sketches": of_sketches, "molecules": of_molecules, "cost": of_steps}[args.kind](args)


if __name__ == "__main__":
    main()

"""Sketches from noise: train on pen strokes, draw new ones, measure them, watch one appear.

    python examples/sketch_bidirnn.py                      five minutes on the shipped kanji
    python examples/sketch_bidirnn.py --data cats.ndjson --rows points --minutes 20
    python examples/sketch_bidirnn.py --sample-only runs/sketch_bidirnn/model.safetensors --length 7

With a model, --inpaint completes sketches that it has not seen, --edit 0.3 redraws and --interpolate
blends them, beside before.png:

    python examples/sketch_bidirnn.py --sample-only runs/sketch_bidirnn/model.safetensors --inpaint

Everything lands in one folder: the model, the sketches as SVG and ndjson, a picture of them, one being
drawn (SVG) and one being denoised (GIF), the training curve and the table. Ctrl-C while it trains keeps
what was learned; the same command goes on from there.
"""

import argparse
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import seed_everything

import anydiff
from anydiff import Cosine, GaussianDiffusion, Masked
from anydiff.cli.flags import TRAINER_FLAGS, calls, parse, parser, run_folder, training_settings
from anydiff.cli.sketches import (
    blend_sequences,
    draw_sequences,
    first_half,
    held_out,
    sound,
    write_sketches,
)
from anydiff.data.sequences import LengthDistribution, loader, unpack
from anydiff.denoisers import BiRNN
from anydiff.sketches.evaluate import SketchReport, evaluate, noise_sketches, table
from anydiff.sketches.named import load_sketches, split
from anydiff.sketches.rows import PointRows, StrokeRows, rows_from_config
from anydiff.sketches.sketches import Sketches
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def arguments() -> argparse.Namespace:
    flags = parser(__doc__, out="runs/sketch_bidirnn", items="sketches", batch_size=128, num=360)
    add = flags.add_argument
    add(
        "--data",
        help="kanji (shipped), kanjivg (all), an .ndjson, .npz, .svg or .inkml file, or a folder; "
        "if not given kanji, or what the checkpoint was trained on",
    )
    add("--skip-empty", action="store_true", help="leave sketches without a point out")
    add(
        "--rows", choices=["strokes", "points"], default="strokes", help="what is a row of the data"
    )
    add("--hidden", type=int, default=128, help="width of the network")
    add("--layers", type=int, default=3, help="depth of the network")
    add("--cell", choices=["gru", "lstm"], default="gru", help="the recurrent cell")
    add("--length", type=int, help="rows of every sketch; as in the data if not given")
    add("--interpolate", action="store_true", help="blend pairs of sketches that were held out")
    args = parse(flags, "hidden", "layers", "length")
    given = [f for f in ("inpaint", "edit", "interpolate", "length") if getattr(args, f)]
    if len(given) > 1:
        flags.error(f"--{given[0]} and --{given[1]} both say what to begin from; give one")
    if args.guidance != 1:
        flags.error("--guidance is about a condition, and sketches are drawn without one")
    return args


@lru_cache(maxsize=1)  # to learn from and to compare with
def read(data: str, skip_empty: bool) -> Sketches:
    return load_sketches(data, skip_empty=skip_empty)


def train(args: argparse.Namespace, folder: Path) -> Path:
    """Train, or go on training, and return the file of the model."""
    args.data = args.data or "kanji"
    sketches = read(args.data, args.skip_empty)
    parts = split(sketches)
    if not min(map(len, parts)):
        raise ValueError(f"{args.data} holds {len(sketches)} sketches; give at least 10.")
    seed_everything(args.seed, verbose=False)
    known = sketches.subset(parts.train)
    rows = (StrokeRows if args.rows == "strokes" else PointRows).fit(known)
    learn, check = rows.encode(known), rows.encode(sketches.subset(parts.valid))
    network = BiRNN(rows.channels, args.hidden, args.layers, args.cell)
    diffusion = GaussianDiffusion(network, Cosine(), "v")
    print(
        f"{len(learn):,} sketches to learn from, {len(check):,} to check with, a row a "
        f"{args.rows[:-1]} ({rows.channels} numbers); "
        f"{sum(p.numel() for p in network.parameters()):,} parameters"
    )
    run = fit(
        DiffusionModule(diffusion, unpack, lr=args.lr, warmup=100, seed=args.seed, optimizer=Muon),
        folder,
        loader(learn, args.batch_size, seed=args.seed),
        loader(check, args.batch_size, shuffle=False),
        settings=training_settings(args, "data", "rows", "hidden", "layers", "cell"),
        minutes=None if args.epochs else args.minutes,
        epochs=args.epochs,
        ema=0.995,
        val_check_interval=200,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,  # the loader shares its batches out itself
        **{k: getattr(args, k) for k in TRAINER_FLAGS},
    )
    if not run.is_global_zero:  # the other processes of several have done their part
        raise SystemExit
    lengths = LengthDistribution.from_sizes(learn.sizes)
    extra = {"rows": rows.config, "lengths": lengths.counts, "data": args.data}
    anydiff.save(folder / "model.safetensors", diffusion, extra)
    try:
        plot_curve(folder, folder / "curve.png")
    except ValueError as error:  # a run of a few steps, or one that diverged
        print(f"no curve: {error}")
    return folder / "model.safetensors"


def draw(
    args: argparse.Namespace,
    diffusion: GaussianDiffusion,
    extra: dict,
    before: Sketches | None = None,
) -> tuple[Sketches, list[Sketches]]:
    """The sketches, and the path of the first four from noise."""
    diffusion.to("cuda" if args.accelerator == "gpu" else "cpu")
    rows = rows_from_config(extra["rows"])
    path: list[Sketches] = []
    data: dict[str, Any] = {}
    if before is None:
        generator = torch.Generator().manual_seed(args.seed)
        lengths = LengthDistribution(extra["lengths"]).sample(args.num, generator)
        lengths = torch.full_like(lengths, args.length) if args.length else lengths
    else:
        items = rows.encode(before)
        lengths = torch.as_tensor(items.sizes)
        data = {"items": items, "kept": torch.as_tensor(rows.encode(first_half(before)).sizes)}

    def keep(p: anydiff.samplers.Progress) -> None:
        if len(path) < p.steps:  # the first batch
            first = Masked.from_lengths(lengths[:4], p.x_s.shape[1]).mask
            path.append(rows.decode(p.x_s[:4].cpu().nan_to_num()[first], lengths[:4]))

    if args.interpolate:
        parts = blend_sequences(args, diffusion, items)
    else:
        parts = draw_sequences(args, diffusion, lengths, rows.channels, **data, callback=keep)
    parts = sound(parts, all_of_them=before is not None)
    return rows.decode(torch.cat(parts), list(map(len, parts))), path


def measure(
    args: argparse.Namespace, drawn: Sketches, data: str, seconds: float
) -> list[SketchReport]:
    """The drawn sketches beside the floor, real ones, and the ceiling, noise; against held-out ones."""
    sketches = read(data, args.skip_empty)
    parts = split(sketches)
    if len(parts.test) < 6:
        raise ValueError(
            f"{len(parts.test)} of the {len(sketches)} sketches of {data} are held out; 6 are needed, "
            "that is 60 sketches in all."
        )
    known, test = sketches.subset(parts.train[:10_000]), sketches.subset(parts.test[:1000])
    # equally many in every row, as far as there are; the real ones are new to the model as well
    real = sketches.subset(parts.valid[: len(drawn)])
    noise = noise_sketches(sketches.subset(parts.test[: len(drawn)]))
    return [
        evaluate(real, test, known, name="real, held out"),
        evaluate(drawn, test, known, name="drawn", nfe=calls(args, False), seconds=seconds),
        evaluate(noise, test, known, name="noise"),
    ]


def main() -> None:
    args = arguments()
    try:
        folder = run_folder(args, "samples.ndjson")
        checkpoint = args.sample_only or train(args, folder)
        diffusion, extra = anydiff.load(checkpoint)
        if not {"rows", "lengths"} <= extra.keys():
            raise ValueError(f"{checkpoint} is no model of sketches; give one that this trained.")
        before = None
        if args.inpaint or args.edit or args.interpolate:
            sketches = read(args.data or extra["data"], args.skip_empty)
            before = held_out(args, sketches, rows_from_config(extra["rows"]))
        print(f"drawing with {checkpoint}")
        start = time.perf_counter()
        drawn, path = draw(args, diffusion, extra, before)
        seconds = (time.perf_counter() - start) / len(drawn)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None

    write_sketches(args, folder, drawn, path, before)
    print("measuring ...")
    try:
        rows = table(measure(args, drawn, args.data or extra["data"], seconds))
        print("", rows, "", sep="\n")
        (folder / "table.txt").write_text(rows + "\n")
    except (ValueError, OSError, ImportError) as error:  # the model may have travelled without them
        print(f"nothing to compare with: {error}")
    print(*sorted(p for p in folder.iterdir() if p.is_file()), sep="\n")


if __name__ == "__main__":
    main()

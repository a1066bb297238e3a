"""Sketches from noise: train on pen strokes, draw new ones, measure them, watch one appear.

    python examples/sketch_bidirnn.py                      five minutes on the shipped kanji
    python examples/sketch_bidirnn.py --data cats.ndjson --minutes 20

Everything lands in one folder: the model, the sketches as ndjson, a picture of them, one being drawn
(SVG) and four being denoised (GIF), the training curve and the table. Ctrl-C while it trains keeps what
was learned; the same command goes on from there. `anydiff sample`, `inpaint`, `edit` and `interpolate`
draw more with the model.
"""

import os
import time
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # idle threads soon leave the cores to others

import torch
from pytorch_lightning import seed_everything

from anydiff import DDPM, Cosine, GaussianDiffusion, Masked
from anydiff.cli.main import run
from anydiff.cli.report import write_report
from anydiff.data.sequences import LengthDistribution, loader, unpack
from anydiff.denoisers import BiRNN
from anydiff.drawing import moments
from anydiff.files import free_folder
from anydiff.sketches.evaluate import table
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.films import animate_denoising, write_animated_svg
from anydiff.sketches.models import SketchModel, compare_parts
from anydiff.sketches.named import load_sketches, split
from anydiff.sketches.pictures import draw_grid
from anydiff.sketches.rows import StrokeRows
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def main(
    *,
    data: str = "kanji",
    minutes: float = 5.0,
    epochs: int | None = None,
    num: int = 360,
    steps: int = 100,
    seed: int = 0,
    out: Path = Path("runs/sketch_bidirnn"),
    resume: bool = False,
) -> None:
    """Train on pen strokes, draw new sketches, measure them, watch one appear.

    Arguments:
        data: kanji (shipped), kanjivg (all), an .ndjson, .npz, .svg or .inkml file, or a folder.
        minutes: Training time.
        epochs: Number of passes over the data, instead of a time.
        num: Number of samples.
        steps: Number of sampling steps.
        seed: Random seed of the weights, of training and of sampling.
        out: Folder for all files.
        resume: Continue the training in the folder, up to the minutes or epochs in total.
    """
    out = out if resume else free_folder(out, "curve.png")

    # data: a row for each stroke, points along it side by side
    sketches = load_sketches(data)
    parts = split(sketches)
    rows = StrokeRows.fit(sketches.subset(parts.train))
    learn, check = (rows.encode(sketches.subset(part)) for part in (parts.train, parts.valid))
    print(f"{len(learn):,} sketches to learn from, {len(check):,} to check with")

    # model: a network that reads the strokes of a sketch in both directions
    seed_everything(seed, verbose=False)
    network = BiRNN(rows.channels, hidden=128, layers=3, cell="gru")
    diffusion = GaussianDiffusion(network, Cosine(), "v")

    # training
    fit(
        DiffusionModule(diffusion, unpack, lr=8e-3, warmup=100, seed=seed, optimizer=Muon),
        out, loader(learn, 128, seed=seed), loader(check, 128, shuffle=False),
        settings={"data": data, "seed": seed}, minutes=None if epochs else minutes, epochs=epochs,
        ema=0.995, val_check_interval=200, check_val_every_n_epoch=None, devices=1,
    )  # fmt: skip
    lengths = LengthDistribution.from_sizes(learn.sizes)
    SketchModel(diffusion, rows, lengths, data).save(out / "model.safetensors")

    # drawing: lengths as they occur, noise in the valid rows of a padded batch, denoised step by step
    asked = lengths.sample(num, torch.Generator().manual_seed(seed))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    space = Masked.from_lengths(asked, device=device)
    path, start = [], time.perf_counter()
    x = diffusion.to(device).eval().sample(
        (*space.mask.shape, rows.channels), space=space, sampler=DDPM(), steps=steps, seed=seed,
        progress=True, callback=lambda p: path.append(p.x_s[:4][space.mask[:4]]),
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / num
    drawn = rows.decode(x[space.mask], asked)

    # files, pictures, figures
    write_ndjson(out / "samples.ndjson", drawn)
    draw_grid(out / "samples.png", drawn.subset(range(min(64, num))), columns=16)
    write_animated_svg(out / "drawing.svg", drawn[0])
    frames = [rows.decode(path[k], asked[:4]) for k in moments(len(path))]
    animate_denoising(out / "denoising.gif", frames, size=180, fps=15)
    text = table(compare_parts(drawn, sketches, nfe=steps, seconds=seconds))
    (out / "table.txt").write_text(text + "\n")
    plot_curve(out, out / "curve.png")
    write_report(out, "sketches", f"{num} sketches from noise", drawn, table=text,
                 pictures={"Training": "curve.png"}, asked={"data": data, "steps": steps})  # fmt: skip
    print("", text, "", *sorted(out.glob("*.*")), sep="\n")


if __name__ == "__main__":
    run(main)

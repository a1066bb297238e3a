"""Images from noise: train a U-Net on pictures, draw new ones, measure them, watch them appear.

    python examples/cifar_unet.py --data digits            three minutes on handwritten digits
    python examples/cifar_unet.py                          CIFAR-10, fetched if it is not there
    python examples/cifar_unet.py --data photos            a folder of pictures of one size

Everything lands in one folder: the model, the images as one array and as a picture, their way from
noise as a strip and a GIF, the training curve and the table. Ctrl-C while it trains keeps what was
learned; the same command goes on from there. `anydiff sample`, `inpaint`, `edit` and `interpolate` draw
more with the model.
"""

import os
import time
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # idle threads soon leave the cores to others

import numpy as np
import torch
from pytorch_lightning import seed_everything

from anydiff import DDPM, Cosine, GaussianDiffusion
from anydiff.cli.main import run
from anydiff.cli.report import write_report
from anydiff.denoisers import UNet
from anydiff.drawing import moments
from anydiff.files import free_folder
from anydiff.images import Images, load_images, loader, split, to_uint8, unpack
from anydiff.images.evaluate import table
from anydiff.images.models import ImageModel, compare_parts
from anydiff.images.pictures import animate_denoising, draw_grid, draw_strip
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def main(
    *,
    data: str = "cifar10",
    minutes: float = 3.0,
    epochs: int | None = None,
    num: int = 400,
    steps: int = 100,
    seed: int = 0,
    out: Path = Path("runs/cifar_unet"),
    resume: bool = False,
) -> None:
    """Train a U-Net on pictures, draw new ones, measure them, watch them appear.

    Arguments:
        data: digits (shipped), cifar10, or the path of a folder of pictures, or of MNIST's files.
        minutes: Training time.
        epochs: Number of passes over the data, instead of a time.
        num: Number of samples.
        steps: Number of sampling steps.
        seed: Random seed of the weights, of training and of sampling.
        out: Folder for all files.
        resume: Continue the training in the folder, up to the minutes or epochs in total.
    """
    out = out if resume else free_folder(out, "curve.png")

    # data: pixels in [-1, 1]; mirrored pictures are pictures too, but for digits
    images = load_images(data)
    parts = split(images)
    learn, check = images.subset(parts.train), images.subset(parts.valid)
    small = max(images.shape[1:]) <= 16
    batch, flip = (64 if small else 32), "digits" not in data and "mnist" not in data
    print(f"{len(learn):,} images to learn from, {len(check):,} to check with")

    # model: a U-Net with attention at its lowest level
    seed_everything(seed, verbose=False)
    network = UNet(images.shape[0], [32, 64] if small else [32, 64, 128], groups=8)
    diffusion = GaussianDiffusion(network, Cosine(), "v")

    # training
    fit(
        DiffusionModule(diffusion, unpack, lr=3e-3, warmup=100, seed=seed, optimizer=Muon),
        out, loader(learn, batch, seed=seed, flip=flip), loader(check, batch, shuffle=False),
        settings={"data": data, "seed": seed}, minutes=None if epochs else minutes, epochs=epochs,
        ema=0.998, val_check_interval=500, check_val_every_n_epoch=None, devices=1,
    )  # fmt: skip
    ImageModel(diffusion, images.shape, data).save(out / "model.safetensors")

    # drawing: noise in the shape of pictures, denoised step by step, 64 at once
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path, drawn, start = [], [], time.perf_counter()
    for k in range(0, num, 64):
        x = diffusion.to(device).eval().sample(
            (min(64, num - k), *images.shape), sampler=DDPM(), steps=steps, seed=seed + k,
            progress=True, callback=None if k else lambda p: path.append(to_uint8(p.x_s[:8])),
        )  # fmt: skip
        drawn.append(to_uint8(x))
    pixels, way = torch.cat(drawn).cpu(), torch.stack(path).cpu()
    seconds = (time.perf_counter() - start) / num

    # files, pictures, figures
    np.savez_compressed(out / "samples.npz", pixels=pixels.numpy())
    draw_grid(out / "samples.png", pixels[:100], columns=min(10, num))
    draw_strip(out / "strip.png", way)
    animate_denoising(out / "denoising.gif", way[moments(len(way))])
    text = table(compare_parts(pixels, images, nfe=steps, seconds=seconds))
    (out / "table.txt").write_text(text + "\n")
    plot_curve(out, out / "curve.png")
    write_report(out, "images", f"{num} images from noise", Images(pixels), table=text,
                 pictures={"Training": "curve.png"}, asked={"data": data, "steps": steps})  # fmt: skip
    print("", text, "", *sorted(out.glob("*.*")), sep="\n")


if __name__ == "__main__":
    run(main)

"""Images from noise: train a U-Net on pictures, draw new ones, measure them, watch them appear.

    python examples/cifar_unet.py --data digits            three minutes on handwritten digits
    python examples/cifar_unet.py                          CIFAR-10
    python examples/cifar_unet.py --data folder photos --size 32
    python examples/cifar_unet.py --sample-only runs/cifar_unet/model.safetensors --num 64

Steered: digits by their labels, two of them only, the right half of held-out ones, held-out ones redrawn.

    python examples/cifar_unet.py --data digits --classes --guidance 2
    python examples/cifar_unet.py --sample-only runs/cifar_unet/model.safetensors --label 3 8
    python examples/cifar_unet.py --sample-only runs/cifar_unet/model.safetensors --inpaint
    python examples/cifar_unet.py --sample-only runs/cifar_unet/model.safetensors --edit 0.4

Everything lands in one folder: the model, the images as one array and as a picture, their way from
noise as a strip and a GIF, the training curve and the table. Ctrl-C while it trains keeps what was
learned; the same command goes on from there.
"""

import argparse
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import seed_everything

import anydiff
from anydiff import Cosine, GaussianDiffusion, Tabulated
from anydiff import images as pictures
from anydiff.cli import flags as commands
from anydiff.denoisers import UNet
from anydiff.images.evaluate import table
from anydiff.images.features import InceptionFeatures
from anydiff.images.models import compare_parts
from anydiff.images.pictures import animate_denoising, draw_grid, draw_strip
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def arguments() -> argparse.Namespace:
    flags = commands.parser(
        __doc__, out="runs/cifar_unet", items="images", minutes=3.0, batch_size=None, lr=3e-3, num=400
    )  # fmt: skip
    add = flags.add_argument
    add("--data", nargs="+", metavar=("NAME", "PATH"),
        help="cifar10, digits (shipped), mnist PATH or folder PATH; "
        "if not given cifar10, or what the checkpoint was trained on")  # fmt: skip
    add("--root", help="where CIFAR-10 is, or is to be put; in the user's cache if not given")
    add("--size", type=int, help="bring the pictures to so many pixels a side")
    add("--no-flip", action="store_true", help="don't mirror pictures of cifar10 and of a folder")
    add("--classes", action="store_true", help="learn the labels too, and draw all of them in turn")
    add("--label", type=int, nargs="+", metavar="N", help="draw these labels only, in turn")
    add("--widths", type=int, nargs="+", help="channels of each level; by the size if not given")
    add("--blocks", type=int, default=1, help="residual blocks of a level")
    add("--attention", type=int, nargs="*", help="levels with attention; the last if not given")
    add("--groups", type=int, default=8, help="groups of the norms")
    add("--dropout", type=float, default=0.0, help="share of activations dropped in training")
    add("--prediction", choices=["v", "eps", "x0"], default="v", help="what the network says")
    add("--schedule", choices=["cosine", "linear"], default="cosine", help="how the noise grows")
    add("--optimizer", choices=["muon", "adam"], default="muon", help="how the weights are moved")
    add("--constant", action="store_true", help="keep the learning rate, once it has risen")
    add("--ema", type=float, default=0.998, help="decay of the averaged weights")
    add("--inception", metavar="FILE", help="weights of torch-fidelity's Inception v3, for FID")
    args = commands.parse(flags, "size", "widths", "blocks", "groups")
    kinds = {"cifar10": 1, "digits": 1, "mnist": 2, "folder": 2}  # and how many words they take
    if args.data and len(args.data) != kinds.get(args.data[0]):
        given = " ".join(args.data)
        flags.error(f"--data {given}: give cifar10, digits, mnist PATH or folder PATH")
    if args.root and args.data and args.data[0] != "cifar10":
        flags.error(f"--root {args.root} is for cifar10; --data is {args.data[0]}")
    return args


@lru_cache(maxsize=1)  # to learn from, to begin from and to compare with
def read(name: str, root: str | None, size: int | None, download: bool) -> pictures.Images:
    return pictures.load_images(name, root, size=size, download=download)


def source(args: argparse.Namespace, kept: list | None = None) -> list:
    """Name, path and size of the data: as the flags say, else as the model has kept them."""
    name, path, size = kept or ["cifar10", None, None]
    if args.data:
        name, path = args.data[0], args.data[1] if len(args.data) > 1 else None
    return [name, args.root or path, args.size or size]


def train(args: argparse.Namespace, folder: Path) -> Path:
    """Train, or go on training, and return the file of the model."""
    name, path, args.size = source(args)
    images = read(name, path, args.size, True)
    parts = pictures.split(images)
    seed_everything(args.seed, verbose=False)
    small = max(images.shape[1:]) <= 16
    args.widths = args.widths or ([32, 64] if small else [32, 64, 128])
    args.batch_size = args.batch_size or (64 if small else 32)
    if args.classes and images.labels is None:
        raise ValueError(f"{images.name} has no labels; leave --classes out.")
    classes = int(images.labels.max()) + 1 if args.classes else 0
    commands.labels_in_turn(args, classes)  # those that can't be drawn, before they are learnt
    network = UNet(
        images.shape[0], args.widths, args.blocks, args.attention,
        groups=args.groups, dropout=args.dropout, classes=classes,
    )  # fmt: skip
    schedule = Cosine() if args.schedule == "cosine" else Tabulated.linear()
    drop = 0.1 if classes else None  # to know what images are without a label, for --guidance
    diffusion = GaussianDiffusion(network, schedule, args.prediction, drop=drop)
    print(
        f"{len(parts.train):,} images of {' × '.join(map(str, images.shape))} to learn from, "
        f"{len(parts.valid):,} to check with; {sum(p.numel() for p in network.parameters()):,} parameters"
    )
    run = fit(
        DiffusionModule(
            diffusion, pictures.unpack, lr=args.lr, warmup=100, decay=not args.constant, seed=args.seed,
            optimizer=Muon if args.optimizer == "muon" else None,
        ),
        folder,
        pictures.loader(
            images.subset(parts.train), args.batch_size, seed=args.seed, labels=args.classes,
            flip=name in ("cifar10", "folder") and not args.no_flip,  # digits have a left and a right
        ),
        pictures.loader(images.subset(parts.valid), args.batch_size, shuffle=False, labels=args.classes),
        settings={"data": name} | commands.training_settings(
            args, "size", "no_flip", "classes", "widths", "blocks", "attention", "groups", "dropout",
            "prediction", "schedule", "optimizer", "constant", "ema",
        ),
        minutes=None if args.epochs else args.minutes, epochs=args.epochs, ema=args.ema,
        val_check_interval=500, check_val_every_n_epoch=None,
        use_distributed_sampler=False,  # the loader shares its batches out itself
        **{k: getattr(args, k) for k in commands.TRAINER_FLAGS},
    )  # fmt: skip
    if not run.is_global_zero:  # the other processes of several have done their part
        raise SystemExit
    extra = {"shape": images.shape, "data": [name, path, args.size]}
    anydiff.save(folder / "model.safetensors", diffusion, extra)
    try:
        plot_curve(folder, folder / "curve.png")
    except ValueError as error:  # a run of a few steps, or one that diverged
        print(f"no curve: {error}")
    return folder / "model.safetensors"


def draw(args: argparse.Namespace, diffusion: GaussianDiffusion, shape: list, data: list) -> tuple:
    """Images of uint8, their labels, what they began from, and the way of the first from noise."""
    label = commands.labels_in_turn(args, getattr(diffusion.denoiser, "classes", 0))
    x = known = before = None
    if args.inpaint or args.edit:
        test = pictures.held_out(read(*data, not args.sample_only), args.num, shape)
        x = pictures.from_uint8(test.pixels)
        known = (torch.arange(shape[2]) < shape[2] // 2).expand(args.num, 1, *shape[1:])  # the left
        before = torch.where(known, test.pixels, 160) if args.inpaint else test.pixels
        if label is not None and not args.label and test.labels is not None:
            label = test.labels  # their own
    cond = {} if label is None else {"label": label}
    drawn, path = commands.draw_all(args, diffusion, shape, cond, x=x, known=known)
    finite = commands.which_finite(drawn, "images")
    label, before = (None if v is None else v[finite] for v in (label, before))
    return pictures.to_uint8(drawn[finite]), label, before, pictures.to_uint8(path.nan_to_num())


def main() -> None:
    args = arguments()
    try:
        device = "cuda" if args.accelerator == "gpu" else "cpu"
        inception = InceptionFeatures(args.inception, device=device) if args.inception else None
        folder = commands.run_folder(args, "samples.npz")
        checkpoint = args.sample_only or train(args, folder)
        diffusion, extra = anydiff.load(checkpoint)
        if not {"shape", "data"} <= extra.keys():
            raise ValueError(f"{checkpoint} is no model of images; give one that this trained.")
        data = source(args, extra["data"])
        print(f"drawing {args.num} images with {checkpoint}")
        start = time.perf_counter()
        pixels, label, before, path = draw(args, diffusion.to(device), extra["shape"], data)
        seconds = (time.perf_counter() - start) / args.num
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)

    arrays = {"pixels": pixels, "labels": label, "before": before}
    given = {name: v.numpy() for name, v in arrays.items() if v is not None}
    np.savez_compressed(folder / "samples.npz", **given)
    for name, drawn in (("samples", pixels), ("before", before)):
        if drawn is not None:
            draw_grid(folder / f"{name}.png", drawn[:100], columns=min(10, len(drawn)))
    draw_strip(folder / "strip.png", path)
    animate_denoising(folder / "denoising.gif", path[commands.moments(len(path))])

    print("measuring ...")
    try:
        rows = table(
            compare_parts(
                pixels, read(*data, not args.sample_only), features=inception, labels=label,
                nfe=commands.calls(args, label is not None), seconds=seconds,
            )
        )  # fmt: skip
        print("", rows, "", sep="\n")
        (folder / "table.txt").write_text(rows + "\n")
    except (ValueError, OSError, ImportError) as error:  # the model may have travelled without them
        print(f"nothing to compare with: {error}")
    print(*sorted(p for p in folder.iterdir() if p.is_file()), sep="\n")


if __name__ == "__main__":
    main()

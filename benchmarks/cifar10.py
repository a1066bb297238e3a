"""CIFAR-10 on two cores: the image example against diffusers, the same minutes, the same parameters.

Trains the example's model (`anydiff train images`), and a `UNet2DModel` of diffusers of the same widths,
so with the same number of parameters, with diffusers' own schedule, loss and averaging in the manner of
its example for unconditional images: T = 1000 linear, mean squared error of eps, AdamW (betas 0.95,
0.999, weight decay 1e-6), 500 steps of warm-up and a cosine after them. Its rate is ten times that
example's 1e-4, which is for runs of days; data, mirroring, batches and clipping are those of anydiff.
Both draw as many pictures with as many network calls by DDIM, or DDPM, diffusers with its own scheduler.

    python benchmarks/cifar10.py --root DIR --features weights.npz       # an hour and a half
    python benchmarks/cifar10.py --root DIR --features weights.npz --minutes 0.5 --num 60 --steps 5

Run it on an idle machine. A run that was broken off goes on from its last checkpoint, that of diffusers
with other noise; pictures that the example has drawn are not drawn again. Needs diffusers.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cifar_features import CifarFeatures
from torch import Tensor
from tqdm import tqdm

from anydiff.cli import draw, train
from anydiff.files import whole
from anydiff.images import Images, load_images, loader, split, to_uint8, unpack
from anydiff.images.evaluate import evaluate, noise_images, table
from anydiff.images.pictures import draw_grid


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--root", required=True, help="where CIFAR-10 is")
    add("--features", required=True, help="npz for cifar_features.py, to measure with")
    add("--minutes", type=float, default=30.0)
    add("--num", type=int, default=2000, help="pictures to draw")
    add("--steps", type=int, default=25, help="network calls for a picture")
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=1e-3, help="of diffusers")
    add("--sampler", choices=["ddpm", "ddim"], default="ddim", help="of both")
    add("--seed", type=int, default=0)
    add("--only", choices=["anydiff", "diffusers"], help="train and draw with one of the two")
    add("--out", type=Path, default=Path("runs/benchmark_cifar10"))
    return parser.parse_args()


def anydiff(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Tensor, float]]:
    """The example's model, trained unless it is there, and drawn with by the command; its pictures."""
    if (folder / "samples.npz").exists():
        with np.load(folder / "samples.npz") as file:
            return {"anydiff": (torch.from_numpy(file["pixels"]), math.nan)}
    model = folder / "model.safetensors"
    if not model.exists():
        train.images(
            "cifar10", args.root, minutes=args.minutes, batch_size=args.batch_size, seed=args.seed,
            out=folder,
        )  # fmt: skip
    draw.sample(
        model, num=args.num, sampler=args.sampler, steps=args.steps, seed=args.seed, out=folder,
        measure=False,
    )  # fmt: skip
    return anydiff(args, folder)


def build() -> torch.nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=None,
    )


def diffusers(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Tensor, float]]:
    """diffusers' network, schedule, loss, averages and samplers; pictures, and seconds for one."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(args.seed)
    network = build()
    averaged = EMAModel(
        network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    schedule = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), args.lr, (0.95, 0.999), weight_decay=1e-6)
    images = load_images("cifar10", args.root)
    batches = loader(images.subset(split(images).train), args.batch_size, seed=args.seed, flip=True)
    folder.mkdir(parents=True, exist_ok=True)
    last, step, before = folder / "last.pt", 0, 0.0
    if last.exists():
        state = torch.load(last, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        batches.load_state_dict(state["batches"])
        step, before = state["step"], state["seconds"]

    total, start, saved = 60 * args.minutes, time.perf_counter() - before, time.perf_counter()
    bar = tqdm(total=100, desc="diffusers", bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}")
    network.train()
    while (elapsed := time.perf_counter() - start) < total:
        for batch in batches:
            if (elapsed := time.perf_counter() - start) >= total:
                break
            x0, _, _ = unpack(batch)
            noise, k = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
            loss = F.mse_loss(network(schedule.add_noise(x0, noise, k), k).sample, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            rate = (
                args.lr * min(1, (step + 1) / 500) * 0.5 * (1 + math.cos(math.pi * elapsed / total))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            averaged.step(network.parameters())
            step += 1
            if step % 20 == 0:
                bar.n = round(100 * elapsed / total, 1)
                bar.set_postfix_str(f"loss {loss.item():.3f}, step {step}")
            if time.perf_counter() - saved > 60:
                saved = time.perf_counter()
                state = {
                    "network": network.state_dict(), "averaged": averaged.state_dict(),
                    "optimizer": optimizer.state_dict(), "batches": batches.state_dict(),
                    "step": step, "seconds": elapsed,
                }  # fmt: skip
                with whole(last, ".pt") as temporary:
                    torch.save(state, temporary)
    bar.close()
    print(f"diffusers: {step} steps, {sum(p.numel() for p in network.parameters()):,} parameters")

    averaged.copy_to(network.parameters())
    network.eval()
    sampler = DDPMScheduler if args.sampler == "ddpm" else DDIMScheduler
    scheduler = sampler.from_config(schedule.config)
    scheduler.set_timesteps(args.steps)
    generator, parts = torch.Generator().manual_seed(args.seed), []
    start = time.perf_counter()
    for first in tqdm(range(0, args.num, 64), desc="drawing"):
        x = torch.randn(min(64, args.num - first), 3, 32, 32, generator=generator)
        with torch.no_grad():
            for k in scheduler.timesteps:
                y = network(x, k).sample
                x = scheduler.step(y, k, x, generator=generator).prev_sample
        parts.append(to_uint8(x))
    return {"diffusers": (torch.cat(parts), (time.perf_counter() - start) / args.num)}


def report(args: argparse.Namespace, images: Images, drawn: dict[str, tuple[Tensor, float]]) -> str:
    parts, features = split(images), CifarFeatures(args.features)
    known, test = images.subset(parts.train[:10_000]), images.subset(parts.test[: args.num])
    against = features.features(test.pixels), features.features(known.pixels)
    rows = [
        evaluate(known.subset(range(args.num)), *against, features=features, name="real, train")
    ]
    for name, (pixels, seconds) in drawn.items():
        took = None if math.isnan(seconds) else seconds
        row = evaluate(pixels, *against, features=features, name=name, nfe=args.steps, seconds=took)
        rows.append(row)
    noise = noise_images(test)
    return table([*rows, evaluate(noise, *against, features=features, name="noise")])


def main() -> None:
    args = arguments()
    drawn: dict[str, tuple[Tensor, float]] = {}
    for name, run in (("anydiff", anydiff), ("diffusers", diffusers)):
        if args.only in (None, name):
            drawn |= run(args, args.out / f"{name}-{args.seed}")
    for name, (pixels, _) in drawn.items():
        draw_grid(args.out / f"{name.replace(', ', '-')}.png", pixels[:100], columns=10)
        np.savez_compressed(args.out / f"{name.replace(', ', '-')}.npz", pixels=pixels.numpy())
    text = report(args, load_images("cifar10", args.root), drawn)
    print("", text, sep="\n")
    os.makedirs(args.out, exist_ok=True)
    (args.out / "table.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()

"""How fast is UNet, against diffusers' UNet2DModel of the same configuration and the same weights?

Ho et al.'s network for CIFAR-10 (35.7 million parameters), a batch of 8 at 32 × 32, 2 threads: a training
step (forward and backward) and a forward without gradient. Repetitions of the two are interleaved in one
run, and the medians compared. Also prints the largest difference of the outputs, in float32.

    python benchmarks/unet.py                 # three minutes
    python benchmarks/unet.py --repeats 3 --batch 4
    python benchmarks/unet.py --bfloat16      # both under autocast

Needs diffusers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from anydiff.denoisers.unet.diffusers import load_diffusers

CIFAR = {
    "sample_size": 32,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (128, 256, 256, 256),
    "downsample_padding": 0,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def step(network: nn.Module, run: Callable[[], Tensor]) -> None:
    network.zero_grad()
    run().float().square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15, help="of each, interleaved")
    parser.add_argument("--bfloat16", action="store_true", help="products of bfloat16")
    args = parser.parse_args()
    from diffusers import UNet2DModel

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    theirs = UNet2DModel(**CIFAR)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_diffusers(folder).train()
    x, t = torch.randn(args.batch, 3, 32, 32), torch.rand(args.batch)
    runs: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "diffusers": (theirs, lambda: theirs(x, 1000 * t - 1).sample),
        "anydiff": (ours, lambda: ours(x, t)),
    }
    with torch.no_grad():
        apart = float((runs["anydiff"][1]() - runs["diffusers"][1]()).abs().max())

    times: dict[str, dict[str, list[float]]] = {"step": {}, "no gradient": {}}
    for k in range(args.repeats + 1):
        for name, (network, run) in runs.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                with torch.no_grad():
                    forward = seconds(run)
                training = seconds(lambda network=network, run=run: step(network, run))  # type: ignore[misc]
            if k > 0:  # the first of each warms up
                times["no gradient"].setdefault(name, []).append(forward)
                times["step"].setdefault(name, []).append(training)

    print(
        f"{sum(p.numel() for p in ours.parameters()):,} parameters, largest difference {apart:.1e}"
    )
    for what, of in times.items():
        theirs_s, ours_s = (statistics.median(of[name]) for name in ("diffusers", "anydiff"))
        print(
            f"{what:12} diffusers {theirs_s:.3f} s, anydiff {ours_s:.3f} s, ratio {theirs_s / ours_s:.2f}"
        )


if __name__ == "__main__":
    main()

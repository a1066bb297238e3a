"""What a device does: agreement with the CPU, training steps beside peers, bfloat16, compiled networks.

    python benchmarks/gpu.py --out gpu.json             # a CUDA device, at most eight minutes
    python benchmarks/gpu.py --device cpu --short       # to see that it runs

Steps are forward and backward of the loss, their repetitions interleaved, medians. `graphs` is a network
whose calls are CUDA graphs (`torch.compile(mode="reduce-overhead")`). What has no time left is not run,
and the table says so. Needs diffusers for the peer of the U-Net.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
from torch import Tensor, nn

from anydiff import DDIM, Cosine, GaussianDiffusion
from anydiff.denoisers import EGNN, BiRNN, PairNet
from anydiff.denoisers.unet.diffusers import load_diffusers
from anydiff.metrics.tables import aligned
from anydiff.spaces import DENSE, Masked, Ragged, Space

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.unet import CIFAR
from tests.helpers.textbook_egnn import TextbookEGNN

Case = tuple[nn.Module, tuple[int, ...], Space]


class Timed:
    """What is measured, until the minutes are over."""

    def __init__(self, device: str, minutes: float, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.end = time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {}

    def seconds(self, run: Callable[[], Any]) -> float:
        """Of one call, with all that the device has to do for it."""
        start = time.perf_counter()
        run()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def compare(self, part: str, runs: dict[str, Callable[[], Any]]) -> None:
        """The median milliseconds of each, of which the repetitions alternate."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(self.repeats + 2):  # the first two warm up, and compile
            for name, run in runs.items():
                if time.monotonic() > self.end:
                    self.found.setdefault(part, {})["not run"] = "no time was left"
                    return
                try:
                    elapsed = self.seconds(run)
                except Exception as error:  # one fault is not to cost the others
                    elapsed = float("nan")
                    self.found.setdefault("faults", {})[f"{part}, {name}"] = f"{error!r:.300}"
                if repeat > 1:
                    times[name].append(1000 * elapsed)
        self.found[part] = {name: round(statistics.median(each), 3) for name, each in times.items()}
        print(part, self.found[part], flush=True)


def cases(short: bool, device: str) -> dict[str, tuple[Case, nn.Module | None, Any]]:
    """Networks with a shape and a space; a peer of the same size on the device, and its inputs."""
    from diffusers import UNet2DModel

    B, hidden, layers = (2, 16, 2) if short else (64, 128, 6)
    sizes = [5, 9] if short else [9 + k % 20 for k in range(64)]
    torch.manual_seed(0)
    theirs = UNet2DModel(**(CIFAR | {"block_out_channels": (32, 64, 64, 64)} if short else CIFAR))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        unet = load_diffusers(folder)
    images = torch.randn(B, 3, 32, 32, device=device), 1000 * torch.rand(B, device=device)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    dense = torch.randn(*mask.shape, 9) * mask[..., None]
    padded = [of.to(device) for of in (dense, torch.rand(len(mask)), mask)]
    atoms, rows = (
        Ragged.from_sizes(sizes, centered=3),
        Masked.from_lengths([20 + k % 60 for k in range(B)]),
    )
    N = sum(sizes)
    return {
        "UNet": ((unet, (B, 3, 32, 32), DENSE), theirs, images),
        "EGNN": (
            (EGNN(6, hidden, layers=layers), (N, 9), atoms),
            TextbookEGNN(6, hidden, layers),
            padded,
        ),
        "PairNet": ((PairNet(6, hidden, layers=layers), (N, 9), atoms), None, ()),
        "BiRNN": ((BiRNN(5, hidden, 2), (*rows.mask.shape, 5), rows), None, ()),
    }


def on_device(
    timed: Timed, name: str, case: Case, peer: nn.Module | None, given: Any, compiled: bool
) -> None:
    """Agreement with the CPU, steps of training and runs of sampling of one network."""
    network, shape, space = case
    diffusion = GaussianDiffusion(network, Cosine(), "v")
    there = space.to(timed.device) if hasattr(space, "to") else space
    x0, noise = (space.project(torch.randn(shape)) for _ in range(2))
    t = torch.rand(space.items(x0))
    with torch.no_grad():
        here = diffusion.loss(x0, t, space=space, noise=noise)
    diffusion.to(timed.device)
    x0, noise, t = (of.to(timed.device) for of in (x0, noise, t))
    with torch.no_grad():
        apart = (diffusion.loss(x0, t, space=there, noise=noise).cpu() - here).abs().max()
    timed.found.setdefault("largest difference of losses", {})[name] = float(f"{apart:.3g}")

    def step(loss: Callable[[], Tensor], half: bool = False) -> Callable[[], None]:
        def run() -> None:
            cast = torch.autocast(timed.device, torch.bfloat16) if half else nullcontext()
            with cast:
                value = loss().mean()
            value.backward()
            for module in (diffusion, peer):
                if module is not None:
                    module.zero_grad()

        return run

    own = lambda: diffusion.loss(x0, space=there)  # noqa: E731
    runs = {"float32": step(own), "bfloat16": step(own, half=True)}
    if peer is not None:
        peer.to(timed.device)

        def other() -> Tensor:
            found = peer(*given)
            value: Tensor = getattr(found, "sample", found).square().mean()
            return value

        runs |= {"peer": step(other), "peer, bfloat16": step(other, half=True)}
    timed.compare(f"{name}, step", runs)

    def sampled() -> Tensor:
        return diffusion.sample(shape, space=there, sampler=DDIM(), steps=10, seed=0)

    diffusion.eval()
    timed.compare(f"{name}, 10 steps of DDIM", {"eager": sampled})
    if compiled:
        network.compile(
            mode="reduce-overhead" if timed.device == "cuda" else "default", dynamic=False
        )
        timed.compare(f"{name}, 10 steps of DDIM, graphs", {"compiled": sampled})


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--short", action="store_true", help="small networks, two repetitions")
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; give --device cpu.")
    timed = Timed(args.device, args.minutes, 2 if args.short else args.repeats)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    timed.found |= {"device": name, "torch": torch.__version__}
    for network, (case, peer, given) in cases(args.short, args.device).items():
        on_device(timed, network, case, peer, given, compiled=not args.no_compile)
        if args.out:
            args.out.write_text(json.dumps(timed.found, indent=1))
    rows = [["ms", "", ""]]
    for part, each in timed.found.items():
        if isinstance(each, dict):
            rows += [[part, what, str(value)] for what, value in each.items()]
    print(aligned(rows, "markdown"))


if __name__ == "__main__":
    main()

"""Write a trained model for the package: the weights in float16, and nothing of where it was trained.

    python scripts/ship_model.py runs/kanji/model.safetensors anydiff/sketches/kanji.safetensors

It says how large the file is and how far the answers of the network move. A model is read in float32.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import anydiff
from anydiff.cli.runs import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="the name of what it was trained on, in place of a path")
    args = parser.parse_args()
    diffusion, extra = anydiff.load(args.model)
    extra["data"] = args.data or extra["data"]
    extra.get("made", {}).pop("finetuned", None)  # a path
    before = {k: v.clone() for k, v in diffusion.state_dict().items() if isinstance(v, Tensor)}
    anydiff.save(args.out, diffusion.half(), extra)
    model = open_model(args.out)
    state = model.diffusion.state_dict()
    moved = max(
        float((state[k] - v).abs().max() / v.abs().max().clamp(min=1e-12))
        for k, v in before.items()
        if v.is_floating_point()
    )
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {size:.2f} MB; no weight moved by more than {moved:.1e} of the largest")
    few = {"steps": 3} if model.diffusion.times.run is None else {}  # a student has its own
    print(f"draws {len(model.sample(4, **few))} {model.kind}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

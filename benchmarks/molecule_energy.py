"""A property asked for by the gradient of a network that reads it off noisy molecules.

    python benchmarks/molecule_energy.py --judge runs/property_alpha.safetensors

The generator is that of `benchmarks/molecules.py`, without its condition. A second network learns, on the
same half of the training part, the polarizability of the molecule behind x_t; how far off it is at each
time, on molecules that it has not seen, is the width of a normal distribution, whose gradient guides
(`anydiff.classifier`). The judge learnt from the other half.

Equivariant Energy-Guided SDE for Inverse Molecular Design (Bao et al., 2023).
https://arxiv.org/abs/2209.15408
"""

import argparse
import time
from collections import defaultdict
from math import cos, pi
from pathlib import Path
from statistics import mean

import torch
from molecules import quality
from torch import Tensor, nn
from tqdm import tqdm

import anydiff
from anydiff import Polynomial, Ragged, classifier, sample
from anydiff.denoisers import PairNet
from anydiff.metrics.tables import aligned
from anydiff.molecules import Atoms, load_qm9, loader
from anydiff.molecules.properties import Properties, halves, with_properties
from anydiff.molecules.property_model import PropertyModel
from anydiff.molecules.property_targets import PropertyDistribution
from anydiff.molecules.qm9 import split
from anydiff.training.muon import Muon

BINS = 20  # of time, for how far off it is


class NoisyProperty(nn.Module):
    """(N, F) rows and times (B,) -> the property that the data had, (B,), in MAD from its mean."""

    width: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = PairNet(features - 3 + 1, 96, 48, 12, 4)
        self.register_buffer("width", torch.ones(BINS + 1))

    def forward(self, x_t: Tensor, t: Tensor, space: Ragged) -> Tensor:
        rows = torch.cat([x_t, x_t.new_zeros(len(x_t), 1)], 1)
        share = self.net(rows, t, space=space)[:, -1]
        return x_t.new_zeros(space.num_items).index_add(0, space.index, share) / 18

    def log_prob(self, x_t: Tensor, t: Tensor, space: Ragged, c: Tensor) -> Tensor:
        """Of the property c, (B,), as if the errors at each time were normal."""
        place = t * BINS
        low = place.floor().clamp(max=BINS - 1).long()
        width = torch.lerp(self.width[low], self.width[low + 1], place - low)
        return -0.5 * ((self(x_t, t, space) - c) / width).square()


def noised(x0: Tensor, t: Tensor, space: Ragged, schedule: Polynomial) -> Tensor:
    alpha, sigma = (space.expand(c, x0) for c in schedule(t))
    return alpha * x0 + sigma * space.noise(x0)


def train(args: argparse.Namespace, atoms: Atoms, properties: Properties) -> NoisyProperty:
    path = args.folder / "energy.pt"
    model, schedule = NoisyProperty(atoms.features), Polynomial()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    torch.manual_seed(0)
    molecules = load_qm9(args.data)
    parts = split(len(molecules))
    unpack = with_properties(atoms.unpack, properties, molecules.prop_names)
    batches = loader(molecules.subset(halves(parts.train)[1]), 64, seed=0)
    optimizer, start, step = Muon(model.parameters(), 8e-3), time.perf_counter(), 0
    bar = tqdm(
        total=100, bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    )
    error = 1.0
    while (over := (time.perf_counter() - start) / (60 * args.minutes)) < 1:
        for batch in batches:
            over = min(1.0, (time.perf_counter() - start) / (60 * args.minutes))
            for group in optimizer.param_groups:
                group["lr"] = 8e-3 * min(1, (step + 1) / 100) * 0.5 * (1 + cos(pi * over))
            x0, space, cond = unpack(batch)
            t = torch.rand(space.num_items)
            c = cond["context"][:, 0]
            loss = (model(noised(x0, t, space, schedule), t, space) - c).square().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 20 == 0:
                error = 0.9 * error + 0.1 * loss.item()
                bar.n = round(100 * over, 1)
                bar.set_postfix_str(f"step {step}, squared error {error:.3f}")
            if over >= 1:
                break
    bar.close()
    model.eval()
    held = loader(molecules.subset(parts.valid[:3000]), 100, shuffle=False)
    with torch.no_grad():
        for k in range(BINS + 1):
            squares = []
            for batch in held:
                x0, space, cond = unpack(batch)
                t = torch.full((space.num_items,), k / BINS)
                away = model(noised(x0, t, space, schedule), t, space) - cond["context"][:, 0]
                squares.append(away.square())
            model.width[k] = torch.cat(squares).mean().sqrt()
    print(f"{step} steps; off by, in MAD, at t = 0, .05, ...: {model.width.numpy().round(2)}")
    torch.save(model.state_dict(), path)
    return model


def picture(path: Path, found: dict[float, tuple[Tensor, Tensor]]) -> None:
    """What was asked for against what the judge finds, in a panel for each scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.7), layout="constrained")
    low, high = 30.0, 110.0
    for axes, (scale, (asked, judged)) in zip(
        figure.subplots(1, len(found), sharey=True), found.items(), strict=True
    ):
        axes.plot([low, high], [low, high], color="0.8", linewidth=1, zorder=0)
        axes.scatter(asked, judged, s=9, alpha=0.6, linewidth=0, color="#2a6fbb")
        error = (judged - asked).abs().mean()
        axes.set(title=f"scale {scale:g}: mean error {error:.1f}", xlabel="asked for, bohr³")
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("judged, bohr³")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--data", default="full", help="full, or 5k for a quick look")
    flags.add_argument("--minutes", type=float, default=8, help="how long to train the network")
    flags.add_argument("--folder", type=Path, default=Path("runs/molecules"), help="for the models")
    flags.add_argument("--judge", default="runs/property_alpha.safetensors", help="who judges")
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the draws")
    flags.add_argument("--num", type=int, default=60, help="molecules a row and seed")
    flags.add_argument("--steps", type=int, default=50, help="network calls for a molecule")
    flags.add_argument("--scales", type=float, nargs="+", default=[0, 0.5, 1, 2, 4])
    flags.add_argument("--pictures", type=Path, help="draw one of the first seed into this folder")
    args = flags.parse_args()

    diffusion, extra = anydiff.load(args.folder / "generator" / "model.safetensors")
    atoms, properties = (
        Atoms.from_config(extra["atoms"]),
        Properties.from_config(extra["properties"]),
    )
    targets = PropertyDistribution(extra["sizes"], extra["values"])
    model, judge = train(args, atoms, properties), PropertyModel.load(args.judge)

    figures: dict = defaultdict(list)
    shown: dict[float, tuple[Tensor, Tensor]] = {}
    for seed in args.seeds:
        sizes, asked = targets.sample(args.num, torch.Generator().manual_seed(seed))
        c = properties.encode(asked, sizes)[:, 0]
        space = Ragged.from_sizes(sizes, centered=3)

        def log_prob(x_t: Tensor, t: Tensor, space: Ragged = space, c: Tensor = c) -> Tensor:
            return model.log_prob(x_t, t, space, c)

        for scale in args.scales:
            guided = classifier(diffusion.predictor(space), log_prob, scale)
            x = sample(guided, (len(space.index), atoms.features), steps=args.steps, seed=seed)
            pos, z = atoms.decode(x, space)
            found = torch.as_tensor(judge.predict(pos, z, space.index))
            row = {"MAE": (found - asked).abs().mean().item()}
            if seed == args.seeds[0] and scale in (0, 1, 4):
                shown[scale] = asked[:, 0], found[:, 0]
            figures[scale].append(row | quality(pos, z, space.index))
            print(seed, scale, figures[scale][-1], flush=True)
    names = list(figures[args.scales[0]][0])
    cells = [["scale", *names]]
    for scale, rows in figures.items():
        cells.append([f"{scale:g}"])
        for name in names:
            values = [row[name] for row in rows]
            cells[-1].append(f"{mean(values):.2f} ({min(values):.2f}-{max(values):.2f})")
    print("", aligned(cells), sep="\n")
    if args.pictures:
        picture(args.pictures / "molecules_property.png", shown)


if __name__ == "__main__":
    main()

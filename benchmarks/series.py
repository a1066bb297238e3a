"""Forecasts and imputations of series whose exact answer is known.

    python benchmarks/series.py --seeds 0 1 2 --pictures docs/pictures

A day's course of random size and phase, and an autoregression on top of it,

    x_k = a cos(2 pi k / 24) + b sin(2 pi k / 24) + r_k,   r_k = 0.8 r_(k-1) + 0.6 e_k

with a, b, e standard normal: a Gaussian process, whose forecasts are known in closed form. A network
learns it, unconditionally, from series of 36 to 72 hours with a tenth of the values missing; then it
draws the next day after two, and what is missing where half is, by itself or in blocks. Beside it stand
the exact forecast and two plain ones. All are scored by the CRPS; the 80 % interval should hold 80 %.
"""

import argparse
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from pytorch_lightning import seed_everything
from torch import Tensor

import anydiff
from anydiff import Cosine, GaussianDiffusion, impute, pigdm, sample
from anydiff.data.sequences import Sequences, loader, unpack
from anydiff.denoisers import BiRNN
from anydiff.metrics.tables import aligned
from anydiff.series import coverage, crps, forecast
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

HISTORY, HORIZON, ITEMS, DRAWS = 48, 24, 24, 24


def covariance(length: int) -> Tensor:
    k = torch.arange(length, dtype=torch.float64)
    apart = (k[:, None] - k).abs()
    return torch.cos(2 * torch.pi * apart / 24) + 0.8**apart


def series(num: int, length: int, seed: int) -> Tensor:
    """(num, length) in float32."""
    z = torch.randn(num, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z @ torch.linalg.cholesky(covariance(length)).T).float()


def train(folder: Path, minutes: float, seed: int) -> GaussianDiffusion:
    path = folder / f"{seed}" / "model.safetensors"
    if not path.exists():
        rng = np.random.default_rng(seed)
        whole = series(4000, 72, 1000 + seed).numpy()
        items = [
            np.where(rng.random(n) < 0.1, np.nan, x[:n])
            for x, n in zip(whole, rng.integers(36, 73, len(whole)), strict=True)
        ]
        seed_everything(seed, verbose=False)
        diffusion = GaussianDiffusion(BiRNN(1, 64, 2, observed=True), Cosine(), "v")
        batches = loader(Sequences.from_lists(items), 64, seed=seed)
        fit(
            DiffusionModule(diffusion, unpack, seed=seed, lr=8e-3, optimizer=Muon),
            path.parent, batches, minutes=minutes, ema=0.995, accelerator="cpu",
        )  # fmt: skip
        anydiff.save(path, diffusion)
    return anydiff.load(path)[0]


def exactly(x: Tensor, known: Tensor, seed: int = 0) -> Tensor:
    """Draws from the exact distribution given what is known, (DRAWS, B, N)."""
    generator, K = torch.Generator().manual_seed(seed), covariance(x.shape[1])
    drawn = x.double().expand(DRAWS, *x.shape).clone()
    for item, (row, seen) in enumerate(zip(x.double(), known, strict=True)):
        gain = torch.linalg.solve(K[seen][:, seen], K[seen][:, ~seen]).T
        spread = torch.linalg.cholesky(K[~seen][:, ~seen] - gain @ K[seen][:, ~seen])
        z = torch.randn(DRAWS, int((~seen).sum()), generator=generator, dtype=torch.float64)
        drawn[:, item, ~seen] = gain @ row[seen] + z @ spread.T
    return drawn.float()


def guided(diffusion: GaussianDiffusion, x: Tensor, known: Tensor, seed: int) -> Tensor:
    """The same by guidance: what is known as a measurement."""
    y, seen = (z.repeat(DRAWS, 1)[..., None] for z in (x, known))
    predictor = pigdm(diffusion.predictor(), lambda z: z * seen, y * seen, noise=0.02)
    drawn = sample(predictor, y.shape, steps=30, seed=seed)
    return torch.where(seen, y, drawn)[..., 0].view(DRAWS, *x.shape)


def score(draws: Tensor, truth: Tensor, asked: Tensor) -> tuple[float, float, float]:
    """CRPS, the mean's absolute error and the coverage in %, of what was asked for."""
    return (
        crps(draws, truth)[asked].mean().item(),
        (draws.mean(0) - truth)[asked].abs().mean().item(),
        100 * coverage(draws, truth)[asked].double().mean().item(),
    )


def masks(seed: int = 0) -> dict[str, Tensor]:
    """What is known of ITEMS series of 72 hours, (ITEMS, 72)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (ITEMS, HISTORY + HORIZON)
    day = torch.arange(shape[1]) < HISTORY
    begin = torch.randint(0, shape[1] - 12, (ITEMS, 1), generator=generator)
    hour = torch.arange(shape[1])
    return {
        "the next day": day.expand(shape),
        "half, by itself": torch.rand(shape, generator=generator) < 0.5,
        "twelve hours": (hour < begin) | (hour >= begin + 12),
    }


def rows(diffusion: GaussianDiffusion | None, truth: Tensor, known: Tensor, seed: int) -> dict:
    """Draws by each method."""
    if diffusion is None:
        k, apart = covariance(72)[0], torch.arange(72)
        pool = series(DRAWS, 72, 77)
        day_before = truth.roll(24, 1)  # and the error that this makes, at its true size
        noise = (2 * (k[0] - k[24])).sqrt().float() * torch.randn(DRAWS, *truth.shape)
        made = {
            "exact": exactly(truth, known),
            "any series": pool[:, None].expand(DRAWS, *truth.shape),
        }
        if known[0].equal(apart < HISTORY):
            made["the day before"] = day_before + noise
        return made
    x = torch.where(known, truth, torch.nan)[..., None]
    ahead = bool((known == (torch.arange(72) < HISTORY)).all())

    def drawn(resamples: int) -> Tensor:
        options = {"resamples": resamples, "steps": 30, "seed": seed}
        if ahead:
            after = forecast(diffusion.predictor, x[:, :HISTORY], HORIZON, DRAWS, **options)[..., 0]
            before = truth[:, :HISTORY].expand(DRAWS, ITEMS, HISTORY)
            return torch.cat([before, after], 2)
        return impute(diffusion.predictor(), x, DRAWS, **options)[..., 0]

    made = {f"resamples {r}": partial(drawn, r) for r in (1, 5)}
    made["pigdm"] = lambda: guided(diffusion, truth, known, seed)
    return {name: draw() for name, draw in made.items()}


def picture(folder: Path, truth: Tensor, known: Tensor, ours: Tensor, exact: Tensor) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    hours, edges = torch.arange(72), torch.tensor([0.1, 0.9])
    for k, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        ahead = hours >= HISTORY - 1
        low, high = ours[:, k].quantile(edges, dim=0)
        axes.fill_between(hours[ahead], low[ahead], high[ahead], color="#9ecae1", linewidth=0,
                          label="80 % of the draws")  # fmt: skip
        for draw in ours[:4, k]:
            axes.plot(hours[ahead], draw[ahead], color="#4292c6", linewidth=0.6)
        for edge in exact[:, k].quantile(edges, dim=0):
            axes.plot(hours[ahead], edge[ahead], color="black", linewidth=0.8, linestyle=":",
                      label="the exact 80 %")  # fmt: skip
        axes.plot(hours[ahead], truth[k][ahead], color="#d94801", linewidth=1.2, label="what came")
        axes.plot(hours[:HISTORY], truth[k][:HISTORY], color="black", linewidth=1.2)
        axes.set(xlabel="hour", xticks=range(0, 73, 24))
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside upper center", ncols=3, frameon=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "series_forecast.png", dpi=130)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the networks")
    flags.add_argument("--minutes", type=float, default=2, help="of training, each")
    flags.add_argument("--folder", type=Path, default=Path("runs/series"), help="for the models")
    flags.add_argument("--pictures", type=Path, help="draw them into this folder")
    args = flags.parse_args()

    models = {seed: train(args.folder, args.minutes, seed) for seed in args.seeds}
    truth = series(ITEMS, HISTORY + HORIZON, 5)
    torch.manual_seed(0)
    cells = [["asked for", "by", "CRPS", "mean's error", "in the 80 %"]]
    for what, known in masks().items():
        scores: dict[str, list] = {}
        for seed, diffusion in [(None, None), *models.items()]:
            made = rows(diffusion, truth, known, seed or 0)
            for name, draws in made.items():
                scores.setdefault(name, []).append(score(draws, truth, ~known))
            if args.pictures and what == "the next day" and seed == args.seeds[0]:
                picture(args.pictures, truth, known, made["resamples 5"], exactly(truth, known))
        for name, values in scores.items():
            columns = list(zip(*values, strict=True))
            texts = [
                f"{mean(c):.3f}" + (f" ({min(c):.3f}-{max(c):.3f})" if len(c) > 1 else "")
                for c in columns[:2]
            ]
            texts.append(f"{mean(columns[2]):.0f} %")
            cells.append([what, name, *texts])
        print(aligned(cells), flush=True)


if __name__ == "__main__":
    main()

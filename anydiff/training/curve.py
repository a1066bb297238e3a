"""A plot of the training curve, from the logs of a run."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from statistics import fmean

from anydiff.extras import extra
from anydiff.files import whole

__all__ = ["plot_curve"]


def plot_curve(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Plot the losses logged under ``folder/logs``, including those of earlier parts of a resumed run.

    Arguments:
        folder: The folder of the run.
        path: The file to write; its suffix gives the format: ``.png``, ``.pdf`` or ``.svg``.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If no loss was logged.
    """
    with extra("train"):
        from matplotlib.figure import Figure

    points: dict[str, dict[int, float]] = {"loss": {}, "val_loss": {}}
    logs = sorted(Path(folder).glob("logs/version_*/metrics.csv"), key=lambda p: p.stat().st_mtime)
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, curve in points.items():
                    if row.get(name):
                        curve[int(row["step"])] = float(row[name])
    if not points["loss"]:
        raise ValueError(
            f"{folder} has no losses in logs/version_*/metrics.csv; train first, 20 steps."
        )

    steps, losses = zip(*sorted(points["loss"].items()), strict=True)
    window = max(1, len(losses) // 50)
    smooth = [fmean(losses[max(0, k - window) : k + 1]) for k in range(len(losses))]

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="single batches")
    axes.plot(steps, smooth, color="#08519c", label="running mean")
    if points["val_loss"]:
        axes.plot(*zip(*sorted(points["val_loss"].items()), strict=True), "o-", color="#d94801",
                  markersize=3, label="validation, averaged weights")  # fmt: skip
    axes.set_ylim(0, 1.25 * max(smooth[len(smooth) // 20 :]))
    axes.set(xlabel="training step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with whole(path, Path(path).suffix) as temporary:
        figure.savefig(temporary, dpi=160)

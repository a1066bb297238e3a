"""From noise to data."""

from anydiff.samplers.adaptive import AdaptiveODE, AdaptiveSDE
from anydiff.samplers.ancestral import DDIM, DDPM
from anydiff.samplers.grids import Grid, KarrasGrid, LogSNR, Quadratic, Uniform
from anydiff.samplers.langevin import AnnealedLangevin, Langevin, PredictorCorrector
from anydiff.samplers.loop import Seed, blank, generators, sample
from anydiff.samplers.multistep import AdamsBashforth, DPMSolver, UniPC
from anydiff.samplers.ode import EDM, Euler, Heun
from anydiff.samplers.optimal import OptimalVariance
from anydiff.samplers.sampler import (
    Interval,
    Progress,
    Sampler,
    Steps,
    evaluating,
    follow,
    plan,
)
from anydiff.samplers.sde import EulerMaruyama

__all__ = [
    "DDIM",
    "DDPM",
    "EDM",
    "AdamsBashforth",
    "AdaptiveODE",
    "AdaptiveSDE",
    "AnnealedLangevin",
    "DPMSolver",
    "Euler",
    "EulerMaruyama",
    "Grid",
    "Heun",
    "Interval",
    "KarrasGrid",
    "Langevin",
    "LogSNR",
    "OptimalVariance",
    "PredictorCorrector",
    "Progress",
    "Quadratic",
    "Sampler",
    "Seed",
    "Steps",
    "UniPC",
    "Uniform",
    "blank",
    "evaluating",
    "follow",
    "generators",
    "plan",
    "sample",
]

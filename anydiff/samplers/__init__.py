"""From noise to data."""

from anydiff.samplers.adaptive import AdaptiveODE, AdaptiveSDE
from anydiff.samplers.ancestral import DDIM, DDPM
from anydiff.samplers.base import (
    Interval,
    Progress,
    Sampler,
    Steps,
    evaluating,
    follow,
    plan,
)
from anydiff.samplers.grids import Grid, KarrasGrid, LogSNR, Quadratic, Uniform
from anydiff.samplers.langevin import AnnealedLangevin, Langevin, PredictorCorrector
from anydiff.samplers.multistep import AdamsBashforth, DPMSolver, UniPC
from anydiff.samplers.ode import EDM, Euler, Heun
from anydiff.samplers.runs import Seed, blank, generators, sample
from anydiff.samplers.sde import EulerMaruyama
from anydiff.samplers.variance import OptimalVariance

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

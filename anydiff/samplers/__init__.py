"""From noise to data."""

from anydiff.samplers.ancestral import DDIM, DDPM
from anydiff.samplers.base import Interval, Progress, Sampler, Steps, generators, plan, sample
from anydiff.samplers.grids import Grid, KarrasGrid, LogSNR, Quadratic, Uniform
from anydiff.samplers.multistep import DPMSolver

__all__ = [
    "DDIM",
    "DDPM",
    "DPMSolver",
    "Grid",
    "Interval",
    "KarrasGrid",
    "LogSNR",
    "Progress",
    "Quadratic",
    "Sampler",
    "Steps",
    "Uniform",
    "generators",
    "plan",
    "sample",
]

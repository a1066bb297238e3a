"""Samplers: numerical methods that generate data from noise."""

from anydiff.samplers.adaptive import AdaptiveODE, AdaptiveSDE
from anydiff.samplers.ancestral import DDIM, DDPM, Renoise
from anydiff.samplers.drawn import DrawnContext
from anydiff.samplers.grids import Grid, KarrasGrid, LogSNR, Quadratic, Uniform, Variances
from anydiff.samplers.langevin import AnnealedLangevin, PredictorCorrector
from anydiff.samplers.loop import Callback, Progress, Steps, follow, plan, sample
from anydiff.samplers.multistep import AdamsBashforth, DPMSolver, UniPC
from anydiff.samplers.ode import Euler, Heun
from anydiff.samplers.optimal import OptimalVariance
from anydiff.samplers.sampler import Past, Sampler, Stepped
from anydiff.samplers.sde import EulerMaruyama

__all__ = [
    "DDIM", "DDPM", "AdamsBashforth", "AdaptiveODE", "AdaptiveSDE", "AnnealedLangevin", "Callback",
    "DPMSolver", "DrawnContext", "Euler", "EulerMaruyama", "Grid", "Heun", "KarrasGrid", "LogSNR",
    "OptimalVariance", "Past", "PredictorCorrector", "Progress", "Quadratic", "Renoise", "Sampler",
    "Stepped", "Steps", "UniPC", "Uniform", "Variances", "follow", "plan", "sample",
]  # fmt: skip

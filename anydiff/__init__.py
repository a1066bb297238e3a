"""anydiff: Gaussian diffusion for any kind of data."""

from anydiff.checkpoints import load, save
from anydiff.diffusion import GaussianDiffusion
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers import DDIM, DDPM, DPMSolver, KarrasGrid, LogSNR, Quadratic, Uniform, sample
from anydiff.schedules import VE, Cosine, Flow, Karras, Linear, Polynomial, Tabulated
from anydiff.spaces import Dense, Masked, Ragged

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "VE",
    "Cosine",
    "DPMSolver",
    "Dense",
    "Flow",
    "GaussianDiffusion",
    "Karras",
    "KarrasGrid",
    "Linear",
    "LogSNR",
    "Masked",
    "Polynomial",
    "Prediction",
    "Predictor",
    "Quadratic",
    "Ragged",
    "Tabulated",
    "Uniform",
    "load",
    "sample",
    "save",
]

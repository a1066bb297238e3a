"""anydiff: Gaussian diffusion for any kind of data."""

from anydiff.checkpoints import load, save
from anydiff.diffusion import GaussianDiffusion
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers import DDIM, DDPM, sample
from anydiff.schedules import Cosine, Linear, Polynomial, Tabulated
from anydiff.spaces import Dense, Masked, Ragged

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "Cosine",
    "Dense",
    "GaussianDiffusion",
    "Linear",
    "Masked",
    "Polynomial",
    "Prediction",
    "Predictor",
    "Ragged",
    "Tabulated",
    "load",
    "sample",
    "save",
]

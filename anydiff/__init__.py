"""anydiff: Gaussian diffusion for any kind of data."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# of the command, not of the library
if (
    os.path.basename(sys.argv[0]) in ("anydiff", "anydiff.exe", "-m")
    and "OMP_WAIT_POLICY" not in os.environ
):
    # threads that wait for the next operation spin, and take the cores from whatever else runs; here they
    # fall asleep soon, but not between two small operations, since waking them takes longer than these.
    # torch reads this when it is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import edit, impute, inpaint, interpolate
from anydiff.guidance import autoguidance, classifier, classifier_free, clip_guidance, dps, pigdm
from anydiff.likelihood import bits_per_dim, continuous_bound, log_prob, variational_bound
from anydiff.losses import LogitNormal, LogNormal, MinSNR
from anydiff.predictions import Preconditioned, Prediction, Predictor
from anydiff.samplers import (
    DDIM,
    DDPM,
    AdaptiveODE,
    AdaptiveSDE,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Renoise,
    Sampler,
    UniPC,
    sample,
)  # fmt: skip
from anydiff.schedules import VE, Cosine, Flow, Karras, Linear, Polynomial, Tabulated
from anydiff.spaces import Dense, Masked, Packed, Ragged

if TYPE_CHECKING:
    from anydiff.checkpoints import load, save
    from anydiff.ready import pretrained

__version__ = "0.2.0"

__all__ = [
    "DDIM", "DDPM", "VE", "AdaptiveODE", "AdaptiveSDE", "Cosine", "DPMSolver", "Dense", "Euler",
    "EulerMaruyama", "Flow", "GaussianDiffusion", "Heun", "Karras", "Linear", "LogNormal",
    "LogitNormal", "Masked", "MinSNR", "Packed", "Polynomial", "Preconditioned", "Prediction",
    "Predictor", "Ragged", "Renoise", "Sampler", "Tabulated", "UniPC", "autoguidance",
    "bits_per_dim", "classifier", "classifier_free", "clip_guidance", "continuous_bound", "dps",
    "edit", "impute", "inpaint", "interpolate", "load", "log_prob", "pigdm", "pretrained", "sample",
    "save", "variational_bound",
]  # fmt: skip

# files need every network that there is; these modules are imported when one is read or written
_LATER = {
    "load": "anydiff.checkpoints",
    "save": "anydiff.checkpoints",
    "pretrained": "anydiff.ready",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'anydiff' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

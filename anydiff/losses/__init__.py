"""The training objective: errors, weightings, distributions of times, and dropout of conditions."""

from anydiff.losses.errors import Hybrid, SquaredError
from anydiff.losses.few_steps import Rows
from anydiff.losses.pairwise import PairDistances
from anydiff.losses.times import (
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    Mapped,
    Power,
    SoftTruncation,
    Times,
    UniformLogSNR,
)
from anydiff.losses.weightings import (
    P2,
    KarrasWeighting,
    LearnedUncertainty,
    Likelihood,
    MinSNR,
    Plain,
    PseudoHuber,
    Sigmoid,
    TruncatedSNR,
    Unit,
    Weighting,
)

__all__ = [
    "P2", "Hybrid", "KarrasWeighting", "LearnedUncertainty", "Likelihood", "LogNormal",
    "LogitNormal", "LossSecondMoment", "Mapped", "MinSNR", "PairDistances", "Plain", "Power",
    "PseudoHuber", "Rows",
    "Sigmoid", "SoftTruncation", "SquaredError", "Times", "TruncatedSNR", "UniformLogSNR", "Unit",
    "Weighting",
]  # fmt: skip

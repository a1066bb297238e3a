"""Noise schedules: how much data and how much noise x_t holds, t -> (alpha, sigma)."""

from anydiff.schedules.changed import Shifted, ZeroTerminalSNR
from anydiff.schedules.formulas import (
    VE,
    Cosine,
    Flow,
    Geometric,
    Karras,
    Polynomial,
    SigmoidAlphaBar,
)
from anydiff.schedules.learned import Learned
from anydiff.schedules.rates import Linear, ScaledLinear, SigmoidBeta, SubVP
from anydiff.schedules.schedule import Level, Schedule, VariancePreserving
from anydiff.schedules.tabulated import Tabulated

__all__ = [
    "VE", "Cosine", "Flow", "Geometric", "Karras", "Learned", "Level", "Linear", "Polynomial",
    "ScaledLinear", "Schedule", "Shifted", "SigmoidAlphaBar", "SigmoidBeta", "SubVP", "Tabulated",
    "VariancePreserving", "ZeroTerminalSNR",
]  # fmt: skip

"""How much data and how much noise: t -> (alpha, sigma)."""

from anydiff.schedules.base import Level, Schedule, VariancePreserving
from anydiff.schedules.formulas import VE, Cosine, Flow, Karras, Linear, Polynomial
from anydiff.schedules.tables import Tabulated

__all__ = [
    "VE",
    "Cosine",
    "Flow",
    "Karras",
    "Level",
    "Linear",
    "Polynomial",
    "Schedule",
    "Tabulated",
    "VariancePreserving",
]

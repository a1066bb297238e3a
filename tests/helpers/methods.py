"""The deterministic samplers, the orders that they declare, and their sources."""

from typing import NamedTuple

import pytest

from anydiff import DDIM, DPMSolver
from anydiff.samplers import AdamsBashforth, Euler, Heun, Sampler, UniPC


class Method(NamedTuple):
    """A sampler, the order that it declares, that of a run with its own first steps, and its source."""

    sampler: Sampler
    order: int
    cold: int
    source: str


METHODS = [
    Method(DDIM(), 1, 1, "Song et al., 2021"),
    Method(Euler(), 1, 1, "Lipman et al., 2023"),
    Method(Heun(), 2, 2, "Karras et al., 2022"),
    Method(DPMSolver(), 2, 2, "Lu et al., 2022"),
    Method(DPMSolver(3), 3, 2, "Lu et al., 2022"),
    Method(UniPC(), 3, 3, "Zhao et al., 2023"),
    Method(UniPC(2, "bh1"), 3, 3, "Zhao et al., 2023"),
    Method(UniPC(3), 4, 3, "Zhao et al., 2023"),
    Method(AdamsBashforth(), 2, 2, "Zhang & Chen, 2023"),
    Method(AdamsBashforth(3), 3, 2, "Zhang & Chen, 2023"),
    Method(AdamsBashforth(4), 4, 2, "Zhang & Chen, 2023"),
]
SAMPLERS = [method.sampler for method in METHODS]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)

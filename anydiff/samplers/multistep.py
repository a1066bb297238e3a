r"""Multistep solvers of the probability-flow ODE: one network call a step, and the ones before.

All integrate, from :math:`\lambda_t` to :math:`\lambda_s`, with :math:`\lambda = \log(\alpha/\sigma)`,

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} x_t
        + \sigma_s \int_{\lambda_t}^{\lambda_s} e^\lambda\, \hat x_0(\lambda)\, d\lambda

or the same in eps; they differ in how they continue what the network said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, expm1, log, sqrt

from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.base import Interval, Sampler, falling
from anydiff.samplers.grids import LogSNR
from anydiff.schedules import Level
from anydiff.spaces import Generators

__all__ = ["DPMSolver"]


@dataclass(frozen=True)
class DPMSolver(Sampler):
    r"""DPM-Solver++, multistep: 2M, 3M, and their SDE forms.

    With :math:`h = \lambda_s - \lambda_t` and differences of the last predictions,

    .. math::
        D = \hat x_0 + \frac{h}{2} \Delta_1 + \dots, \qquad
        x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s \bigl(1 - e^{-(1 + \eta) h}\bigr) D
            + \sigma_s \sqrt{1 - e^{-2 \eta h}}\, z

    Arguments:
        order: 1, which is DDIM, 2 or 3. The first steps and the last are of a lower one.
        eta: 0 is the ODE, 1 the reverse SDE.

    References:
        DPM-Solver++ (Lu et al., 2022), algorithm 2 and appendix. https://arxiv.org/abs/2211.01095
    """

    order: int = 2  # type: ignore[assignment]
    eta: float = 0.0
    grid = LogSNR()

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order is {self.order}; choose 1, 2 or 3.")
        if not self.eta >= 0:
            raise ValueError(f"eta is {self.eta}; give 0 (the ODE), 1 (the SDE) or between.")

    def check(self, knots: Sequence[Level]) -> None:
        if self.eta > 0:
            falling(self, knots)

    @property
    def past(self) -> int:
        return self.order - 1

    def step(
        self,
        predictor: Predictor,
        x_t: Tensor,
        at: Interval,
        past: tuple[Prediction, ...] = (),
        generator: Generators = None,
    ) -> tuple[Tensor, Prediction]:
        t, s = at.t, at.s
        p = predictor.predict(x_t, t)
        # the last step lands on the data, where lambda is infinite, as the first may begin at -inf
        past = () if s.sigma == 0 else tuple(q for q in past if q.alpha > 0)

        h = (s.logsnr - t.logsnr) / 2
        weights, before = _differences(p, past, (1 + self.eta) * h, h)
        keep = s.sigma / t.sigma * (exp(-self.eta * h) if self.eta else 1.0)
        x_s = keep * x_t if keep else x_t * 0
        for weight, q in zip(weights, (p, *before), strict=True):
            x_s.add_(q.x0, alpha=s.alpha * weight)
        if self.eta > 0 and s.sigma > 0:
            nu = s.sigma * sqrt(-expm1(-2 * self.eta * h))
            x_s.add_(predictor.space.noise(x_t, generator), alpha=nu)
        return x_s, p


def _differences(
    p: Prediction, past: tuple[Prediction, ...], h: float, step: float
) -> tuple[list[float], list[Prediction]]:
    r"""The weights of x0 here and before in :math:`(1 - e^{-h}) D`, and who they belong to."""
    phi1 = -expm1(-h)
    if not past:
        return [phi1], []
    last = past[-1]
    r0 = (lam(p) - lam(last)) / step
    if len(past) == 1:  # 2M
        return [phi1 * (1 + 0.5 / r0), -phi1 * 0.5 / r0], [last]
    # 3M: the first and second difference quotients, in units of the step
    r1 = (lam(last) - lam(past[-2])) / step
    phi2 = 1 - phi1 / h
    phi3 = phi2 / h - 0.5
    near, far = phi2 + (phi2 * r0 - phi3) / (r0 + r1), -(phi2 * r0 - phi3) / (r0 + r1)
    return [phi1 + near / r0, -near / r0 + far / r1, -far / r1], [last, past[-2]]


def lam(p: Prediction) -> float:
    """Half the log-SNR that a prediction was made at."""
    return log(p.alpha) - log(p.sigma)

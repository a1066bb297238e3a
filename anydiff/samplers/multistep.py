r"""Multistep solvers of the probability-flow ODE: one network call per step, and earlier predictions.

They use two forms of the same ODE. In :math:`\lambda = \log(\alpha / \sigma)`, the predicted x0 is
integrated with an exponential weight; in :math:`\bar\sigma = \sigma / \alpha`, the predicted eps is
integrated directly:

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} x_t
        + \sigma_s \int_{\lambda_t}^{\lambda_s} e^\lambda\, \hat x_0(\lambda)\, d\lambda, \qquad
    \frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t}
        + \int_{\bar\sigma_t}^{\bar\sigma_s} \hat\epsilon(\bar\sigma)\, d\bar\sigma

All solvers here interpolate the predictions at the last few levels by a polynomial in z, where z = 0 at t
and z = 1 at s. Its weights are Python floats. A method of order p needs p levels, so that the first steps
have a lower order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, expm1, factorial, inf, log, sqrt

from torch import Tensor

from anydiff.checks import frozen
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.grids import LogSNR
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["AdamsBashforth", "DPMSolver", "UniPC"]


@frozen(order=(1, 2, 3), eta="[0, inf)")  # type: ignore[literal-required]
class DPMSolver(Sampler):
    r"""DPM-Solver++, multistep: 2M, 3M, and their SDE variants.

    With :math:`h = \lambda_s - \lambda_t` and D, the mean over the step of the polynomial that
    interpolates the last predictions of x0,

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s \bigl(1 - e^{-(1 + \eta) h}\bigr) D
            + \sigma_s \sqrt{1 - e^{-2 \eta h}}\, z

    The mean is weighted with :math:`e^{-(1 + \eta)(1 - z) h}`; for order 2 it is the value at the
    midpoint, :math:`z = 1/2`, as published.

    Arguments:
        order: 1, which is DDIM, 2 or 3. The first steps and the last have a lower order. Order 3 uses
            the exact integral; the published 3M has half of its quadratic term, so that its order is 2.
        eta: 0 is the ODE, 1 the reverse SDE.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        DPM-Solver++ (Lu et al., 2022), algorithm 2 and appendix. https://arxiv.org/abs/2211.01095
    """

    order: int = 2
    eta: float = 0.0
    grid = LogSNR()

    def prepare(self, levels: Levels) -> Levels:
        return falling(self, levels) if self.eta > 0 else levels

    @property
    def convergence(self) -> float:
        return min(self.order, 2) if self.eta else self.order

    @property
    def past(self) -> int:
        return self.order - 1

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)
        if _meets_an_end(t, s):
            return p.at(s.alpha, s.sigma), p

        p = _as_x0(p) if self.past else p
        x_s = _follow(p, s, _latest_first(past), self.eta)
        if self.eta > 0:
            nu = s.sigma * sqrt(-expm1(-2 * self.eta * (lam(s) - lam(t))))
            x_s = x_s.add(predictor.space.noise(x_t, generator), alpha=nu)
        return x_s, p


@frozen(order=(2, 3), variant=("bh1", "bh2"))  # type: ignore[literal-required]
class UniPC(Sampler):
    r"""UniPC in x0: each network output first corrects its own state, then predicts the next one.

    The corrector UniC repeats the step that led to x_t, with a polynomial that also interpolates the new
    output; the predictor UniP continues from the corrected state. The prediction that a step returns
    holds the corrected state, with the x0 that was predicted at the uncorrected one.

    Arguments:
        order: p of UniPC-p, the order of the predictor, 2 or 3. The corrector raises it by one, so that
            the error falls like steps ** -(p + 1). The first steps and the last have a lower order.
        variant: ``"bh2"`` uses :math:`B(h) = e^h - 1`, ``"bh1"`` :math:`B(h) = h`. The two differ only
            in steps with two levels, where :math:`B / 2` replaces the integral of the linear term.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        UniPC (Zhao et al., 2023), algorithms 5 to 8. https://arxiv.org/abs/2302.04867
    """

    order: int = 2
    variant: str = "bh2"
    grid = LogSNR()

    @property
    def convergence(self) -> float:
        return self.order + 1  # the corrector's

    @property
    def past(self) -> int:
        return self.order

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)
        if t.sigma == 0 or t.alpha == 0:
            return p.at(s.alpha, s.sigma), p

        p, before = _as_x0(p), _latest_first(past)
        if before:
            last, *earlier = before
            corrected = _follow(last, t, (*earlier, p), variant=self.variant)
            p = replace(p, x_t=corrected)

        if _meets_an_end(t, s):
            return p.at(s.alpha, s.sigma), p
        return _follow(p, s, before[: self.order - 1], variant=self.variant), p


@frozen(order=(1, 2, 3, 4))  # type: ignore[literal-required]
class AdamsBashforth(Sampler):
    r"""The Adams–Bashforth method for :math:`d(x / \alpha) = \hat\epsilon\, d(\sigma / \alpha)`.

    .. math::
        \frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t}
            + \sum_j \hat\epsilon_j \int_{\bar\sigma_t}^{\bar\sigma_s} \ell_j(\bar\sigma)\, d\bar\sigma,
        \qquad \ell_j(\bar\sigma) = \prod_{k \ne j}
            \frac{\bar\sigma - \bar\sigma_k}{\bar\sigma_j - \bar\sigma_k}

    for levels at arbitrary distances. It is called LMS in k-diffusion, :math:`\rho`\ AB in DEIS, and,
    with the weights of equal distances, PLMS.

    Arguments:
        order: 1, which is DDIM, to 4. The first steps have a lower order.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Fast Sampling of Diffusion Models with Exponential Integrator (Zhang & Chen, 2023), section 3.
        https://arxiv.org/abs/2204.13902
        Pseudo Numerical Methods for Diffusion Models on Manifolds (Liu et al., 2022).
        https://arxiv.org/abs/2202.09778
    """

    order: int = 2
    grid = LogSNR()

    @property
    def convergence(self) -> float:
        return self.order

    @property
    def past(self) -> int:
        return self.order - 1

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)
        if t.alpha == 0 or s.alpha == 0:
            return p.at(s.alpha, s.sigma), p

        p = replace(p, y=p.at(0.0, 1.0), a=0.0, b=1.0) if self.past else p
        before = [q for q in reversed(past) if q.alpha > 0]
        here, gap = t.noise_to_signal, s.noise_to_signal - t.noise_to_signal
        nodes = [0.0, *((q.sigma / q.alpha - here) / gap for q in before)]
        first, *rest = _lagrange(nodes, [1 / (k + 1) for k in range(len(nodes))])
        x_s = p.at(s.alpha, s.alpha * (here + gap * first))
        for weight, q in zip(rest, before, strict=True):
            x_s = x_s.add(q.at(0.0, 1.0), alpha=s.alpha * gap * weight)
        return x_s, p


def lam(at: Level | Prediction) -> float:
    """Half the log-SNR of a level of floats, or of a prediction there; infinite at the ends."""
    if at.alpha == 0 or at.sigma == 0:
        return -inf if at.alpha == 0 else inf
    return log(at.alpha) - log(at.sigma)


def _meets_an_end(t: Level, s: Level) -> bool:
    """Whether a step goes to a level of infinite lambda, or starts at the data: it is then a DDIM step.

    The formula of a step that starts at pure noise becomes DDIM's by itself.
    """
    return 0 in (s.sigma, s.alpha, t.sigma)


def _latest_first(past: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
    """The previous predictions, latest first, without those at an end, where lambda is infinite."""
    return tuple(q for q in reversed(past) if q.alpha > 0 and q.sigma > 0)


def _as_x0(p: Prediction) -> Prediction:
    """The same prediction in terms of x0, computed once; the network's output need not be kept."""
    return replace(p, y=p.at(1.0, 0.0), a=1.0, b=0.0)


def _follow(
    p: Prediction, s: Level | Prediction, others: Past, eta: float = 0.0, variant: str = "bh2"
) -> Tensor:
    """Step from the level of p to s along the polynomial that interpolates x0 of p and of the others."""
    h = lam(s) - lam(p)
    nodes = [0.0, *((lam(q) - lam(p)) / h for q in others)]
    moments = _moments((1 + eta) * h, len(nodes))
    if len(nodes) == 2:
        moments[1] = (h if variant == "bh1" else moments[0]) / 2
    first, *rest = _lagrange(nodes, moments)

    keep = s.sigma / p.sigma * (exp(-eta * h) if eta else 1.0)
    x_s = p.at(keep * p.alpha + s.alpha * first, keep * p.sigma)
    for weight, q in zip(rest, others, strict=True):
        x_s = x_s.add(q.at(1.0, 0.0), alpha=s.alpha * weight)
    return x_s


def _moments(h: float, n: int) -> list[float]:
    r""":math:`\int_0^1 h\, e^{-h (1 - z)} z^k\, dz` for k < n."""
    if abs(h) < 1:  # where the recurrence suffers from cancellation
        return [
            h * factorial(k) * sum((-h) ** j / factorial(k + j + 1) for j in range(18))
            for k in range(n)
        ]
    moments = [-expm1(-h)]
    for k in range(1, n):
        moments.append(1 - k / h * moments[-1])
    return moments


def _lagrange(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The quadrature weights of the values at the nodes, from the moments of z ** k."""
    weights = []
    for j, here in enumerate(nodes):
        basis = [1.0]  # coefficients of the polynomial that is 1 here and 0 at the other nodes
        for k, node in enumerate(nodes):
            if k != j:
                shifted, scaled = [0.0, *basis], [*(node * c for c in basis), 0.0]
                basis = [(a - b) / (here - node) for a, b in zip(shifted, scaled, strict=True)]
        weights.append(sum(c * m for c, m in zip(basis, moments, strict=True)))
    return weights

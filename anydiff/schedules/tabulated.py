r"""Schedules that are defined by a table of discrete steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anydiff.checks import check_range, check_whole, real, shown
from anydiff.schedules.schedule import VariancePreserving

__all__ = ["Tabulated"]


@dataclass(frozen=True, eq=False, repr=False)
class Tabulated(VariancePreserving):
    r"""A discrete chain of T steps, given by a table: row k is the time t = k / T.

    Row 0 is the data, :math:`\bar\alpha_0 = 1`. Between the rows :math:`\log \bar\alpha` is linear:
    the diffusion from one row to the next has a constant rate. Ancestral sampling of the whole chain
    takes ``steps=T``; fewer steps respace it.

    Arguments:
        alpha_bar: :math:`\bar\alpha_1 \dots \bar\alpha_T`, (T,), falling, in (0, 1).

    Raises:
        ValueError: If the values do not fall, or do not lie in (0, 1).
    """

    alpha_bar: Tensor
    _log_rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        table = real("(T,) that falls within (0, 1)", alpha_bar=self.alpha_bar).detach().clone()
        rows = torch.cat([table.new_ones(1), table.flatten()])
        if table.ndim != 1 or not len(table) or not (rows.diff() < 0).all() or not rows[-1] > 0:
            raise ValueError(
                f"alpha_bar is {shown(self.alpha_bar)}; give (T,) that falls within (0, 1)."
            )
        object.__setattr__(self, "alpha_bar", table)
        object.__setattr__(self, "_log_rows", rows.log())

    def __repr__(self) -> str:
        return f"Tabulated({len(self.alpha_bar)} steps to alpha_bar = {self.alpha_bar[-1]:.3g})"

    @property
    def first(self) -> float:  # type: ignore[override]
        """The time of row 1: no network of a chain knows an earlier one."""
        return 1 / len(self.alpha_bar)

    @classmethod
    def linear(cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tabulated:
        """Ho et al.'s table: rates that rise linearly.

        Both rates are given for a table of 1000 steps. For another number of steps they are scaled by
        1000 / steps, so that every chain ends at nearly the same noise.

        Arguments:
            steps: The number of steps T.
            beta_min: The first rate, of a table of 1000 steps.
            beta_max: The last rate, of a table of 1000 steps.

        Raises:
            ValueError: If the scaled rates do not rise, or do not lie in (0, 1).

        References:
            Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 4.
            https://arxiv.org/abs/2006.11239
        """
        low, high = _scaled(steps, beta_min, beta_max, "Linear")
        return cls.from_betas(torch.linspace(low, high, steps, dtype=torch.float64))

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, beta_min: float = 0.00085, beta_max: float = 0.012
    ) -> Tabulated:
        """Stable Diffusion's table: rates whose square roots rise linearly, scaled as in :meth:`linear`.

        Arguments:
            steps: The number of steps T.
            beta_min: The first rate, of a table of 1000 steps.
            beta_max: The last rate, of a table of 1000 steps.

        Raises:
            ValueError: If the scaled rates do not rise, or do not lie in (0, 1).

        References:
            High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), whose
            code has the table. https://arxiv.org/abs/2112.10752
        """
        low, high = _scaled(steps, beta_min, beta_max, "ScaledLinear")
        return cls.from_betas(torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64) ** 2)

    @classmethod
    def sigmoid(
        cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02, limit: float = 6.0
    ) -> Tabulated:
        """GeoDiff's table: rates that rise as a sigmoid, scaled as in :meth:`linear`.

        It differs from the schedule of Jabri et al., whose :math:`\\bar\\alpha` is a sigmoid:
        :class:`~anydiff.schedules.SigmoidAlphaBar`.

        Arguments:
            steps: The number of steps T.
            beta_min: The lower end of the rates, of a table of 1000 steps.
            beta_max: The upper end of the rates, of a table of 1000 steps.
            limit: The sigmoid is taken from -limit to limit.

        Raises:
            ValueError: If the scaled rates do not rise, or do not lie in (0, 1), or the limit is not
                above 0.

        References:
            GeoDiff: a Geometric Diffusion Model for Molecular Conformation Generation (Xu et al.,
            2022), whose code has the table. https://arxiv.org/abs/2203.02923
        """
        low, high = _scaled(steps, beta_min, beta_max, "SigmoidBeta")
        check_range("(0, inf)", limit=limit)
        rise = torch.linspace(-limit, limit, steps, dtype=torch.float64).sigmoid()
        return cls.from_betas(low + (high - low) * rise)

    @classmethod
    def cosine(
        cls, steps: int = 1000, offset: float = 0.008, beta_limit: float = 0.999
    ) -> Tabulated:
        r"""Nichol & Dhariwal's table, whose :math:`\bar\alpha` is a squared cosine.

        .. math:: \bar\alpha_t = f(t) / f(0), \qquad
            f(t) = \cos^2\Bigl(\frac{t + s}{1 + s} \cdot \frac{\pi}{2}\Bigr)

        The last rate would be 1, which leads to pure noise; the rates are clipped at `beta_limit`.

        Arguments:
            steps: The number of steps T; any number works.
            offset: s, which keeps the first rates from vanishing.
            beta_limit: The largest rate, which clips the last steps.

        Raises:
            ValueError: If an argument lies outside its range, or if the resulting table does not fall
                within (0, 1).

        References:
            Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 17.
            https://arxiv.org/abs/2102.09672
        """
        check_whole("[1, inf)", steps=steps)
        check_range("(-1, inf)", offset=offset)
        check_range("(0, 1)", beta_limit=beta_limit)
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        level = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
        return cls.from_betas((1 - level[1:] / level[:-1]).clamp(max=beta_limit))

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> Tabulated:
        """The chain with the rates :math:`\\beta_1 \\dots \\beta_T`, (T,).

        Arguments:
            betas: The rates, in (0, 1).

        Raises:
            ValueError: If a rate does not lie in (0, 1).
        """
        rates = real("rates (T,) in (0, 1)", betas=betas)
        if rates.ndim != 1 or not len(rates) or not ((rates > 0) & (rates < 1)).all():
            raise ValueError(f"betas are {shown(betas)}; give rates (T,) in (0, 1).")
        return cls(torch.cumprod(1 - rates, 0))

    def _logsnr(self, t: Tensor) -> Tensor:
        row, following, share = self._between(t)
        log_alpha2 = torch.lerp(row, following, share)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        row, following, _ = self._between(t)
        return self._losing(t, (row - following) * len(self.alpha_bar))

    def _between(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows before and after the times, and how far these are from the one to the other."""
        rows = self._log_rows.to(t.device)
        position = t * len(self.alpha_bar)
        k = position.floor().clamp(0, len(self.alpha_bar) - 1).long()
        before, after = (rows.index_select(0, n.flatten()).view_as(n) for n in (k, k + 1))
        return before, after, position - k

    def _time(self, logsnr: Tensor) -> Tensor:
        rows = self._log_rows.to(logsnr.device)
        log_alpha2 = torch.nn.functional.logsigmoid(logsnr)
        k = torch.searchsorted(-rows, -log_alpha2).clamp(1, len(rows) - 1)  # the first row below it
        above = (rows[k - 1] - log_alpha2) / (rows[k - 1] - rows[k])
        return (k - 1 + above) / (len(rows) - 1)


def _scaled(steps: int, beta_min: float, beta_max: float, continuous: str) -> tuple[float, float]:
    """Scale the rates of a table of 1000 steps to another number of steps."""
    check_whole("[1, inf)", steps=steps)
    check_range("(0, inf)", beta_min=beta_min, beta_max=beta_max)
    scale = 1000 / steps
    if not 0 < scale * beta_min <= scale * beta_max < 1:
        raise ValueError(
            f"{steps} steps scale the rates to {scale * beta_min:g} and {scale * beta_max:g}, which have "
            f"to rise within (0, 1); use more steps, or the continuous {continuous}()."
        )
    return scale * beta_min, scale * beta_max

r"""Schedules that are a table of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anydiff.schedules.base import VariancePreserving

__all__ = ["Tabulated"]


@dataclass(frozen=True, eq=False)
class Tabulated(VariancePreserving):
    r"""The chain of T steps that a table describes: row k is the time t = k / T.

    Row 0 is the data, :math:`\bar\alpha_0 = 1`. Between the rows :math:`\log \bar\alpha` is linear,
    which is the diffusion at constant rate that leads from one row to the next. Ancestral sampling
    of the whole chain takes ``steps=T``; fewer steps respace it.

    Arguments:
        alpha_bar: :math:`\bar\alpha_1 \dots \bar\alpha_T`, (T,), falling, in (0, 1).
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        table = torch.as_tensor(self.alpha_bar, dtype=torch.float64)
        rows = torch.cat([table.new_ones(1), table.flatten()])
        if table.ndim != 1 or not len(table) or not (rows.diff() < 0).all() or not rows[-1] > 0:
            raise ValueError(
                f"alpha_bar has shape {tuple(table.shape)} and runs from {table.flatten()[:1].tolist()} "
                f"to {table.flatten()[-1:].tolist()}; give T values that fall from below 1 to above 0."
            )
        object.__setattr__(self, "alpha_bar", table)
        object.__setattr__(self, "_log_rows", rows.log())

    @classmethod
    def linear(cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tabulated:
        """Ho et al.'s table of linearly rising rates.

        Both rates are those of 1000 steps and are scaled by 1000 / steps for another number, so
        that every chain ends at nearly the same noise.

        References:
            Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 4.
            https://arxiv.org/abs/2006.11239
        """
        scale = 1000 / steps
        if not 0 < scale * beta_min <= scale * beta_max < 1:
            raise ValueError(
                f"{steps} steps scale the rates to {scale * beta_min:g} and {scale * beta_max:g}; "
                "they have to rise within (0, 1). Use more steps, or the continuous Linear()."
            )
        betas = torch.linspace(scale * beta_min, scale * beta_max, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> Tabulated:
        """The chain with the rates :math:`\\beta_1 \\dots \\beta_T`."""
        return cls(torch.cumprod(1 - torch.as_tensor(betas, dtype=torch.float64), 0))

    def _logsnr(self, t: Tensor) -> Tensor:
        rows = self._log_rows.to(t.device)  # type: ignore[attr-defined]
        steps = len(rows) - 1
        position = t * steps
        k = position.floor().clamp(0, steps - 1).long()
        log_alpha2 = torch.lerp(rows[k], rows[k + 1], position - k)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))

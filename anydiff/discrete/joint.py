"""A network that is right: of tokens whose joint distribution is a table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anydiff.checks import check_range
from anydiff.discrete.kernels import Kernel
from anydiff.schedules import Schedule

__all__ = ["Joint"]


class Joint(nn.Module):
    """The exact network of L tokens with a joint distribution, for small tests: it visits every state.

    Arguments:
        table: (V, ..., V) with L axes, the probability of each sequence of values.
        kernel: The kernel, of V values.
        schedule: The schedule.

    Raises:
        ValueError: If the table has negative numbers, or not V values on each axis.
    """

    table: Tensor
    states: Tensor

    def __init__(self, table: Tensor, kernel: Kernel, schedule: Schedule) -> None:
        super().__init__()
        if set(table.shape) != {kernel.values}:
            raise ValueError(
                f"the table is {tuple(table.shape)}, and {kernel} has {kernel.values} values; give as "
                "many on each axis."
            )
        check_range("[0, inf)", smallest=float(table.min()))
        self.kernel, self.schedule = kernel, schedule
        self.register_buffer("table", table.double() / table.sum())
        L = table.ndim
        grids = torch.meshgrid(*[torch.arange(kernel.values)] * L, indexing="ij")
        self.register_buffer("states", torch.stack([g.flatten() for g in grids], 1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits of what each token is, given the others alone, (B, L, K).

        Arguments:
            x_t: (B, L, K), one-hot.
            t: (B,), the times.
        """
        alpha = self.schedule._levels(t.double())[0][:, None, None]
        V, states = self.kernel.values, self.states
        seen = self.kernel.backward(x_t.double(), alpha)[..., :V]  # (B, L, V): Q(v, x_t)
        each = seen[:, torch.arange(states.shape[1]), states]  # (B, S, L)
        result = x_t.new_zeros(x_t.shape).double()
        for i in range(states.shape[1]):
            others = torch.cat([each[..., :i], each[..., i + 1 :]], -1).prod(-1)
            joint = others * self.table.flatten()
            result[:, i, :V].index_add_(1, states[:, i], joint)
        return result.clamp(min=1e-300).log().to(x_t.dtype)

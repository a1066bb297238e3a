"""One bidirectional recurrent layer for batches of sequences of different lengths.

First version: index-reversed padded form over nn.GRU's own kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BiRecurrent"]


class BiRecurrent(nn.Module):
    """A bidirectional GRU or LSTM layer; (B, N, inputs) and lengths (B,) -> (B, N, 2 hidden)."""

    def __init__(self, inputs: int, hidden: int, cell: str = "gru") -> None:
        super().__init__()
        self.inputs, self.hidden, self.cell = inputs, hidden, cell
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        for name, parameter in kind(inputs, hidden, bidirectional=True).named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        B, N, _ = x.shape
        n = torch.arange(N, device=x.device)
        mask = n < lengths[:, None]
        back = torch.where(mask, lengths[:, None] - 1 - n, n)[..., None]
        x = x.masked_fill(~mask[..., None], 0)
        h = x.new_zeros(1, B, self.hidden)
        parts = []
        for suffix, rows in ("", x), ("_reverse", x.gather(1, back.expand_as(x))):
            names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
            weights = [getattr(self, name + suffix) for name in names]
            arguments = (weights, True, 1, 0.0, self.training, False, True)
            if self.cell == "gru":
                parts.append(torch._VF.gru(rows, h, *arguments)[0])
            else:
                parts.append(torch._VF.lstm(rows, (h, h), *arguments)[0])
        ahead, behind = parts
        y = torch.cat([ahead, behind.gather(1, back.expand_as(behind))], dim=2)
        return y.masked_fill(~mask[..., None], 0)

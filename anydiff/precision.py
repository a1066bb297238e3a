"""The precision of numbers: what stays in float32 or better, whatever the dtype of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

__all__ = ["ExactBuffers", "at_least_float32", "weights_dtype"]


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype of x, or float32 if x has fewer bits: for times, states and sums of squares."""
    return x.dtype if x.dtype.itemsize >= 4 else torch.float32


def weights_dtype(*modules: Any) -> torch.dtype | None:
    """The dtype of most floating-point weights of some modules; None if there are none.

    Arguments:
        modules: Modules; functions have no weights.
    """
    weights = [p for m in modules if isinstance(m, nn.Module) for p in m.parameters()]
    kinds = {p.dtype for p in weights}
    kinds = {kind for kind in kinds if kind.is_floating_point and kind.itemsize > 1}
    if len(kinds) < 2:  # without counting, which is slow
        return next(iter(kinds), None)
    return max(kinds, key=lambda kind: sum(p.numel() for p in weights if p.dtype == kind))


class ExactBuffers(nn.Module):
    """A module whose buffers keep their dtype where ``module.to(dtype)`` changes that of its weights.

    Frequencies that are rounded to half precision are other frequencies, and statistics are sums.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            after = self._buffers[name]
            if after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self

"""Linear maps and products of tensors of degrees 1 and 2, as e3nn computes them, for any network.

What e3nn makes of C channels and a parity has constants and no weights. It is made once for each dtype
and device, with constants that are exact in that dtype, and belongs to no network: one that uses it is
copied, converted and saved like any other.

The module is imported by those who use it, as e3nn is: both need PyTorch's compiler, whose import takes
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from anydiff.extras import extra

__all__ = ["Algebra", "algebra_of"]


class Algebra(NamedTuple):
    """What e3nn does to tensors: rows (N, 8C) of C vectors of degree 1, then C tensors of degree 2.

    Arguments:
        harmonics: (P, 3) -> (P, 5), the harmonics of degree 2.
        mix: (rows, (2, C, C)) -> rows; a matrix for each degree, across the channels.
        product: (rows, rows) -> (N, …); 2C products of degree 0, then those of the degrees 1 and 2.
        merge: (the latter, (2 D, C)) -> rows; a matrix for each degree, from D products.
    """

    harmonics: Callable[[Tensor], Tensor]
    mix: Callable[[Tensor, Tensor], Tensor]
    product: Callable[[Tensor, Tensor], Tensor]
    merge: Callable[[Tensor, Tensor], Tensor]


@contextmanager
def exactly() -> Iterator[None]:
    """e3nn makes constants of double precision, on the CPU, and no scripts."""
    with extra("e3nn"):
        import e3nn

    dtype, mode = torch.get_default_dtype(), e3nn.get_optimization_defaults()["jit_mode"]
    try:
        torch.set_default_dtype(torch.float64)
        e3nn.set_optimization_defaults(jit_mode="eager")
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(jit_mode=mode)


@torch.compiler.disable  # type: ignore[untyped-decorator]
@cache
def algebra_of(C: int, parity: bool, dtype: torch.dtype, device: torch.device) -> Algebra:
    """The algebra of tensors, made once.

    Arguments:
        C: The number of channels.
        parity: Whether vectors change their sign under reflections, as positions do, and products keep
            to that. Without, cross products are taken too, and what results are vectors under rotations.
        dtype: Of the tensors.
        device: Where they are.
    """
    with extra("e3nn"), exactly():
        from e3nn import o3

        # with all signs alike there is no parity
        sign = -1 if parity else 1
        first, second = o3.Irrep(1, sign), o3.Irrep(2, 1)
        rows = o3.Irreps([(C, first), (C, second)])
        taken = [
            (i, j, ir)
            for ir in (o3.Irrep(0, 1), first, second)
            for i, j in product((0, 1), (0, 1))
            if ir in rows[i].ir * rows[j].ir
        ]
        out = o3.Irreps([(C, ir) for _, _, ir in taken])
        instructions = [(i, j, k, "uuu", False) for k, (i, j, _) in enumerate(taken)]
        merged = o3.Irreps([part for part in out if part.ir.l]).simplify()
        tensor_product = o3.TensorProduct(rows, rows, out, instructions).to(device, dtype)

        def plain(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
            def without_autocast(x: Tensor, y: Tensor) -> Tensor:  # which breaks up e3nn's products
                with torch.autocast(device.type, enabled=False):
                    return call(x, y)

            return without_autocast

        def linear(given: o3.Irreps) -> Callable[[Tensor, Tensor], Tensor]:
            module = o3.Linear(given, rows, internal_weights=False, shared_weights=True)
            size = given[0].mul ** 0.5  # by which e3nn divides: weights have their usual size
            return plain(lambda x, weight: module(x, size * weight.flatten()))

        harmonics = o3.SphericalHarmonics([2], normalize=False, normalization="norm")
        return Algebra(harmonics, linear(rows), plain(tensor_product), linear(merged))

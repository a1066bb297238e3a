"""Where random numbers come from: one generator for a batch, or one for each item.

With one per item, an item's numbers depend neither on the batch it is in nor on how work is split over
machines. Seeds of parts of a run are children of one seed, independent of each other by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = [
    "Random", "Seed", "check_count", "child", "generators", "normal", "rand", "randn", "uniforms",
]  # fmt: skip

Random = Generator | Sequence[Generator] | None
"""One generator for the batch, one for each item, or None: torch's own."""

Seed = int | Sequence[int] | Random
"""One for the batch, or a list with one for each item, whose draw then does not depend on its batch."""


def generators(seed: Seed, device: torch.device | str = "cpu") -> Random:
    """One generator from one seed, or a list of them from a list; generators stay as they are.

    Arguments:
        seed: An int, a generator, a sequence of either with one for each item, or None.
        device: Where new generators live.
    """
    if seed is None or isinstance(seed, Generator):
        return seed
    if isinstance(seed, int | Integral):  # NumPy's too
        return Generator(device).manual_seed(int(seed))
    return [s if isinstance(s, Generator) else Generator(device).manual_seed(int(s)) for s in seed]


def child(seed: int, *key: int) -> int:
    """A seed for a part of what `seed` determines, such as draw k of an item: child(seed, k).

    Children of different seeds, or with different keys, are independent (NumPy's `SeedSequence`);
    sums and multiples of seeds are not, for those of neighbouring seeds coincide.
    """
    # of fixed width and with their number: zeros at the end say nothing to NumPy, and 2**32 is (0, 1)
    words = np.array([k % 2**64 for k in (len(key), seed, *key)], np.uint64).view(np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def at_least_float32(x: Tensor) -> torch.dtype:
    """x's dtype, or float32 where that is shorter: for times, shares and sums of squares."""
    return x.dtype if x.dtype.itemsize >= 4 else torch.float32


def randn(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal numbers of like's dtype and device, drawn where the generator lives.

    Arguments:
        shape: Of what is drawn.
        like: Gives the dtype and the device.
        generator: Where the numbers come from; torch's own if None.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def rand(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), float64, on like's device, drawn where the generator lives.

    Arguments:
        shape: Of what is drawn.
        like: Gives the device.
        generator: Where the numbers come from; torch's own if None.
    """
    device = like.device if generator is None else generator.device
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    return u.to(like.device)


def uniforms(num: int, items: int, like: Tensor, generator: Random) -> Tensor:
    """`num` uniform numbers in [0, 1) for each item, (num, B), each item's from its own generator.

    Arguments:
        num: How many for each item.
        items: B.
        like: Gives the device.
        generator: One, or one for each item.

    Raises:
        ValueError: If there is not one generator for each item.
    """
    if generator is None or isinstance(generator, Generator):
        return rand((num, items), like, generator)
    check_count(generator, items)
    return torch.cat([rand((num, 1), like, g) for g in generator], dim=1)


def normal(x: Tensor, generator: Random, counts: Callable[[], list[int]]) -> Tensor:
    """Standard normal numbers shaped like x; with a generator for each item, the rows of each in turn.

    Arguments:
        x: Gives the shape, dtype and device.
        generator: One, or one for each item.
        counts: () -> how many rows each item has; asked for only if it matters, since the host waits.

    Raises:
        ValueError: If there is not one generator for each item.
    """
    if generator is None or isinstance(generator, Generator):
        return randn(x.shape, x, generator)
    rows = counts()
    check_count(generator, len(rows))
    draws = [randn((n, *x.shape[1:]), x, g) for n, g in zip(rows, generator, strict=True)]
    return torch.cat(draws)


def check_count(generators: Sequence[object], items: int) -> None:
    """Raise where there is not one generator, or one seed, for each item.

    Arguments:
        generators: Generators or seeds.
        items: B.

    Raises:
        ValueError: If the numbers differ.
    """
    if len(generators) != items:
        raise ValueError(
            f"{len(generators)} generators for {items} items; give one, or one per item."
        )

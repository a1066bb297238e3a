"""Where random numbers come from: one generator for a batch, or one for each item.

With one generator per item, an item's numbers depend neither on the batch it is in nor on how the work
is split over machines. The parts of a run are seeded by children of one seed, which are independent by
construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from anydiff.checks import check_whole, number, shown

__all__ = [
    "Random", "Seed", "check_count", "check_generator", "child", "generators", "normal", "rand",
    "randn", "seeds", "undrawn", "uniforms",
]  # fmt: skip

Random = Generator | Sequence[Generator] | None
"""One generator for the batch, one for each item, or None for torch's global generator."""

Seed = int | Sequence[int] | Random
"""One seed for the batch; or a list with one per item, whose numbers then do not depend on the batch."""


def generators(seed: Seed, device: torch.device | str = "cpu") -> Random:
    """One generator from one seed, a list of them from a list; generators and None are returned as given.

    Arguments:
        seed: An int, a generator, a sequence of either with one for each item, or None.
        device: The device of new generators.

    Raises:
        ValueError: If a seed is none of these, or lies outside [0, 2**64).
    """

    def one(seed: int | Generator) -> Generator:
        return seed if isinstance(seed, Generator) else Generator(device).manual_seed(seed)

    given = seeds(seed)
    if isinstance(given, list):
        return [one(s) for s in given]
    return None if given is None else one(given)


def seeds(seed: Any) -> int | Generator | list[int | Generator] | None:
    """A seed or a list of seeds, checked, of Python's integers and of generators.

    Arguments:
        seed: An int, a generator, a sequence of either, or None. NumPy's and torch's integers are taken.

    Raises:
        ValueError: If a seed is none of these, or lies outside [0, 2**64).
    """
    several = isinstance(seed, list | tuple | range | np.ndarray | Tensor) and number(seed) is None
    for one in seed if several else [seed]:
        value = number(one)
        whole = isinstance(value, int) and 0 <= value < 2**64
        if not (whole or isinstance(one, Generator) or one is seed is None):
            raise ValueError(
                f"a seed is {shown(one)}; give a whole number from 0 to 2**64 - 1, or a list of one for "
                "each item."
            )
    plain = [s if isinstance(s, Generator) else number(s) for s in (seed if several else [seed])]
    return plain if several else plain[0]  # type: ignore[return-value]


def child(seed: int, *key: int) -> int:
    """A new seed derived from a seed and a key: child(seed, k) seeds sample k of an item, for example.

    Children of different seeds, or with different keys, are independent (NumPy's `SeedSequence`). Sums
    and multiples of seeds are not: those of neighbouring seeds coincide.

    Arguments:
        seed: The parent seed.
        key: Integers that identify the child.

    Raises:
        ValueError: If one is no whole number.
    """
    check_whole("[-inf, inf]", seed=seed, **{f"key[{i}]": k for i, k in enumerate(key)})
    seed, *key = map(number, (seed, *key))  # type: ignore[assignment]
    # fixed width, and the key's length first: NumPy ignores trailing zeros and reads 2**32 as (0, 1)
    words = np.array([k % 2**64 for k in (len(key), seed, *key)], np.uint64).view(np.uint32)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def randn(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal numbers with the dtype and device of `like`, drawn on the generator's device.

    Arguments:
        shape: The shape of the result.
        like: Gives the dtype and the device.
        generator: Where the numbers come from; torch's own if None.
    """
    if generator is None:  # a compiler takes no generator, not even None
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    device = generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def rand(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform float64 numbers in [0, 1) on the device of `like`, drawn on the generator's device.

    Arguments:
        shape: The shape of the result.
        like: Gives the device.
        generator: Where the numbers come from; torch's own if None.
    """
    if generator is None:
        return torch.rand(shape, dtype=torch.double, device=like.device)
    device = generator.device
    return torch.rand(shape, generator=generator, dtype=torch.double, device=device).to(like.device)


def uniforms(num: int, items: int, like: Tensor, generator: Random) -> Tensor:
    """`num` uniform numbers in [0, 1) for each item, (num, B), float64.

    Arguments:
        num: How many numbers each item gets.
        items: The number of items B.
        like: Gives the device.
        generator: One, or one for each item, which then draws that item's numbers.

    Raises:
        ValueError: If there is not one generator, or one for each item.
    """
    if generator is None or isinstance(generator, Generator):
        return rand((num, items), like, generator)
    _check_generators(generator)
    check_count(generator, items)
    return torch.cat([rand((num, 0), like, None), *(rand((num, 1), like, g) for g in generator)], 1)


def normal(x: Tensor, generator: Random, counts: Callable[[], list[int]]) -> Tensor:
    """Standard normal numbers shaped like x; with a generator per item, each draws its item's rows.

    Arguments:
        x: Gives the shape, dtype and device.
        generator: One, or one for each item.
        counts: () -> the number of rows of each item. Called only with a generator per item, since
            it may wait for the device.

    Raises:
        ValueError: If there is not one generator, or one for each item.
    """
    if generator is None or isinstance(generator, Generator):
        return randn(x.shape, x, generator)
    _check_generators(generator)
    rows = counts()
    check_count(generator, len(rows))
    draws = [randn((n, *x.shape[1:]), x, g) for n, g in zip(rows, generator, strict=True)]
    return torch.cat([x[:0], *draws])


def _check_generators(generator: Any) -> None:
    many = generator if isinstance(generator, Sequence) else [generator]
    if not all(isinstance(one, Generator) for one in many):
        raise ValueError(
            f"generator is {shown(generator)}; give a torch.Generator, or one for each item."
        )


def check_count(generators: Sequence[object], items: int) -> None:
    """Raise an error unless there is one generator, or one seed, for each item.

    Arguments:
        generators: Generators or seeds.
        items: The number of items B.

    Raises:
        ValueError: If their number is not B.
    """
    check_generator(generators)
    if len(generators) != items:
        raise ValueError(f"{len(generators)} generators for {items} items; give one, or one each.")


def check_generator(generator: Any) -> None:
    """Raise an error unless random numbers can be drawn from a generator, or from one for each item.

    Arguments:
        generator: A generator, a list of them or of seeds, or None.

    Raises:
        ValueError: If it is something else, as a seed.
    """
    if not isinstance(generator, Generator | list | tuple | None):
        raise ValueError(
            f"generator is {shown(generator)}; give a torch.Generator().manual_seed(...), or a list of "
            "one for each item."
        )


@contextmanager
def undrawn(device: torch.device) -> Iterator[list[Generator]]:
    """A context after which what torch's own generators gave, to dropout for instance, is given again.

    Arguments:
        device: Where is drawn; torch's own functions for this, which take all devices, are slow.

    Yields:
        The generators, of the CPU and of the device.
    """
    own = [torch.default_generator]
    if device.type == "cuda":
        own.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in own]
    try:
        yield own
    finally:
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)

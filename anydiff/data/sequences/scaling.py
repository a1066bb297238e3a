"""From the units of the data to about unit scale, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from anydiff.data.values import numbers

__all__ = ["Scaling"]

Array = TypeVar("Array", np.ndarray, Tensor)
_COARSE = 2.0**-13  # of a standard deviation: a distance at which values should still differ


class Moments(Protocol):
    """What a scaling is made of; :class:`~anydiff.data.sequences.container.Sequences` has it."""

    @property
    def mean(self) -> np.ndarray: ...

    @property
    def std(self) -> np.ndarray: ...

    @property
    def constant(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Scaling:
    """Subtracts the mean of each channel and divides by its standard deviation, and inversely.

    Arguments:
        mean: C numbers, in the units of the data.
        std: C positive numbers, in the units of the data.

    Raises:
        ValueError: There are no numbers or not equally many, or they are not finite and positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            object.__setattr__(self, key, _floats(getattr(self, key), key))
        if not self.mean or len(self.mean) != len(self.std):
            counts = f"{len(self.mean)} means and {len(self.std)} stds"
            raise ValueError(f"there are {counts}; give one of each for every channel.")
        if not (np.isfinite(self.mean + self.std).all() and min(self.std) > 0):
            raise ValueError(f"mean {self.mean}, std {self.std}; give finite means, positive stds.")

    @classmethod
    def from_sequences(cls, sequences: Moments) -> Scaling:
        """The scaling of the observed values; a constant channel keeps its unit.

        Arguments:
            sequences: The training data.
        """
        std = np.where(sequences.constant, 1.0, sequences.std)
        return cls(tuple(sequences.mean.tolist()), tuple(std.tolist()))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaling:
        """The scaling with this `config`.

        Arguments:
            config: As it is after JSON.

        Raises:
            ValueError: It is not such a config.
        """
        try:
            return cls(**config)
        except TypeError:
            raise ValueError(f"{config} is no config of a scaling; give mean and std.") from None

    def _checked(self, x: Array) -> tuple[Any, Any, Any]:
        """x, mean and std in float64 if the type of x would not tell values apart, else in that type."""
        if not isinstance(x, (np.ndarray, Tensor)):
            raise ValueError(f"x is a {type(x).__name__}; give an array or a tensor of floats.")
        if x.ndim == 0 or x.shape[-1] != len(self.mean):
            raise ValueError(f"x is {tuple(x.shape)}; this scaling has {len(self.mean)} channels.")
        if not (x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"):
            raise ValueError(f"x is of {x.dtype}; give floating-point numbers, as the scaled are.")
        if isinstance(x, Tensor):
            x = x.double() if self._coarse(torch.finfo(x.dtype)) else x
            return x, x.new_tensor(self.mean), x.new_tensor(self.std)
        x = x.astype(np.float64) if self._coarse(np.finfo(x.dtype)) else x
        return x, np.asarray(self.mean, x.dtype), np.asarray(self.std, x.dtype)

    def _coarse(self, kind: Any) -> bool:
        """Whether numbers of a kind are too coarse for the values of a channel."""
        pairs = zip(self.mean, self.std, strict=True)
        return any(abs(m) * kind.eps > _COARSE * s or s < kind.tiny for m, s in pairs)

    def encode(self, x: Array) -> Array:
        """(x − mean) / std, of the type of x.

        Arguments:
            x: A floating-point array or tensor (\\*, C).

        Raises:
            ValueError: x is no array or tensor, has another number of channels, or is of integers.
        """
        values, mean, std = self._checked(x)
        scaled: Any = (values - mean) / std
        like: Array = (
            scaled.to(x.dtype) if isinstance(x, Tensor) else scaled.astype(x.dtype, copy=False)
        )
        return like

    def decode(self, x: Array) -> Array:
        """x · std + mean; arguments and errors are those of `encode`.

        It is of the type of x, or of float64 if that would not tell values apart: in float32 if a mean
        is over 1,024 standard deviations.
        """
        x, mean, std = self._checked(x)
        values: Array = x * std + mean
        return values


def _floats(values: Any, name: str) -> tuple[float, ...]:
    try:
        found = numbers(values if isinstance(values, (np.ndarray, Tensor)) else list(values))
        return tuple(map(float, found))
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {values!r}; give a number for each channel.") from None

"""Spaces: where the data and the noise live, and which entries belong to which item."""

from anydiff.spaces.dense import DENSE, Dense
from anydiff.spaces.draws import Random, Seed, child, generators
from anydiff.spaces.masked import Masked
from anydiff.spaces.packed import Packed
from anydiff.spaces.ragged import Ragged
from anydiff.spaces.rest import Rest
from anydiff.spaces.space import Space, check_space

__all__ = [
    "DENSE", "Dense", "Masked", "Packed", "Ragged", "Random", "Rest", "Seed", "Space", "check_space",
    "child", "generators",
]  # fmt: skip

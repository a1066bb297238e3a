"""Where the data live, and with them the noise."""

from anydiff.spaces.masked import Masked
from anydiff.spaces.packed import Packed
from anydiff.spaces.ragged import Ragged
from anydiff.spaces.space import Dense, Generators, Rows, Space, supports

__all__ = ["Dense", "Generators", "Masked", "Packed", "Ragged", "Rows", "Space", "supports"]

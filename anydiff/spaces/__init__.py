"""Where the data live, and with them the noise."""

from anydiff.spaces.base import Dense, Generators, Rows, Space, supports
from anydiff.spaces.masked import Masked
from anydiff.spaces.packed import Packed
from anydiff.spaces.ragged import Ragged

__all__ = ["Dense", "Generators", "Masked", "Packed", "Ragged", "Rows", "Space", "supports"]

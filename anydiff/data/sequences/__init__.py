r"""Sequences and series: items of different lengths, as padded batches.

- :mod:`~anydiff.data.sequences.container`: `Sequences`, many items of rows in ragged arrays, checked
- :mod:`~anydiff.data.sequences.scaling`: `Scaling`, from the units of the data to about unit scale
- :mod:`~anydiff.data.sequences.padding`: `loader` and `unpack`, padded batches (B, N, C) with their
  space :class:`anydiff.Masked`, which excludes the padding and the missing values; `pad` and its inverse

A row is one step in time, of any duration. NaN marks a missing value; nothing is filled in. Batches are
of float32 and should have about unit scale.
"""

from anydiff.data.sequences.container import LengthDistribution, SequenceError, Sequences
from anydiff.data.sequences.padding import (
    SequenceBatch,
    SequenceDataset,
    loader,
    pad,
    pairs,
    split_items,
    unpack,
)
from anydiff.data.sequences.scaling import Scaling

__all__ = [
    "LengthDistribution", "Scaling", "SequenceBatch", "SequenceDataset", "SequenceError",
    "Sequences", "loader", "pad", "pairs", "split_items", "unpack",
]  # fmt: skip

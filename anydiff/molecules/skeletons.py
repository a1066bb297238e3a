r"""Known parts of molecules, for training a model that completes them.

Of each molecule of a batch one of these is known, at random, with the weight in brackets, see
:func:`molecule_parts`:

- a connected fragment: a random number of heavy atoms, with their hydrogens (30)
- the ring systems and what links them, without substituents (Bemis and Murcko's framework) (7.5)
- two ends, without three to five heavy atoms between them (7.5)
- all heavy atoms (10)
- all elements and no position: the composition (10)
- where bonds are drawn: all elements and bonds, the graph (5)
- where bonds are drawn: all atoms, and no bond (5)

and of three molecules in ten, by :func:`anydiff.data.parts.with_parts`, nothing. A molecule that has no
such part has a fragment in its place. All of it are operations on the bonds of the whole batch.

References:
    The Properties of Known Drugs. 1. Molecular Frameworks (Bemis & Murcko, 1996).
    https://doi.org/10.1021/jm9602928
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.data.parts import Draw
from anydiff.molecules.bonds import longest
from anydiff.spaces import Packed, Ragged, Space

__all__ = ["Skeletons", "molecule_parts"]

SHARES = (30.0, 7.5, 7.5, 10.0, 10.0, 5.0, 5.0)
"""Of fragments, frameworks, two ends, heavy atoms, elements, graphs, and atoms without bonds."""
BETWEEN = (3, 5)
"""The least and the greatest number of heavy atoms between two ends."""


def molecule_parts(elements: Sequence[int]) -> Draw:
    """The draw of known parts of molecules, for :func:`anydiff.data.parts.with_parts`.

    Bonds are those of the batch where it has some, and otherwise follow from distances.

    Arguments:
        elements: Atomic numbers that the data have.

    Raises:
        ImportError: There are other elements than H, C, N, O and F, and RDKit is not installed.
    """
    limits = torch.from_numpy(longest(np.asarray(elements)))

    def draw(batch: Any, x0: Tensor, space: Space) -> Tensor:
        rows: Ragged = space["atoms"] if isinstance(space, Packed) else space  # type: ignore[assignment]
        graph = Skeletons.of(batch, rows, limits)
        shares = torch.tensor(SHARES if isinstance(space, Packed) else SHARES[:5], device=x0.device)
        kind = torch.multinomial(shares, rows.num_items, replacement=True)

        fragment = graph.fragment()
        atoms = torch.zeros_like(fragment)
        parts = [fragment, graph.framework(), graph.two_ends(), graph.heavy]
        for number, part in enumerate(parts):
            lacks = ~graph.any(part)[rows.index]
            atoms |= (kind == number)[rows.index] & torch.where(lacks, fragment, part)
        elements, graphs, places = (kind == len(parts) + k for k in range(3))

        columns = torch.arange(_columns(x0, space), device=x0.device)
        told = (elements | graphs)[rows.index, None] & (columns >= 3)
        known = (atoms | places[rows.index])[:, None] | told
        if not isinstance(space, Packed):
            return known
        i, j = rows.pairs
        bonds = (atoms[i] & atoms[j]) | graphs[rows.index[i]]
        width = space.fields["bonds"][1][1]
        return torch.cat([known.flatten(), bonds[:, None].expand(-1, width).flatten()])

    return draw


def _columns(x0: Tensor, space: Space) -> int:
    return space.fields["atoms"][1][1] if isinstance(space, Packed) else x0.shape[1]


class Skeletons:
    """The bonds of a batch of molecules, and the parts that follow from them.

    Arguments:
        rows: The space of the atoms.
        heavy: (N,), True where an atom is no hydrogen.
        ends: (2, E), the atoms of each bond, each bond in both directions.
    """

    def __init__(self, rows: Ragged, heavy: Tensor, ends: Tensor) -> None:
        self.rows, self.heavy = rows, heavy
        self.i, self.j = ends
        self.num_heavy = self._count(heavy)
        self.hops = int(self.num_heavy.max())

    @classmethod
    def of(cls, batch: Any, rows: Ragged, limits: Tensor) -> Skeletons:
        """Those of a batch of PyG.

        Arguments:
            batch: With pos, z, and edge_index if bonds are known.
            rows: The space of its atoms.
            limits: (119, 119), the distances in Å below which atoms are bonded.
        """
        ends = getattr(batch, "edge_index", None)
        if ends is None:
            i, j = rows.edge_index
            near = (batch.pos[i] - batch.pos[j]).norm(dim=1)
            limits = limits.to(near.device, near.dtype)
            ends = rows.edge_index[:, near < limits[batch.z[i], batch.z[j]]]
        return cls(rows, batch.z > 1, ends)

    def _count(self, atoms: Tensor) -> Tensor:
        zero = torch.zeros(self.rows.num_items, dtype=torch.long, device=atoms.device)
        return zero.index_add(0, self.rows.index, atoms.long())

    def any(self, atoms: Tensor) -> Tensor:
        """Whether some atom of a molecule is marked, (B,).

        Arguments:
            atoms: (N,) booleans.
        """
        return self._count(atoms) > 0

    def one_of(self, atoms: Tensor, first: Tensor | None = None) -> Tensor:
        """One of the marked atoms of each molecule, marked, (N,): a random one of those with the most.

        Arguments:
            atoms: (N,) booleans.
            first: (N,) whole numbers, of which the largest are chosen from; all are alike if None.
        """
        key = torch.rand(len(atoms), device=atoms.device)
        key = (key if first is None else first.nan_to_num(posinf=-1) + key).masked_fill(~atoms, -2)
        top = key.new_full((self.rows.num_items,), -2)
        top = top.scatter_reduce(0, self.rows.index, key, "amax")
        return atoms & (key == top[self.rows.index])

    def distances(self, start: Tensor, lengths: Tensor) -> Tensor:
        """The shortest way over heavy atoms from the nearest start, (N,); infinite where there is none.

        Arguments:
            start: (N,) booleans.
            lengths: (E,), of the bonds.
        """
        heavy = self.heavy[self.i] & self.heavy[self.j]
        lengths = lengths.masked_fill(~heavy, torch.inf)
        far = lengths.new_full((len(start),), torch.inf).masked_fill(start, 0)
        for _ in range(self.hops):
            far = far.scatter_reduce(0, self.i, far[self.j] + lengths, "amin")
        return far

    def place(self, values: Tensor) -> Tensor:
        """How many atoms of its molecule have a smaller value, (N,), ties in any order.

        Arguments:
            values: (N,).
        """
        order = values.argsort()
        order = order[self.rows.index[order].argsort(stable=True)]
        place = torch.arange(len(order), device=order.device) - self.rows.ptr[self.rows.index]
        return torch.empty_like(order).index_copy(0, order, place)

    def with_hydrogens(self, atoms: Tensor) -> Tensor:
        """Heavy atoms, and the hydrogens that are bonded to them.

        Arguments:
            atoms: (N,) booleans, heavy atoms.
        """
        bonded = torch.zeros(len(atoms), device=atoms.device)
        bonded = bonded.index_add(0, self.i, atoms[self.j].to(bonded.dtype))
        return atoms | (~self.heavy & (bonded > 0))

    def fragment(self) -> Tensor:
        """A connected fragment of one to all but one of the heavy atoms, with their hydrogens, (N,).

        It is grown from a random atom over bonds of exponential random lengths, by the shortest ways.
        """
        lengths = torch.empty(len(self.i), device=self.i.device).exponential_()
        far = self.distances(self.one_of(self.heavy), lengths)
        share = torch.rand(self.rows.num_items, device=far.device)
        most = 1 + (share * (self.num_heavy - 1)).long().clamp(min=0)
        return self.with_hydrogens((self.place(far) < most[self.rows.index]) & far.isfinite())

    def framework(self) -> Tensor:
        """Ring systems and what links them, (N,): the ends of chains are left out until none is left."""
        left = self.heavy
        for _ in range(self.hops):
            degree = torch.zeros(len(left), device=left.device)
            degree = degree.index_add(0, self.i, left[self.j].to(degree.dtype))
            left = left & (degree >= 2)
        return left

    def two_ends(self) -> Tensor:
        """Heavy atoms with their hydrogens, but some midway between two that are far apart, (N,)."""
        one = torch.ones(len(self.i), device=self.i.device)
        far = [self.distances(self.one_of(self.heavy), one)]
        for _ in range(2):  # the farthest from any, and the farthest from that one
            far.append(self.distances(self.one_of(self.heavy, far[-1]), one))
        side = (far[1] - far[2]).abs().masked_fill(~self.heavy, torch.inf).nan_to_num(torch.inf)
        least, most = BETWEEN
        between = torch.randint(least, most + 1, (self.rows.num_items,), device=side.device)
        ends = self.heavy & (self.place(side) >= between[self.rows.index])
        enough = (self.num_heavy >= between + 2)[self.rows.index]
        return self.with_hydrogens(ends & enough)

r"""Molecules in ragged arrays, and the rows that diffuse.

:class:`Molecules` holds many molecules as three arrays: atomic numbers z (N,), positions (N, 3) in
ångström and offsets (M + 1,); molecule m is rows offsets[m]:offsets[m + 1]. It checks itself when it
is built. :class:`Atoms` converts a batch to the array that diffuses, one row for each atom,

.. math:: x = [\,\text{position} \mid s_t \cdot \text{one-hot type} \mid s_c \cdot z\,]

with the mean position of each molecule at 0. The scales determine at which noise level the types of
atoms are decided, relative to their positions. They belong to the data; the diffusion does not know
them.

Bonds are not part of the data: hydrogens are explicit, and bonds follow from distances
(:mod:`anydiff.molecules.bonds`).

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.data.ranges import ranges
from anydiff.extras import extra
from anydiff.spaces import Ragged

__all__ = ["NUMBERS", "SYMBOLS", "Atoms", "MoleculeError", "Molecules", "symbol"]

_TABLE = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
    Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er
    Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md
    No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = ["", *_TABLE.split()]
"""Symbols of the elements by atomic number."""
NUMBERS = {name: z for z, name in enumerate(SYMBOLS) if z}
"""Atomic numbers of the elements by symbol."""


def symbol(z: int) -> str:
    """The symbol of an element; ``?(z)`` for other numbers.

    Arguments:
        z: An atomic number.
    """
    return SYMBOLS[z] if 0 < z < len(SYMBOLS) else f"?({z})"


class MoleculeError(ValueError):
    """Molecules, or a file of them, that cannot be right. The message names the place."""


@dataclass(frozen=True, eq=False)
class Molecules:
    """Many molecules in ragged arrays, checked.

    Arguments:
        z: (N,), atomic numbers, hydrogens included.
        pos: (N, 3), positions in ångström.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].
        smiles: One for each molecule, or None.
        props: (M, P), properties, with the source's names and units, or None.
        prop_names: P names.
        ids: (M,), the source's own numbers of its molecules, or None.
        name: The source of the molecules; error messages begin with it.

    Raises:
        MoleculeError: The arrays do not fit together, a molecule is empty, an element is unknown, a
            position is not finite, or two atoms of a molecule are at the same point.
    """

    z: np.ndarray
    pos: np.ndarray
    offsets: np.ndarray
    smiles: Sequence[str] | None = None
    props: np.ndarray | None = None
    prop_names: tuple[str, ...] = ()
    ids: np.ndarray | None = None
    name: str = "molecules"

    def __post_init__(self) -> None:
        z, offsets = np.asarray(self.z), np.asarray(self.offsets)
        self._check_offsets(z, offsets)
        known = (z >= 1) & (z < len(SYMBOLS))
        if not known.all():
            row = int(np.argmin(known))
            raise MoleculeError(f"{self.place(row)} has atomic number {z[row]}; give 1 to 118.")

        values = {
            "z": z.astype(np.uint8, copy=False),
            "pos": np.asarray(self.pos).astype(np.float32, copy=False),
            "offsets": offsets.astype(np.int64, copy=False),
            "props": None if self.props is None else np.asarray(self.props),
            "ids": None if self.ids is None else np.asarray(self.ids).astype(np.int64, copy=False),
            "prop_names": tuple(str(p) for p in self.prop_names),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        self._check_positions()
        self._check_companions()

    def _check_offsets(self, z: np.ndarray, offsets: np.ndarray) -> None:
        for key, array in (("z", z), ("offsets", offsets)):
            if array.ndim != 1 or array.dtype.kind not in "ui":
                raise MoleculeError(
                    f"{self.name}: {key} is {array.dtype} {array.shape}; give a row of integers."
                )
        if len(offsets) < 2:
            raise MoleculeError(f"{self.name} holds no molecules.")
        if offsets[0] != 0 or offsets[-1] != len(z):
            raise MoleculeError(
                f"{self.name}: offsets run from {offsets[0]} to {offsets[-1]} but there "
                f"are {len(z)} atoms; the file may be cut short."
            )
        empty = np.diff(offsets.astype(np.int64)) < 1
        if empty.any():
            raise MoleculeError(f"{self.name}: molecule {int(np.argmax(empty))} has no atoms.")

    def _check_positions(self) -> None:
        if self.pos.shape != (len(self.z), 3):
            raise MoleculeError(
                f"{self.name}: positions are {self.pos.shape} for {len(self.z)} atoms; give (N, 3)."
            )
        finite = np.isfinite(self.pos).all(1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise MoleculeError(f"{self.place(row)} is at {self.pos[row]}; it must be finite.")

        # equal rows get equal keys; adding zero makes -0.0 and 0.0 the same bits
        bits = (self.pos + np.float32(0)).view(np.uint32).astype(np.uint64)
        key = self.index.astype(np.uint64)
        with np.errstate(over="ignore"):
            for column in bits.T:
                key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
        order = np.argsort(key, kind="stable")
        a, b = order[:-1], order[1:]
        near = np.flatnonzero(key[a] == key[b])
        a, b = a[near], b[near]
        same = (self.index[a] == self.index[b]) & (self.pos[a] == self.pos[b]).all(1)
        if same.any():
            first = int(np.argmin(np.where(same, a, len(order))))
            raise MoleculeError(
                f"{self.place(int(b[first]))} is at the same point as atom "
                f"{int(a[first] - self.offsets[self.index[a[first]]])}: {self.pos[a[first]]}."
            )

    def _check_companions(self) -> None:
        for key, value in (("smiles", self.smiles), ("props", self.props), ("ids", self.ids)):
            if value is not None and len(value) != len(self):
                raise MoleculeError(f"{self.name}: {len(value)} {key} for {len(self)} molecules.")
        if self.props is not None and self.props.shape != (len(self), len(self.prop_names)):
            raise MoleculeError(
                f"{self.name}: properties are {self.props.shape} with {len(self.prop_names)} names."
            )

    def place(self, row: int) -> str:
        """The source, molecule and atom of a row, for error messages.

        Arguments:
            row: The row, 0 to N − 1.
        """
        m = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return f"{self.name}: molecule {m}, atom {row - int(self.offsets[m])}"

    @cached_property
    def index(self) -> np.ndarray:
        """The molecule of each atom, (N,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def sizes(self) -> np.ndarray:
        """The number of atoms of each molecule, (M,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, m: int) -> Any:
        """One molecule as PyG `Data` with z, pos, and y (1, P) and smiles if they are known."""
        with extra("molecules"):
            from torch_geometric.data import Data

        if not -len(self) <= m < len(self):
            raise IndexError(f"molecule {m} of {len(self)}")
        m = m % len(self)
        rows = slice(int(self.offsets[m]), int(self.offsets[m + 1]))
        pos, z = torch.tensor(self.pos[rows]), torch.tensor(self.z[rows], dtype=torch.long)
        data = Data(pos=pos, z=z)
        if self.props is not None:
            data.y = torch.tensor(self.props[None, m], dtype=torch.float32)
        if self.smiles is not None:
            data.smiles = self.smiles[m]
        return data

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of some molecules, one molecule after the other.

        Arguments:
            indices: Numbers of molecules.
        """
        return ranges(self.offsets[indices], self.offsets[indices + 1])

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> Molecules:
        """Some of the molecules, in the given order.

        Arguments:
            indices: Numbers of molecules, or a boolean mask (M,).
            name: The name of the result; by default this one's.

        Raises:
            IndexError: A number is out of range, or there are none.
        """
        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(f"indices must be one or more of 0 to {len(self) - 1}.")
        rows = self.rows(indices)
        return Molecules(
            z=self.z[rows],
            pos=self.pos[rows],
            offsets=np.concatenate([[0], np.cumsum(self.sizes[indices])]),
            smiles=None if self.smiles is None else [self.smiles[i] for i in indices.tolist()],
            props=None if self.props is None else self.props[indices],
            prop_names=self.prop_names,
            ids=None if self.ids is None else self.ids[indices],
            name=name or self.name,
        )

    def property(self, name: str) -> np.ndarray:
        """The values of one property, (M,).

        Arguments:
            name: One of `prop_names`.

        Raises:
            KeyError: There is no such property.
        """
        if self.props is None or name not in self.prop_names:
            raise KeyError(f"{self.name} has no property {name!r}; it has {list(self.prop_names)}.")
        return self.props[:, self.prop_names.index(name)]


@frozen(type_scale="(0, inf]", charge_scale="(0, inf]")
class Atoms:
    """The rows that diffuse: [position | one-hot type · type_scale | z · charge_scale].

    The defaults are EDM's for QM9.

    Arguments:
        elements: Atomic numbers, in the order of the one-hot columns.
        type_scale: The factor of the one-hot columns.
        charge_scale: The factor of the column of atomic numbers, or None to leave the column out.

    Raises:
        ValueError: `elements` are not distinct, or a scale is not positive.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), EDM.
        https://arxiv.org/abs/2203.17003
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)
    type_scale: float = 0.25
    charge_scale: float | None = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(int(z) for z in self.elements))
        if not self.elements or len(set(self.elements)) != len(self.elements):
            raise ValueError(f"elements are {self.elements}; give distinct atomic numbers.")

    @property
    def features(self) -> int:
        """The number of columns of x."""
        return 3 + len(self.elements) + (self.charge_scale is not None)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, ready for JSON."""
        return asdict(self) | {"elements": list(self.elements)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Atoms:
        """The object whose :attr:`config` was saved."""
        return cls(**config)

    def check(self, molecules: Molecules) -> Molecules:
        """Return the molecules unchanged, after a check of their elements.

        Arguments:
            molecules: The molecules to check.

        Raises:
            MoleculeError: An element is not among `elements`.
        """
        known = np.isin(molecules.z, self.elements)
        if not known.all():
            row = int(np.argmin(known))
            raise MoleculeError(
                f"{molecules.place(row)} is {symbol(int(molecules.z[row]))}, which is not among "
                f"{' '.join(map(symbol, self.elements))}; add it to `elements` or leave it out."
            )
        return molecules

    def encode(self, pos: Tensor, z: Tensor) -> Tensor:
        """Rows (N, F) of atoms; positions are not centred.

        Arguments:
            pos: (N, 3), positions in ångström.
            z: (N,), atomic numbers.

        Raises:
            MoleculeError: An element is not among `elements`. Tensors on an accelerator are not checked.
        """
        elements = torch.tensor(self.elements, device=z.device)
        types = z[:, None] == elements
        if z.device.type == "cpu" and not bool(types.any(1).all()):  # no read from an accelerator
            unknown = int(z[~types.any(1)][0])
            raise MoleculeError(
                f"{symbol(unknown)} is not among {' '.join(map(symbol, self.elements))}; "
                "add it to `elements` or leave such molecules out."
            )
        columns = [pos, types.to(pos.dtype) * self.type_scale]
        if self.charge_scale is not None:
            columns.append(z[:, None].to(pos.dtype) * self.charge_scale)
        return torch.cat(columns, dim=1)

    def unpack(self, batch: Any) -> tuple[Tensor, Ragged, dict[str, Any]]:
        """A PyG batch with pos, z and batch -> (x0, space, cond): rows with centred positions, {}.

        Arguments:
            batch: From :func:`~anydiff.molecules.batches.loader`.

        Raises:
            MoleculeError: As for :meth:`encode`.
        """
        space = Ragged(batch.batch, batch.num_graphs, centered=3)
        x = space.project(self.encode(batch.pos, batch.z))
        return x, space, {}

    def decode(self, x: Tensor, space: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Positions (N, 3) in ångström and atomic numbers (N,) of rows.

        The element is that of the largest type column. The column of atomic numbers is an aid to the
        network and is not read.

        Arguments:
            x: (N, F).
            space: The space of the rows, if its number of rows is to be checked.

        Raises:
            ValueError: `x` has another number of columns, or rows.
        """
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"x is {tuple(x.shape)}; these atoms have {self.features} columns.")
        if space is not None and len(space.index) != len(x):
            raise ValueError(f"x has {len(x)} rows but the space indexes {len(space.index)}.")
        elements = torch.tensor(self.elements, device=x.device)
        return x[:, :3], elements[x[:, 3 : 3 + len(self.elements)].argmax(1)]

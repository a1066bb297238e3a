r"""Atoms and bonds that diffuse together: a row for each atom, and one for each unordered pair of atoms,

.. math:: e_{ij} = s \cdot (2\,[\,\text{bonded} \mid \text{order} / 3\,] - 1)

where no bond has order 0. All of it is Gaussian: no class is drawn, and an order is read off only at the
end. There are no aromatic bonds, whose valences are ambiguous: orders are those of a Kekulé structure.

Pairs are in the order of :attr:`Ragged.pairs <anydiff.spaces.Ragged.pairs>`, each once, so that noise is
symmetric by itself. Formal charges, where molecules have them, are one more column of the atoms.

References:
    Learning Joint 2D & 3D Diffusion Models for Complete Molecule Generation (Huang et al., 2023), JODO,
    whose columns these are. https://arxiv.org/abs/2305.12347
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anydiff.checks import check_shape, frozen, read
from anydiff.molecules.atoms import Atoms
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.fields import AROMATIC
from anydiff.molecules.molecules import Molecules
from anydiff.spaces import Packed, Ragged

__all__ = ["Bonded", "BondedAtoms"]

_OFTEN = 0.01  # the share of molecules with charges from which on these are worth a column
_KEEPS = {"elements": (3, False), "graph": (3, True), "positions": (0, False)}
"""From which column on atoms are known, and whether bonds are."""
_KEKULE = (
    "read the molecules from an SDF, where RDKit finds single and double bonds, or leave such out"
)


class BondedAtoms(NamedTuple):
    """Atoms with their bonds: what the rows of :class:`Bonded` mean.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        bonds: (E, 2), the rows of the two atoms of each bond, the lower first, ascending.
        orders: (E,), 1, 2 or 3.
        charges: (N,), formal charges, or None where they are no column.
    """

    pos: Tensor
    z: Tensor
    bonds: Tensor
    orders: Tensor
    charges: Tensor | None


@frozen(atoms=Atoms, bond_scale="(0, inf)", bond_weight="(0, inf)", formal_scale="(0, inf)")
class Bonded:
    """Atoms and bonds: fields `atoms` (N, F) and `bonds` (P, 2) of a packed space.

    The scale of the bonds determines at which noise level they are decided: the larger, the earlier in
    sampling. Where they are decided before it is settled which atoms are near one another, more molecules
    come in pieces.

    Arguments:
        atoms: The rows of atoms.
        bond_scale: The factor of the columns of bonds, which are from -1 to 1.
        bond_weight: The weight of an entry of the bonds in a loss; one of the atoms has 1. Bonds have two
            thirds of all entries.
        formal_scale: The factor of a column of formal charges, the last one of the atoms, or None to
            leave it out.

    Raises:
        ValueError: `atoms` are something else, or a scale or the weight is not positive.

    References:
        Learning Joint 2D & 3D Diffusion Models for Complete Molecule Generation (Huang et al., 2023),
        JODO, which has bonds of scale 1, types of 1/2 and charges of 1/4. https://arxiv.org/abs/2305.12347
    """

    atoms: Atoms = Atoms()
    bond_scale: float = 0.5
    bond_weight: float = 0.3
    formal_scale: float | None = None

    @classmethod
    def fit(cls, atoms: Atoms, molecules: Molecules) -> Bonded:
        """With a column of formal charges if one molecule in a hundred or more has any.

        Arguments:
            atoms: The rows of atoms.
            molecules: What is learned from. Of QM9, 0.4 % have charges.
        """
        if molecules.charges is None:
            return cls(atoms)
        charged = np.logical_or.reduceat(molecules.charges != 0, molecules.offsets[:-1])
        return cls(atoms, formal_scale=0.25 if charged.mean() >= _OFTEN else None)

    @property
    def elements(self) -> tuple[int, ...]:
        """Those of the atoms."""
        return self.atoms.elements

    @property
    def features(self) -> int:
        """The number of columns of the atoms."""
        return self.atoms.features + (self.formal_scale is not None)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, ready for JSON."""
        return asdict(self) | {"atoms": self.atoms.config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bonded:
        """The object whose :attr:`config` was saved."""
        return cls(**config | {"atoms": Atoms.from_config(config["atoms"])})

    def check(self, molecules: Molecules) -> Molecules:
        """Return the molecules unchanged, after a check of their elements, bonds and charges.

        Arguments:
            molecules: The molecules to check.

        Raises:
            MoleculeError: An element is not among those of the atoms, bonds are not known, one is
                aromatic, or charges are not known and there is a column for them.
        """
        self.atoms.check(molecules)
        if molecules.bonds is None or molecules.orders is None:
            raise MoleculeError(
                f"{molecules.name} has no bonds; give molecules with them, or load_qm9(..., bonds=True) "
                "to have those of their SMILES."
            )
        aromatic = molecules.orders == AROMATIC
        if aromatic.any():
            row = int(molecules.bonds[np.argmax(aromatic), 0])
            raise MoleculeError(f"{molecules.place(row)} has an aromatic bond; {_KEKULE}.")
        if self.formal_scale is not None and molecules.charges is None:
            raise MoleculeError(f"{molecules.name} has no formal charges; give them, 0 where none.")
        return molecules

    def space(self, rows: Ragged) -> Packed:
        """The space of atoms and bonds.

        Arguments:
            rows: That of the atoms alone.
        """
        fields = {
            "atoms": (rows, (len(rows.index), self.features)),
            "bonds": (rows.pair_space, (rows.pairs.shape[1], 2)),
        }
        return Packed(fields, weights={"bonds": self.bond_weight})

    def shape(self, rows: Ragged) -> tuple[int, ...]:
        """The shape of a state.

        Arguments:
            rows: The space of the atoms alone.
        """
        return self.space(rows).shape

    def encode(
        self,
        pos: Tensor,
        z: Tensor,
        bonds: Tensor,
        orders: Tensor,
        space: Packed,
        charges: Tensor | None = None,
    ) -> Tensor:
        """The packed state of atoms and bonds, (M,); positions are not centred.

        Arguments:
            pos: (N, 3), positions in ångström.
            z: (N,), atomic numbers.
            bonds: (E, 2), the rows of the two atoms of each bond, in either order.
            orders: (E,), 1, 2 or 3.
            space: The space, as :meth:`space` makes it.
            charges: (N,), formal charges, where there is a column for them.

        Raises:
            MoleculeError: An element is not among those of the atoms, an order is no other than these, or
                charges are not given and there is a column for them. Tensors on an accelerator are not
                checked.
        """
        if read(orders, lambda k: ((k >= 1) & (k <= 3)).all()) is False:
            wrong = int(orders[(orders < 1) | (orders > 3)][0])
            raise MoleculeError(f"a bond has order {wrong}; give 1, 2 or 3.")
        columns = [self.atoms.encode(pos, z)]
        if self.formal_scale is not None:
            if charges is None:
                raise MoleculeError("there are no formal charges; give them, 0 where none.")
            columns.append(charges[:, None].to(pos.dtype) * self.formal_scale)

        # the pairs of row i begin after those of all rows before it
        rows: Ragged = space["atoms"]
        later = rows.ptr[rows.index + 1] - 1 - torch.arange(len(z), device=z.device)
        first = later.cumsum(0) - later
        low, high = bonds.amin(1), bonds.amax(1)
        row = first[low] + high - low - 1
        values = torch.stack([torch.ones_like(orders), orders / 3], dim=1).to(pos.dtype)
        e = pos.new_zeros(rows.pairs.shape[1], 2).index_copy(0, row, values)
        return space.pack({"atoms": torch.cat(columns, 1), "bonds": self.bond_scale * (2 * e - 1)})

    def unpack(self, batch: Any) -> tuple[Tensor, Packed, dict[str, Any]]:
        """A PyG batch with pos, z, batch and edges -> (x0, space, cond): a packed state, {}.

        Arguments:
            batch: From :func:`~anydiff.molecules.batches.loader`, of molecules with bonds.

        Raises:
            MoleculeError: It is no such batch, or as for :meth:`encode`.
        """
        needed = ["pos", "z", "batch", "edge_index", "edge_attr"]
        needed += ["charges"] * (self.formal_scale is not None)
        missing = [key for key in needed if getattr(batch, key, None) is None]
        if missing:
            raise MoleculeError(
                f"{type(batch).__name__} has no {' and no '.join(missing)}; give a Batch of PyG with "
                "bonds, as the loader makes it of molecules that have them."
            )
        space = self.space(Ragged(batch.batch, batch.num_graphs, centered=3))
        x = self.encode(
            batch.pos, batch.z, batch.edge_index.t(), batch.edge_attr, space,
            batch.charges if self.formal_scale is not None else None,
        )  # fmt: skip
        return space.project(x), space, {}

    def decode(self, x: Tensor, space: Packed) -> BondedAtoms:
        """The atoms and bonds of a packed state.

        Two atoms are bonded if both columns say so: the first is nearer to a bond than to none, and the
        order nearest to the second is 1, 2 or 3. Atoms with values that are not finite have no bonds.

        Arguments:
            x: (M,).
            space: The space of the state.

        Raises:
            ValueError: `x` does not have the shape of the space, or the atoms have other columns.
        """
        fields = space.unpack(x)
        rows = fields["atoms"]
        if rows.shape[1] != self.features:
            raise ValueError(f"atoms are {tuple(rows.shape)}; these have {self.features} columns.")
        pos, z = self.atoms.decode(rows[:, : self.atoms.features])
        charges = None
        if self.formal_scale is not None:
            # as many positive charges as a nucleus has, and no more than files can hold
            most = z.clamp(max=15)
            charges = (rows[:, -1] / self.formal_scale).nan_to_num().round().clamp(min=-15)
            charges = torch.minimum(charges, most.to(charges.dtype)).long()

        exists, order = ((fields["bonds"] / self.bond_scale + 1) / 2).unbind(1)
        order = (3 * order).round()
        i, j = pairs = space["atoms"].pairs
        fine = rows.isfinite().all(1)
        bonded = (
            exists.isfinite() & (exists >= 0.5) & (order >= 1) & (order <= 3) & fine[i] & fine[j]
        )
        return BondedAtoms(pos, z, pairs.t()[bonded], order[bonded].long(), charges)

    # what a model does with molecules --------------------

    def state(self, molecules: Molecules, rows: Ragged) -> Tensor:
        """The state of molecules, with centred positions.

        Arguments:
            molecules: The molecules, with bonds.
            rows: The space of their atoms.

        Raises:
            MoleculeError: As :meth:`check`.
        """
        self.check(molecules)
        space = self.space(rows)
        arrays = (molecules.pos, molecules.z, molecules.bonds, molecules.orders, molecules.charges)
        pos, z, bonds, orders, charges = (
            None if array is None else torch.from_numpy(array).to(rows.index.device)
            for array in arrays
        )
        assert pos is not None and z is not None and bonds is not None and orders is not None
        return space.project(self.encode(pos, z, bonds, orders, space, charges))

    def mask(self, known: Tensor | str, rows: Ragged) -> Tensor:
        """Booleans shaped like a state: what of it is known.

        Arguments:
            known: (N,) booleans, of atoms, which are known with the pairs both of which are; or
                "elements", "graph" (elements and bonds) or "positions" (atoms without their bonds).
            rows: The space of the atoms.

        Raises:
            ValueError: `known` is something else.
        """
        N, (i, j) = len(rows.index), rows.pairs
        columns = torch.arange(self.features, device=i.device)
        if isinstance(known, Tensor):
            check_shape((N,), "give True where an atom is kept", torch.bool, known=known)
            atoms, both = known[:, None] & (columns >= 0), known[i] & known[j]
        elif known in _KEEPS:
            first, told = _KEEPS[known]
            atoms, both = (columns >= first).expand(N, -1), i.new_full(i.shape, told).bool()
        else:
            words = ", ".join(map(repr, _KEEPS))
            raise ValueError(f"known is {known!r}; give one of {words}, or a mask of atoms.")
        return torch.cat([atoms.flatten(), both[:, None].expand(-1, 2).flatten()])

    def of_elements(self, z: Tensor, rows: Ragged) -> tuple[Tensor, Tensor]:
        """A state of which the elements are known and nothing else, and the mask that says so.

        Arguments:
            z: (N,), atomic numbers.
            rows: The space of the atoms.

        Raises:
            MoleculeError: As :meth:`encode`.
        """
        atoms, told = self.atoms.of_elements(z, rows)
        more = atoms.new_zeros(len(z), self.features - self.atoms.features)
        bonds = atoms.new_zeros(rows.pairs.shape[1], 2)
        parts = (atoms, more), (told, more.bool())
        x, known = (torch.cat(part, dim=1) for part in parts)
        return (
            torch.cat([x.flatten(), bonds.flatten()]),
            torch.cat([known.flatten(), bonds.bool().flatten()]),
        )

    def apart(self, x: Tensor, rows: Ragged) -> list[Tensor]:
        """The state of each molecule by itself.

        Arguments:
            x: A state of them all.
            rows: The space of their atoms.
        """
        fields = self.space(rows).unpack(x)
        counts = [rows.sizes.tolist(), rows.pair_space.sizes.tolist()]
        parts = (torch.split(fields[name], n) for name, n in zip(fields, counts, strict=True))
        return [torch.cat([a.flatten(), e.flatten()]) for a, e in zip(*parts, strict=True)]

    def rows(self, item: Tensor, size: int) -> Tensor:
        """The rows of the atoms of one molecule, (n, F).

        Arguments:
            item: Its state.
            size: The number n of its atoms.
        """
        return item[: size * self.features].view(size, self.features)

    def molecules(self, items: list[Tensor], sizes: Tensor) -> Molecules:
        """The molecules of states, with their bonds.

        Arguments:
            items: A state for each, as :meth:`apart` gives them.
            sizes: The number of atoms of each.
        """
        rows = Ragged.from_sizes(sizes, centered=3)
        cuts = [size * self.features for size in sizes.tolist()]
        atoms = [item[:cut] for item, cut in zip(items, cuts, strict=True)]
        pairs = [item[cut:] for item, cut in zip(items, cuts, strict=True)]
        x = torch.cat([*atoms, *pairs])
        pos, z, bonds, orders, charges = self.decode(x, self.space(rows))
        return Molecules(
            z.numpy(), pos.numpy(), rows.ptr.numpy(), name="drawn", bonds=bonds.numpy(),
            orders=orders.numpy(), charges=None if charges is None else charges.numpy(),
        )  # fmt: skip

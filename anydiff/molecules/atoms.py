r"""The rows that diffuse: one for each atom of a batch of molecules,

.. math:: x = [\,\text{position} \mid s_t \cdot \text{one-hot type} \mid s_c \cdot z\,]

with the mean position of each molecule at 0. The scales determine at which noise level the types of
atoms are decided, relative to their positions. They belong to the data; the diffusion does not know
them.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.molecules.elements import SYMBOLS, MoleculeError, symbol
from anydiff.molecules.molecules import Molecules
from anydiff.spaces import Ragged

__all__ = ["Atoms"]


@frozen(type_scale="(0, inf)", charge_scale="(0, inf)")
class Atoms:
    """The rows that diffuse: [position | one-hot type · type_scale | z · charge_scale].

    The defaults are EDM's for QM9.

    Arguments:
        elements: Atomic numbers, in the order of the one-hot columns.
        type_scale: The factor of the one-hot columns.
        charge_scale: The factor of the column of atomic numbers, or None to leave the column out.

    Raises:
        ValueError: `elements` are not distinct atomic numbers, or a scale is not positive.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), EDM.
        https://arxiv.org/abs/2203.17003
    """

    elements: tuple[int, ...] = (1, 6, 7, 8, 9)
    type_scale: float = 0.25
    charge_scale: float | None = 0.1

    def __post_init__(self) -> None:
        given = np.atleast_1d(np.asarray(self.elements))
        known = given.dtype.kind in "iu" and given.ndim == 1
        if not known or not len(given) or given.min() < 1 or given.max() >= len(SYMBOLS):
            raise ValueError(f"elements are {self.elements}; give atomic numbers from 1 to 118.")
        if len(np.unique(given)) < len(given):
            raise ValueError(f"elements are {self.elements}; give distinct atomic numbers.")
        object.__setattr__(self, "elements", tuple(given.tolist()))

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
                f"{' '.join(map(symbol, self.elements))}; leave such molecules out, or train a model "
                "of molecules that have it."
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
                "leave such molecules out, or train a model of molecules that have it."
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
            MoleculeError: It is no batch, or as for :meth:`encode`.
        """
        missing = [key for key in ("pos", "z", "batch") if getattr(batch, key, None) is None]
        if missing:
            raise MoleculeError(
                f"{type(batch).__name__} has no {' and no '.join(missing)}; give a Batch of PyG with pos "
                "and z, such as Batch.from_data_list([data])."
            )
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

    # what a model does with molecules --------------------

    def space(self, rows: Ragged) -> Ragged:
        """The space of a state: that of the rows.

        Arguments:
            rows: The space of the atoms.
        """
        return rows

    def shape(self, rows: Ragged) -> tuple[int, ...]:
        """The shape of a state, (N, F).

        Arguments:
            rows: The space of the atoms.
        """
        return len(rows.index), self.features

    def state(self, molecules: Molecules, rows: Ragged) -> Tensor:
        """The state of molecules, with centred positions.

        Arguments:
            molecules: The molecules.
            rows: The space of their atoms.

        Raises:
            MoleculeError: As :meth:`check`.
        """
        self.check(molecules)
        device = rows.index.device
        pos, z = (torch.from_numpy(a).to(device) for a in (molecules.pos, molecules.z))
        return rows.project(self.encode(pos, z))

    def mask(self, known: Tensor | str, rows: Ragged) -> Tensor:
        """What of a state is known: the rows of atoms that are, or columns.

        Arguments:
            known: (N,) booleans; or "elements".
            rows: The space of the atoms.

        Raises:
            MoleculeError: `known` is another word.
        """
        if isinstance(known, Tensor):
            return known
        if known != "elements":
            raise MoleculeError(
                f"{known!r} of molecules is to be kept, and the model draws atoms without bonds; give "
                "'elements' or a mask of atoms, or a model with bonds."
            )
        columns = torch.arange(self.features, device=rows.index.device) >= 3
        return columns.expand(len(rows.index), -1)

    def of_elements(self, z: Tensor, rows: Ragged) -> tuple[Tensor, Tensor]:
        """A state of which the elements are known and nothing else, and the mask that says so.

        Arguments:
            z: (N,), atomic numbers.
            rows: The space of the atoms.

        Raises:
            MoleculeError: As :meth:`encode`.
        """
        x = self.encode(torch.zeros(len(z), 3, device=z.device), z)
        return x, self.mask("elements", rows)

    def apart(self, x: Tensor, rows: Ragged) -> list[Tensor]:
        """The state of each molecule by itself.

        Arguments:
            x: A state of them all.
            rows: The space of their atoms.
        """
        return list(torch.split(x, rows.sizes.tolist()))

    def rows(self, item: Tensor, size: int) -> Tensor:
        """The rows of the atoms of one molecule, (n, F): its state.

        Arguments:
            item: Its state.
            size: The number n of its atoms.
        """
        return item

    def molecules(self, items: list[Tensor], sizes: Tensor) -> Molecules:
        """The molecules of states.

        Arguments:
            items: A state for each, as :meth:`apart` gives them.
            sizes: The number of atoms of each.
        """
        pos, z = self.decode(torch.cat(items))
        offsets = np.concatenate([[0], sizes.cumsum(0).numpy()])
        return Molecules(z.numpy(), pos.numpy(), offsets, name="drawn")

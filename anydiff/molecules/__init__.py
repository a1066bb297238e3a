"""Molecules: atoms in space with their elements, in a ragged space without the centre of mass.

- `molecules`: :class:`Molecules` in memory; `atoms`: :class:`Atoms`, the rows that diffuse; `bonded`:
  :class:`Bonded`, atoms together with their bonds.
- `files` and `qm9`: molecules on disk, and QM9 with its split; `sdf`, `xyz` and `arrays` are the kinds
  of files, and `convert` takes the molecules of other libraries.
- `batches`: a resumable loader of PyG batches.
- `bonds`: bonds and stability, from distances; `matching`: bonds of molecules with SMILES;
  `fragments`: parts of molecules to keep.
- `properties`: properties as conditions; `property_model`: a network that predicts them.
- `pictures`: grids of balls and sticks as PNG, films as GIF.
- `evaluate`: metrics of generated molecules; they need RDKit.
- `models`: a trained model together with what it needs to generate molecules.
"""

from anydiff.molecules.atoms import Atoms
from anydiff.molecules.batches import loader
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.files import read_molecules
from anydiff.molecules.matching import bonds_from_smiles
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.qm9 import load_qm9

__all__ = [
    "Atoms", "Bonded", "MoleculeError", "Molecules", "bonds_from_smiles", "load_qm9", "loader",
    "read_molecules",
]  # fmt: skip

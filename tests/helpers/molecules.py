"""Molecules with positions by RDKit."""

import numpy as np

from anydiff.molecules import Molecules


def embedded(*smiles, relaxed=True):
    """Molecules with the positions that RDKit gives them, and hydrogens."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    z, pos, sizes = [], [], []
    for text in smiles:
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        AllChem.EmbedMolecule(mol, randomSeed=0)
        if relaxed and AllChem.MMFFHasAllMoleculeParams(mol):
            AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
        z += [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        pos.append(mol.GetConformer().GetPositions())
        sizes.append(mol.GetNumAtoms())
    return Molecules(np.array(z), np.concatenate(pos), np.cumsum([0, *sizes]))


def rows(molecules):
    """The arguments of the metrics."""
    return molecules.pos, molecules.z, molecules.index

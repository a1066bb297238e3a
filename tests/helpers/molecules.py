"""Molecules with positions by RDKit."""

import numpy as np

from anydiff.molecules import Molecules


def embedded_rdkit(text):
    """An RDKit molecule with hydrogens and positions."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    if AllChem.MMFFHasAllMoleculeParams(mol):
        AllChem.MMFFOptimizeMolecule(mol, maxIters=2000)
    return mol


def embedded(*smiles):
    """Molecules with the positions that RDKit gives them, and hydrogens, without their bonds."""
    mols = [embedded_rdkit(text) for text in smiles]
    z = [atom.GetAtomicNum() for mol in mols for atom in mol.GetAtoms()]
    pos = np.concatenate([mol.GetConformer().GetPositions() for mol in mols])
    return Molecules(np.array(z), pos, np.cumsum([0, *(mol.GetNumAtoms() for mol in mols)]))


def rows(molecules):
    """The arguments of the metrics."""
    return molecules.pos, molecules.z, molecules.index

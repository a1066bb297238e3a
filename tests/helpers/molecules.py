"""Molecules with positions by RDKit."""

from pathlib import Path

import numpy as np
import pytest

from anydiff.molecules import Molecules

# drug-like molecules in space with bonds and hydrogens, that come with RDKit, and how many
DRUG_LIKE = {
    "PBF/testData/egfr.sdf": 365,
    "Fastcluster/testdata/cdk2.sdf": 47,
    "FreeWilson/data/cmet_ligands.sdf": 24,
}


def drug_like(name):
    """The path of a file of drug-like molecules, by its name."""
    from rdkit import RDConfig

    (path,) = (Path(RDConfig.RDContribDir) / p for p in DRUG_LIKE if p.endswith(f"/{name}"))
    if not path.exists():
        pytest.skip(f"this RDKit comes without {name}")
    return path


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

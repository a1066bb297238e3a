"""Drug-like molecules, as files of chemists have them: more elements, more atoms, bonds and charges."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anydiff.molecules import Atoms, read_molecules
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.bonds import bond_orders
from anydiff.molecules.files import write_sdf
from anydiff.molecules.molecules import Molecules
from anydiff.spaces import Ragged
from tests.helpers.molecules import DRUG_LIKE, drug_like

NAMES = [Path(path).name for path in DRUG_LIKE]
pytestmark = pytest.mark.filterwarnings("error")  # nothing of these files is left out


@pytest.fixture(scope="module", params=NAMES)
def some(request):
    return read_molecules(drug_like(request.param))


def same(a, b, digits=1e-4):
    assert (a.z == b.z).all() and (a.offsets == b.offsets).all()
    assert (a.bonds == b.bonds).all() and (a.orders == b.orders).all()
    assert (a.charges == b.charges).all() and abs(a.pos - b.pos).max() < digits


def test_they_are_read_as_rdkit_reads_them(some):
    from rdkit import Chem

    name = Path(some.name).name
    assert len(some) == dict(zip(NAMES, DRUG_LIKE.values(), strict=True))[name]
    assert some.elements[:5] == (1, 6, 7, 8, 9) and {16, 17} < set(some.elements)
    # as it stands in the file: RDKit may choose another Kekulé structure
    theirs = list(Chem.SDMolSupplier(str(drug_like(name)), removeHs=False, sanitize=False))
    assert len(theirs) == len(some) and some.sizes.min() >= 25
    same(some, Molecules.from_rdkit(theirs), 1e-6)
    charges = np.bincount(some.index, some.charges)
    assert charges.tolist() == [Chem.GetFormalCharge(mol) for mol in theirs] and charges.any()


def test_they_are_written_and_read_again(some, tmp_path):
    write_sdf(tmp_path / "again.sdf", some)
    again = read_molecules(tmp_path / "again.sdf")
    same(some, again, 6e-5)  # four decimals
    assert again.prop_names == some.prop_names
    np.testing.assert_array_equal(again.props, some.props)


def test_distances_tell_which_atoms_are_bonded(some):
    pairs, _ = bond_orders(some.pos, some.z, some.index)
    assert (pairs == some.bonds).all()


def test_rows_hold_their_elements(some):
    atoms = Atoms(some.elements, charge_scale=None)
    pos, z = atoms.decode(atoms.encode(torch.from_numpy(some.pos), torch.from_numpy(some.z)))
    assert (pos.numpy() == some.pos).all() and (z.numpy() == some.z).all()


def test_bonds_and_charges_go_through_the_state_and_a_file(some, tmp_path):
    bonded = Bonded.fit(Atoms(some.elements, charge_scale=None), some)
    assert bonded.formal_scale is not None
    rows = Ragged.from_sizes(torch.from_numpy(some.sizes), centered=3)
    state, space = bonded.state(some, rows), bonded.space(rows)
    # less than half of what lies between two charges, the smallest of the gaps
    noise = 0.1 * space.noise(state, generator=torch.Generator().manual_seed(0))
    for x in (state, state + noise * (abs(noise) < 0.12)):
        pos, z, bonds, orders, charges = (part.numpy() for part in bonded.decode(x, space))
        drawn = Molecules(z, pos, some.offsets, charges=charges, bonds=bonds, orders=orders)
        write_sdf(tmp_path / "drawn.sdf", drawn)
        again = read_molecules(tmp_path / "drawn.sdf")
        same(drawn, again, 6e-5)
        assert (again.bonds == some.bonds).all() and (again.orders == some.orders).all()
        assert (again.charges == some.charges).all() and (again.z == some.z).all()

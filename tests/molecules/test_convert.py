"""Molecules from lists and from the objects of other libraries."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from torch_geometric.data import Batch, Data

from anydiff.molecules import MoleculeError, Molecules, load_qm9
from anydiff.molecules.fields import AROMATIC

OH2 = np.array([[0, 0, 0.1], [0.96, 0, 0], [-0.24, 0.93, 0]])


def embedded(smiles, conformers=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, conformers, randomSeed=1)
    return mol


# lists --------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_lists_with_an_entry_for_each_molecule(kind):
    one = Molecules.from_lists(
        [kind([8, 1, 1]), kind([2])], [kind(OH2.tolist()), kind([[1e7, 0.0, 0.0]])],
        charges=[kind([-1, 0, 1]), kind([0])], bonds=[kind([[2, 0], [0, 1]]), kind([])],
        orders=[kind([2, 1]), kind([])], smiles=["O", "[He]"], props=[[1], [2]], prop_names="mu",
        name="two",
    )  # fmt: skip
    assert one.offsets.tolist() == [0, 3, 4] and one.charges.tolist() == [-1, 0, 1, 0]
    assert one.bonds.tolist() == [[0, 1], [0, 2]] and one.orders.tolist() == [1, 2]
    assert (
        one.smiles == ["O", "[He]"] and one.property("mu").tolist() == [1, 2] and one.name == "two"
    )
    assert Molecules.from_lists([np.array(["O", "H", "H"])], [OH2]).z.tolist() == [8, 1, 1]
    bonded = Molecules.from_lists([[1], "HD"], [[[0, 0, 0]], [[0, 0, 0], [0, 0, 0.74]]])
    assert bonded.z.tolist() == [1, 1, 1]


def test_symbols_are_elements():
    for symbols in (["O", "h", 1], ("O", "D", "T"), np.array(["O", "H", "H"]), "OHH"):
        assert Molecules.from_lists([symbols], [OH2]).z.tolist() == [8, 1, 1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"z": [["O", "Q", "H"]]}, "molecule 0: 'Q' is not an element"),
        ({"z": [[8, 1.5, 1]]}, "molecule 0: z is .* integers"),
        ({"z": 8}, "here: z is 8; give a list"),
        ({"z": "OHH"}, "here: z is 'OHH'; give a list"),
        ({"z": [None]}, "molecule 0: z is .*integers"),
        ({"z": [8]}, r"molecule 0: z are \(\); give"),
        ({"pos": None}, "there are no pos"),
        ({"pos": [OH2[0]]}, r"molecule 0: pos are \(3,\)"),
        ({"charges": [None]}, "molecule 0: charges is .*integers"),
        ({"z": []}, "1 pos for 0 molecules"),
        ({"z": [], "pos": []}, "here holds no molecules"),
        ({"z": [[8, 1]]}, "molecule 0 has 3 pos for 2 z"),
        ({"z": [[]], "pos": [[]]}, "molecule 0 has no atoms"),
        ({"pos": [OH2, OH2]}, "2 pos for 1 molecules"),
        ({"pos": [OH2[:, :2]]}, r"molecule 0: pos are \(3, 2\); give \('n', 3\)"),
        ({"pos": [np.ma.masked_equal(OH2, 0.96)]}, "molecule 0: pos has masked values"),
        ({"charges": [[0, 0]]}, "molecule 0 has 2 charges for 3 z"),
        ({"bonds": [[(0, 1)]]}, "both bonds and orders"),
        ({"bonds": [[(0, 1)]], "orders": [[1, 1]]}, "molecule 0 has 2 orders for 1 bonds"),
        ({"bonds": [[(0, 3)]], "orders": [[1]]}, "molecule 0 has bonds to more than its 3 atoms"),
        ({"bonds": [[(0, -1)]], "orders": [[1]]}, "molecule 0 has bonds to more than its 3 atoms"),
        ({"smiles": ["O", "O"]}, "smiles are"),
    ],
)
def test_lists_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(MoleculeError, match=message):
        Molecules.from_lists(**{"z": [[8, 1, 1]], "pos": [OH2]} | changes, name="here")


# RDKit --------------------


def test_from_rdkit_each_conformer_is_a_molecule():
    mols = [embedded("CC(=O)[O-]", 2), embedded("c1ccccc1")]
    one = Molecules.from_rdkit(mols)
    assert one.ids.tolist() == [0, 0, 1] and one.sizes.tolist() == [7, 7, 12]
    assert one.charges.sum() == -2 and sorted(one.orders[-12:].tolist()) == [1] * 9 + [2] * 3
    expected = np.concatenate([c.GetPositions() for mol in mols for c in mol.GetConformers()])
    assert np.abs(one.pos - expected).max() < 1e-6
    assert mols[1].GetBondWithIdx(0).GetBondType() == Chem.BondType.AROMATIC  # it is not changed


def test_from_rdkit_what_has_no_meaning_is_refused():
    flat = Chem.MolFromSmiles("CO")
    query = embedded("CC")
    query.GetBondWithIdx(0).SetBondType(Chem.BondType.QUADRUPLE)
    dummy = Chem.RWMol(embedded("CC"))
    dummy.GetAtomWithIdx(1).SetAtomicNum(0)
    lost = embedded("CC")
    lost.GetConformer().SetAtomPosition(1, [np.nan, 0, 0])
    for mol, message in (
        (flat, "molecule 1: the molecule has no positions"),
        (query, "molecule 1: the bond of atoms 1 and 2 has no order .RDKit: QUADRUPLE"),
        (dummy, r"molecule 1: atom 2, '\*', is no element"),
        (lost, "molecule 1: atom 2 is at .*finite"),
        (Chem.Mol(), "molecule 1: the molecule has no atoms"),
        ("CO", "molecule 1: str is given; give an RDKit molecule"),
        (None, "molecule 1: NoneType is given"),
    ):
        with pytest.raises(MoleculeError, match=f"^mine: {message}"):
            Molecules.from_rdkit([embedded("C"), mol], "mine")
    with pytest.raises(MoleculeError, match="mine: Mol is given; give a list of molecules"):
        Molecules.from_rdkit(embedded("C"), "mine")
    with pytest.raises(MoleculeError, match="mine holds no molecules"):
        Molecules.from_rdkit([], "mine")


def test_aromatic_bonds_without_kekule_structure_stay_so():
    mol = embedded("c1ccccc1")
    mol.GetAtomWithIdx(0).SetAtomicNum(7)  # with a hydrogen and no charge
    assert (Molecules.from_rdkit([mol]).orders == AROMATIC).sum() == 6


# ASE --------------------


def test_from_ase_numbers_are_properties():
    ase = pytest.importorskip("ase")
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = ase.Atoms(
        "OH2", OH2 + 1e6, info={"gap": np.float32(0.5), "n": 3, "flag": True, "x": "y"}
    )
    atoms.calc = SinglePointCalculator(atoms, energy=-76.4, forces=OH2)
    one = Molecules.from_ase([atoms, ase.Atoms("He", info={"gap": np.nan})])
    assert one.z.tolist() == [8, 1, 1, 2] and one.prop_names == ("gap", "n", "energy")
    np.testing.assert_array_equal(one.props, [[0.5, 3, -76.4], [np.nan] * 3])
    assert one.pos[1] - one.pos[0] == pytest.approx([0.96, 0, -0.1], abs=1e-6)
    for wrong, message in (
        (ase.Atoms("He", cell=[1, 1, 1], pbc=True), "molecule 0: the cell is periodic"),
        (ase.Atoms(), "molecule 0: the molecule has no atoms"),
        (ase.Atoms("HX"), "molecule 0: atom 2 is no element"),
        (ase.Atoms("He", [[0, 0, np.inf]]), "molecule 0: atom 1 is at .*finite"),
        (OH2, "molecule 0: ndarray is given; give ASE's Atoms"),
    ):
        with pytest.raises(MoleculeError, match=message):
            Molecules.from_ase([wrong])


# PyG --------------------


def test_from_pyg_gives_back_what_was_given():
    part = load_qm9().subset([3, 4, 5])
    items = [part[m] for m in range(3)]
    for given in (items, iter(items), Batch.from_data_list(items)):
        back = Molecules.from_pyg(given, part.prop_names)
        assert np.array_equal(back.pos, part.pos) and np.array_equal(back.z, part.z)
        assert np.array_equal(back.offsets, part.offsets) and back.smiles == part.smiles
        np.testing.assert_allclose(back.props, part.props, rtol=1e-6)  # y is float32
        for name in ("bonds", "orders", "charges"):
            assert np.array_equal(getattr(back, name), getattr(part, name))
    assert Molecules.from_pyg(items).props is None


@pytest.mark.parametrize(
    "kind",
    [
        np.array,
        list,
        torch.tensor,
        lambda rows: torch.tensor(rows, requires_grad=isinstance(rows[0], list)),
        lambda rows: torch.tensor(rows).bfloat16() if isinstance(rows[0], list) else rows,
    ],
)
def test_from_pyg_takes_what_lists_take(kind):
    data = Data(z=kind([8, 1]), pos=kind([[0.0, 0, 0], [0, 0, 1]]), y=kind([[2.0]]))
    one = Molecules.from_pyg([data], "mu")
    assert one.z.tolist() == [8, 1] and one.pos[1].tolist() == [0, 0, 1]
    assert one.property("mu") == 2


def test_edges_of_pyg_are_bonds_where_they_have_orders():
    def read(**edges):
        data = Data(z=torch.tensor([8, 1, 1]), pos=torch.eye(3), **edges)
        return Molecules.from_pyg([data])

    ends, twice = torch.tensor([[1, 0], [0, 2]]), torch.tensor([[1, 0, 0, 2], [0, 1, 2, 0]])
    for index, orders in ((ends, [1, 1]), (twice, [1, 1, 1, 1])):
        back = read(edge_index=index, edge_attr=torch.tensor(orders))
        assert back.bonds.tolist() == [[0, 1], [0, 2]] and back.orders.tolist() == [1, 1]
    for other in (None, torch.rand(2), torch.ones(2, 1).long(), torch.tensor([0, 1])):
        assert read(edge_index=ends, edge_attr=other).bonds is None
    with pytest.raises(MoleculeError, match=r"edge_index is \(2, 2\) for 3 edge_attr"):
        read(edge_index=ends, edge_attr=torch.ones(3).long())
    with pytest.raises(MoleculeError, match="to the same atom twice"):
        read(edge_index=twice, edge_attr=torch.tensor([1, 2, 1, 1]))


def test_one_molecule_is_no_list():
    from ase import Atoms

    data = Data(z=torch.tensor([1]), pos=torch.zeros(1, 3))
    for give, one in ((Molecules.from_ase, Atoms("H")), (Molecules.from_pyg, data)):
        with pytest.raises(MoleculeError, match=r"one (Atoms|Data) is given; give a list"):
            give(one)


def test_flat_drawings_of_rdkit_are_warned_of():
    mol = Chem.MolFromSmiles("CCO")
    AllChem.Compute2DCoords(mol)
    with pytest.warns(UserWarning, match="as in drawings"):
        Molecules.from_rdkit([mol])
    mol.GetConformer().Set3D(True)
    assert len(Molecules.from_rdkit([mol])) == 1


def test_from_pyg_what_is_missing_is_named():
    for data, names, message in (
        (Data(pos=torch.rand(2, 3)), (), "molecule 0: Data is given; .*with z and pos"),
        ("CO", (), "molecule 0: str is given"),
        (load_qm9()[0], ("mu",), "molecule 0: y has 12 columns; give mu"),
        (Data(pos=torch.rand(2, 3), z=torch.ones(2).long()), ("mu",), "molecule 0: y "),
        (Data(pos=torch.rand(2, 3), z=torch.ones(3).long()), (), "molecule 0 has 2 pos for 3 z"),
        (Data(pos=torch.rand(2, 3), z=torch.rand(2)), (), "z .* integers"),
    ):
        with pytest.raises(MoleculeError, match=message):
            Molecules.from_pyg([data], names)

"""Atoms and bonds as one state: what goes in comes out, whatever the noise does to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rdkit import Chem
from torch_geometric.data import Batch, Data

from anydiff import Ragged
from anydiff.molecules import Atoms, MoleculeError, Molecules, load_qm9, loader, read_molecules
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.files import write_sdf
from tests.helpers.molecules import embedded_rdkit

QM9 = load_qm9()
ATOMS = Atoms(charge_scale=None)


def back(kind, x, rows):
    """The molecules of a state."""
    return kind.molecules(kind.apart(x, rows), rows.sizes)


def rows_of(molecules):
    return Ragged.from_sizes(torch.from_numpy(molecules.sizes), centered=3)


def assert_same(ours, theirs, charges=False):
    assert np.array_equal(ours.z, theirs.z) and np.array_equal(ours.offsets, theirs.offsets)
    assert np.array_equal(ours.bonds, theirs.bonds) and np.array_equal(ours.orders, theirs.orders)
    if charges:
        assert np.array_equal(ours.charges, theirs.charges)


@pytest.mark.parametrize("bond_scale", [0.5, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.45])
def test_all_of_qm9_comes_back_from_its_rows(share, bond_scale):
    kind, rows = Bonded(ATOMS, bond_scale), rows_of(QM9)
    x = kind.state(QM9, rows)
    space = kind.space(rows)
    fields = space.unpack(x.clone())
    generator = torch.Generator().manual_seed(0)
    for field, gap in ((fields["atoms"][:, 3:], 0.25), (fields["bonds"], bond_scale * 2 / 3)):
        field += share * gap * (2 * torch.rand(field.shape, generator=generator) - 1)
    drawn = back(kind, space.pack(fields), rows)
    assert_same(drawn, QM9)
    mean = np.add.reduceat(QM9.pos, QM9.offsets[:-1]) / QM9.sizes[:, None]
    np.testing.assert_allclose(drawn.pos, QM9.pos - mean[QM9.index], atol=1e-5)


def test_the_columns_are_existence_and_order_from_minus_one_to_one():
    pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [0, 1, 0]])
    z = torch.tensor([6, 6, 7, 1, 8])
    kind = Bonded(ATOMS, 2.0)
    space = kind.space(Ragged.from_sizes([4, 1], centered=3))
    bonds = torch.tensor([[0, 1], [2, 1], [2, 3]])
    x = kind.encode(pos, z, bonds, torch.tensor([3, 2, 1]), space)
    fields = space.unpack(x)
    none, single = [-2, -2], [2, -2 / 3]
    expected = [[2, 2], none, none, [2, 2 / 3], none, single]  # 01 02 03 12 13 23
    torch.testing.assert_close(fields["bonds"], torch.tensor(expected))
    torch.testing.assert_close(fields["atoms"], ATOMS.encode(pos, z))
    drawn = kind.decode(x, space)
    assert drawn.bonds.tolist() == [[0, 1], [1, 2], [2, 3]] and drawn.orders.tolist() == [3, 2, 1]
    assert drawn.charges is None and torch.equal(drawn.pos, pos) and torch.equal(drawn.z, z)


@pytest.mark.parametrize(
    "exists, order, drawn",
    [
        (0.1, -1 / 3, 1), (-0.1, -1 / 3, None), (1, -0.7, None), (1, 0.6, 2), (1, 0.7, 3),
        (1, 1.3, 3), (1, 1.4, None), (-1, 1, None), (float("nan"), 1, None), (1, float("nan"), None),
        (float("inf"), 1, None), (1, float("inf"), None), (-float("inf"), 1, None),
    ],
)  # fmt: skip
def test_two_atoms_are_bonded_if_both_columns_say_so(exists, order, drawn):
    kind, rows = Bonded(ATOMS, 1.0), Ragged.from_sizes([2], centered=3)
    space = kind.space(rows)
    atoms = ATOMS.encode(torch.eye(3)[:2], torch.tensor([6, 6]))
    x = space.pack({"atoms": atoms, "bonds": torch.tensor([[exists, order]]).float()})
    assert kind.decode(x, space).orders.tolist() == ([drawn] if drawn else [])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_has_no_bonds(wrong):
    some = QM9.subset(range(4))
    kind, rows = Bonded(ATOMS, formal_scale=0.25), rows_of(some)
    space = kind.space(rows)
    x = kind.state(some, rows)
    for k in range(0, len(x), 7):
        marred = x.clone()
        marred[k] = wrong
        drawn = kind.decode(marred, space)
        gone = len(some.bonds) - len(drawn.bonds)
        fields = space.unpack(marred)
        row = (~fields["atoms"].isfinite().all(1)).nonzero().flatten().tolist()
        if row:  # of an atom: all of its bonds, and no other ones
            assert gone == (some.bonds == row[0]).any(1).sum() and row[0] not in drawn.bonds
        else:
            assert (
                gone == (some.bonds == space["atoms"].pairs[:, k_of(fields)].numpy()).all(1).sum()
            )
        assert drawn.charges.abs().max() <= 15
    drawn = kind.decode(torch.full_like(x, wrong), space)
    assert not len(drawn.bonds)


def k_of(fields):
    return int((~fields["bonds"].isfinite().all(1)).nonzero())


def test_a_batch_is_what_its_molecules_are():
    kind = Bonded(ATOMS)
    some = QM9.subset(range(20, 30))
    for k, batch in enumerate(loader(some, 4, shuffle=False)):
        x, space, cond = kind.unpack(batch)
        assert cond == {} and space.weights == {"bonds": 0.3}
        torch.testing.assert_close(space.project(x), x)
        parts = some.subset(range(4 * k, min(4 * k + 4, 10)))
        assert_same(back(kind, x, space["atoms"]), parts)
        items = kind.apart(x, space["atoms"])
        for m, item in enumerate(items):
            alone = parts.subset([m])
            torch.testing.assert_close(item, kind.state(alone, rows_of(alone)))
        assert len(items) == len(parts)


def test_edges_of_one_direction_are_enough():
    kind = Bonded(ATOMS)
    data = QM9[3]
    both = kind.unpack(Batch.from_data_list([data]))[0]
    data.edge_index, data.edge_attr = data.edge_index[:, 1::2], data.edge_attr[1::2]
    assert torch.equal(kind.unpack(Batch.from_data_list([data]))[0], both)


# all elements, charges and orders that chemists' files have
CHEMISTS = [
    "C[N+](=O)[O-]", "[NH3+]CC(=O)[O-]", "OB(O)c1ccc(F)cc1", "ClC(Br)C#N", "CS(=O)(=O)Nc1nccs1",
    "CP(=O)(O)O", "C[Si](C)(C)I", "[C-]#[O+]", "c1cc[nH]c1",
]  # fmt: skip


def test_a_chemists_file_comes_back_with_its_bonds_and_charges(tmp_path):
    write_sdf(tmp_path / "in.sdf", [embedded_rdkit(text) for text in CHEMISTS])
    read = read_molecules(tmp_path / "in.sdf")
    assert len(read.elements) > 10
    kind = Bonded.fit(Atoms(read.elements, charge_scale=None), read)
    assert kind.formal_scale == 0.25 and kind.features == 3 + len(read.elements) + 1
    drawn = back(kind, kind.state(read, rows_of(read)), rows_of(read))
    assert_same(drawn, read, charges=True)
    write_sdf(tmp_path / "out.sdf", drawn)
    for mol, text in zip(Chem.SDMolSupplier(str(tmp_path / "out.sdf")), CHEMISTS, strict=True):
        assert Chem.MolToSmiles(mol, isomericSmiles=False) == Chem.CanonSmiles(text)
    x, space, _ = kind.unpack(next(iter(loader(read, shuffle=False))))
    assert_same(back(kind, x, space["atoms"]), read, charges=True)


def test_charges_are_a_column_where_they_are_no_exception():
    assert Bonded.fit(ATOMS, QM9).formal_scale is None
    assert Bonded.fit(ATOMS, replace(QM9, charges=None)).formal_scale is None
    charged = np.flatnonzero(np.logical_or.reduceat(QM9.charges != 0, QM9.offsets[:-1]))
    some = QM9.subset(charged)
    kind = Bonded.fit(ATOMS, some)
    assert kind.formal_scale == 0.25
    rows = rows_of(some)
    assert_same(back(kind, kind.state(some, rows), rows), some, charges=True)
    x = kind.state(some, rows)
    kind.space(rows).unpack(x)["atoms"][:, -1] = 50.0  # drawn with far too large a charge
    assert back(kind, x, rows).charges.tolist() == np.minimum(some.z, 15).tolist()


def test_pairs_are_known_where_both_atoms_are():
    kind, rows = Bonded(ATOMS), Ragged.from_sizes([3, 1, 2], centered=3)
    known = torch.tensor([True, False, True, True, False, True])
    fields = kind.space(rows).unpack(kind.mask(known, rows))
    assert torch.equal(fields["atoms"], known[:, None].expand(-1, kind.features))
    assert fields["bonds"].tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2]
    assert kind.shape(rows) == (6 * kind.features + 8,)


def test_the_arguments_come_back():
    for kind in (Bonded(), Bonded(Atoms((1, 6, 35)), 2.0, 0.5, 0.25)):
        assert Bonded.from_config(kind.config) == kind


def test_what_has_no_bonds_is_told():
    kind, data = Bonded(ATOMS), QM9[0]
    with pytest.raises(MoleculeError, match=r"has no bonds; give .* load_qm9\(..., bonds=True\)"):
        kind.check(replace(QM9, bonds=None, orders=None))
    del data.edge_index
    with pytest.raises(MoleculeError, match="no edge_index; give a Batch of PyG with bonds"):
        kind.unpack(Batch.from_data_list([data]))
    with pytest.raises(MoleculeError, match="F, which is not among H C"):
        Bonded(Atoms((1, 6, 7, 8))).check(QM9)
    formal = Bonded(ATOMS, formal_scale=0.25)
    with pytest.raises(MoleculeError, match="no formal charges; give them, 0 where none"):
        formal.check(replace(QM9, charges=None))
    ring = Molecules.from_lists(["CCO"], [np.eye(3)], bonds=[[[0, 1], [1, 2]]], orders=[[1, 4]])
    with pytest.raises(MoleculeError, match="molecule 0, atom 1 has an aromatic bond; read"):
        kind.check(ring)
    faulty = Data(z=torch.tensor([6, 6]), pos=torch.eye(3)[:2], edge_index=torch.tensor([[0], [1]]),
                  edge_attr=torch.tensor([4]))  # fmt: skip
    with pytest.raises(MoleculeError, match="a bond has order 4; give 1, 2 or 3"):
        kind.unpack(Batch.from_data_list([faulty]))
    with pytest.raises(ValueError, match=r"atoms are \(2, 8\); these have 9 columns"):
        formal.decode(torch.zeros(18), kind.space(Ragged.from_sizes([2], centered=3)))
    with pytest.raises(ValueError, match=r"bond_scale is 0.0; give"):
        Bonded(ATOMS, 0.0)

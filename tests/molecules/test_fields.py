from dataclasses import replace

import numpy as np
import pytest
import torch

from anydiff.molecules import MoleculeError, Molecules, read_molecules
from anydiff.molecules.fields import AROMATIC
from anydiff.molecules.files import write_npz

OH2 = np.array([[0, 0, 0.1], [0.96, 0, 0], [-0.24, 0.93, 0]])
FIELDS = ("z", "pos", "offsets", "props", "ids", "charges", "bonds", "orders")


def water(**changes):
    return Molecules(
        **{"z": np.array([8, 1, 1]), "pos": OH2, "offsets": np.array([0, 3]), **changes},
        name="here",
    )


def some(num=12, seed=0, **changes):
    """Random molecules with all that can be known of them."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, num)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    bonds = [
        np.sort(rng.permutation(n)[:2]) + first
        for first, n in zip(offsets, sizes, strict=False)
        for _ in range(n // 2)
    ]
    bonds = np.unique(np.array(bonds).reshape(-1, 2), axis=0)
    whole = {
        "z": rng.integers(1, 119, offsets[-1]),
        "pos": rng.normal(size=(offsets[-1], 3)),
        "offsets": offsets,
        "smiles": ["C" * n for n in sizes],
        "props": np.where(rng.random((num, 2)) < 0.3, np.nan, rng.normal(size=(num, 2))),
        "prop_names": ("mu", "gap in eV"),
        "ids": rng.integers(0, 10**9, num),
        "charges": rng.integers(-2, 2, offsets[-1]),
        "bonds": bonds,
        "orders": rng.integers(1, 5, len(bonds)),
    }
    return Molecules(**whole | changes)


def assert_same(one, other):
    for key in FIELDS:
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)
    assert (one.smiles, one.prop_names) == (other.smiles, other.prop_names)


def test_bonds_are_kept_in_one_order():
    one = some()
    order = np.random.default_rng(1).permutation(len(one.bonds))
    turned = one.bonds[order]
    turned[::2] = turned[::2, ::-1]
    again = replace(one, bonds=turned, orders=one.orders[order])
    assert_same(again, one)
    assert (one.bonds[:, 0] < one.bonds[:, 1]).all() and (np.diff(one.bonds[:, 0]) >= 0).all()
    assert (one.charges.dtype, one.bonds.dtype, one.orders.dtype) == (np.int8, np.int64, np.int8)


def test_a_subset_keeps_charges_and_bonds():
    one = some()
    part = one.subset([7, 3, 7])
    for k, m in enumerate([7, 3, 7]):
        ours, theirs = (
            (
                x.charges[x.offsets[n] : x.offsets[n + 1]],
                x.bonds[x.bond_offsets[n] : x.bond_offsets[n + 1]] - x.offsets[n],
                x.orders[x.bond_offsets[n] : x.bond_offsets[n + 1]],
            )
            for x, n in ((part, k), (one, m))
        )
        for a, b in zip(ours, theirs, strict=True):
            assert np.array_equal(a, b)
    assert part.bond_offsets[-1] == len(part.bonds)


def test_parts_put_together_are_the_whole():
    one = some()
    assert_same(Molecules.concatenate([one.subset(range(5)), one.subset(range(5, 12))]), one)
    assert Molecules.concatenate([one, water()]).name == one.name


def test_parts_that_know_different_things_keep_what_all_know():
    bare = water(props=np.array([[4.0, 5.0]]), prop_names=("gap in eV", "alpha"))
    both = Molecules.concatenate([some(), bare], "both")
    assert both.smiles is both.charges is both.bonds is both.orders is both.ids is None
    assert both.prop_names == ("mu", "gap in eV", "alpha") and both.name == "both"
    np.testing.assert_array_equal(both.props[-1], [np.nan, 4, 5])
    np.testing.assert_array_equal(both.props[:-1, :2], some().props)
    with pytest.raises(ValueError, match="one part or more"):
        Molecules.concatenate([])


@pytest.mark.parametrize("num", [1, 12])
def test_all_fields_survive_an_npz(tmp_path, num):
    write_npz(tmp_path / "a.npz", some(num))
    assert_same(read_molecules(tmp_path / "a.npz"), some(num))


def test_no_bonds_are_something_else_than_unknown_bonds(tmp_path):
    none = water(bonds=[], orders=[])
    assert none.bonds.shape == (0, 2) and none.bond_offsets.tolist() == [0, 0]
    write_npz(tmp_path / "a.npz", none)
    assert read_molecules(tmp_path / "a.npz").bonds.shape == (0, 2)
    with pytest.raises(MoleculeError, match="here has no bonds"):
        _ = water().bond_offsets


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9])
def test_molecules_far_from_the_origin_keep_their_bond_lengths(far):
    pos = np.concatenate([OH2 + far, OH2])
    both = water(z=[8, 1, 1] * 2, pos=pos, offsets=[0, 3, 6])
    lengths = np.linalg.norm(both.pos[[1, 2, 4, 5]] - both.pos[[0, 0, 3, 3]], axis=1)
    wanted = np.linalg.norm(OH2[1:] - OH2[0], axis=1).tolist() * 2
    assert lengths == pytest.approx(wanted, abs=1e-6 + 2 * np.spacing(far))  # float64's own loss
    assert np.array_equal(both.pos[3:], OH2.astype(np.float32))  # near ones stay in their place


def test_tensors_and_lists_are_arrays():
    lists = water(
        z=[8, 1, 1], pos=torch.tensor(OH2, requires_grad=True), offsets=(0, 3), charges=[-1, 0, 1],
        bonds=[(1, 0), (0, 2)], orders=torch.tensor([1, 2]), prop_names="mu", props=[[3]], ids=[5],
    )  # fmt: skip
    assert lists.bonds.tolist() == [[0, 1], [0, 2]] and lists.property("mu").tolist() == [3.0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"charges": [0, 0]}, r"charges are \(2,\) for 3 atoms"),
        ({"charges": [0, 0, 16]}, "molecule 0, atom 2 has charge 16; give -15 to 1"),
        ({"charges": [0, 0, 2]}, "atom 2 has charge 2; give -15 to 1"),
        ({"charges": [0, 0, 256]}, "charge 256"),
        ({"charges": [0, 0, 0.5]}, "charges is .* of float64; give integers"),
        ({"bonds": [[0, 1]]}, "bonds without orders"),
        ({"orders": [1]}, "orders without bonds"),
        ({"bonds": [[0, 1]], "orders": [1, 1]}, r"\(1, 2\) and orders \(2,\)"),
        ({"bonds": [[0, 1, 2]], "orders": [1]}, r"bonds are \(1, 3\)"),
        ({"bonds": [[0, 3]], "orders": [1]}, r"bond 0 joins the rows \[0, 3\]; give 0 to 2"),
        ({"bonds": [[-1, 0]], "orders": [1]}, "bond 0 joins"),
        ({"bonds": [[1, 1]], "orders": [1]}, "molecule 0, atom 1 is bonded to itself"),
        ({"bonds": [[0, 1], [1, 0]], "orders": [1, 1]}, "atom 0 is bonded to the same atom twice"),
        ({"bonds": [[0, 1]], "orders": [AROMATIC + 1]}, "unknown order"),
        ({"bonds": [[0, 1]], "orders": [0]}, "unknown order"),
        ({"offsets": [0, 1, 3], "bonds": [[0, 1]], "orders": [1]}, "atom of another molecule"),
        ({"pos": np.ma.masked_equal(OH2, 0.96)}, "pos has masked values"),
        ({"pos": OH2 + 0j}, "pos is .* of complex128; give numbers"),
        ({"pos": OH2.astype(str)}, "pos is .* give numbers"),
        ({"pos": [[0, 0], [0, 0, 1]]}, "pos is no array of numbers"),
        ({"pos": np.where(OH2 == 0.96, 1e39, OH2)}, "atom 1 is at .*1.*e.39.* must be finite"),
        ({"pos": np.where(OH2 == 0.96, np.inf, OH2)}, "atom 1 .*finite"),
        ({"z": [8, 1, 257]}, "atom 2 has atomic number 257"),
        ({"z": ["O", "H", "H"]}, "z is .*; give integers"),
        ({"ids": [np.nan]}, "ids is .* of float64; give integers"),
        ({"ids": [1.7]}, "ids .* integers"),
        ({"ids": ["a"]}, "ids .* integers"),
        ({"ids": np.array([2**63], np.uint64)}, "less than 2"),
        ({"ids": [[1]]}, r"ids are \(1, 1\)"),
        ({"props": [["a"]], "prop_names": ["mu"]}, "props .* numbers"),
        ({"prop_names": ["mu"]}, "prop_names without props"),
        ({"props": [[1.0, 2.0]], "prop_names": ["mu", "mu"]}, "different words"),
        ({"props": [[1.0]], "prop_names": [b"mu"]}, "different words"),
        ({"props": [[1.0]], "prop_names": ["a\nb"]}, "different words"),
        ({"smiles": "O"}, "smiles are 'O'; give a text for each"),
        ({"smiles": 3}, "smiles are 3; give a text"),
        ({"props": [[1.0]], "prop_names": 3}, "different words"),
        ({"props": [[1.0]], "prop_names": [["a"]]}, "different words"),
        ({"props": [[1.0]], "prop_names": np.array("mu")}, "different words"),
        ({"smiles": [b"O"]}, "the SMILES of molecule 0 are b'O'"),
        ({"smiles": ["O\nO"]}, "a line of text"),
        ({"smiles": ["\udcff"]}, "a line of text"),
    ],
)
def test_fields_that_cannot_be_right_are_refused(changes, message):
    with pytest.raises(MoleculeError, match=f"^here.*{message}"):
        water(**changes)


@pytest.mark.parametrize(
    "numbers", [[-1], [12], [], [1.5], ["a"], [[1]], [True], np.ones(13, bool), np.zeros(12, bool)]
)
def test_a_subset_of_something_else_is_refused(numbers):
    with pytest.raises(IndexError, match=r"indices|mask"):
        some().subset(numbers)

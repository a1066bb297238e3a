"""The door to files: kinds, packed files, folders; what is written is read again."""

import gzip
import os
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

from anydiff.data import archives
from anydiff.molecules import MoleculeError, Molecules, load_qm9, read_molecules
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.files import write_npz, write_sdf, write_xyz

XYZ = b"2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n"


@pytest.fixture(scope="module")
def sdf(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "a.sdf"
    part = load_qm9().subset([3, 4])
    write_sdf(path, to_rdkit(part.pos, part.z, part.index))
    return path.read_bytes()


# kinds --------------------


@pytest.mark.parametrize("name", ["a.sdf", "a.SD", "a.mol", "a.Sdf.Gz", "a.sd.gz", "a.mol.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_endings_of_sdf_packed_or_not(tmp_path, sdf, name, packed):
    (tmp_path / name).write_bytes(gzip.compress(sdf) if packed else sdf)
    assert len(read_molecules(tmp_path / name)) == 2


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.XYZ.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_endings_of_xyz_packed_or_not(tmp_path, name, packed):
    (tmp_path / name).write_bytes(gzip.compress(XYZ) + gzip.compress(XYZ) if packed else XYZ * 2)
    assert len(read_molecules(tmp_path / name)) == 2


def test_what_is_no_file_is_named(tmp_path):
    for name, message in (
        ("a.pdb", r"a\.pdb: give a folder, or a file with one of the endings \.npz, \.sdf"),
        ("a", "give a folder"),
        (".sdf", "give a folder"),
        ("a.xyz", "no such file"),
        ("a.npz.gz", "no such file"),
    ):
        with pytest.raises(MoleculeError, match=message):
            read_molecules(tmp_path / name)
    os.mkfifo(tmp_path / "b.xyz")
    with pytest.raises(MoleculeError, match="pipe or a device"):
        read_molecules(tmp_path / "b.xyz")
    with pytest.raises(MoleculeError, match=r"no file in it ends in one of \.sdf"):
        read_molecules(tmp_path)  # the pipe does not count
    (tmp_path / "c.xyz.gz").write_bytes(gzip.compress(XYZ * 100)[:40])
    with pytest.raises(MoleculeError, match="cut short"):
        read_molecules(tmp_path / "c.xyz.gz")
    write_npz(tmp_path / "a.npz", load_qm9().subset([0]))
    with pytest.raises(MoleculeError, match="skip=True is for text"):
        read_molecules(tmp_path / "a.npz", skip=True)


def test_a_small_packed_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGE", 2**16)
    (tmp_path / "a.xyz").write_bytes(gzip.compress(b"0" * 2**21))
    with pytest.raises(MoleculeError, match=r"a\.xyz: its .* bytes unpack to .* or more"):
        read_molecules(tmp_path / "a.xyz")


def test_a_folder_is_its_files_in_order(tmp_path, sdf):
    (tmp_path / "b.sdf").write_bytes(sdf)
    (tmp_path / "a.xyz").write_bytes(XYZ * 2)
    (tmp_path / "c.xyz.gz").write_bytes(gzip.compress(XYZ))
    (tmp_path / "notes.txt").write_text("not a molecule")
    (tmp_path / "d.sdf").mkdir()
    (tmp_path / "._a.xyz").write_bytes(b"\0\1 of macOS")
    whole = read_molecules(tmp_path, "mine")
    assert whole.z[:4].tolist() == [1] * 4 and len(whole) == 5 and whole.name == "mine"
    (tmp_path / "b.sdf").write_bytes(b"x\n" * 5 + sdf)
    with pytest.raises(MoleculeError, match=r"b\.sdf, line"):
        read_molecules(tmp_path)
    with pytest.warns(UserWarning, match=r"1 of 5 molecules .* the first: .*b\.sdf, line"):
        assert len(read_molecules(tmp_path, skip=True)) == 4


# round trips --------------------


def some(seed, **changes):
    """Random molecules with all that an SDF may have of them."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, rng.integers(1, 9))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    pairs = [
        np.sort(rng.permutation(n)[:2]) + first
        for first, n in zip(offsets, sizes, strict=False)
        for _ in range(n - 1)
    ]
    z = rng.integers(1, 119, offsets[-1])
    bonds = np.unique(np.array(pairs, int).reshape(-1, 2), axis=0)
    far = rng.choice([0, 0, 90.0], (len(sizes), 3))
    numbers = rng.normal(size=(len(sizes), 3)) * 10.0 ** rng.integers(-9, 9, (len(sizes), 3))
    props = np.where(rng.random(numbers.shape) < 0.3, np.nan, numbers)
    props[0] = 1, -2, 3e-300  # not all unknown
    whole = {
        "z": z,
        "pos": rng.normal(size=(offsets[-1], 3)) + np.repeat(far, sizes, axis=0),
        "offsets": offsets,
        "props": props,
        "prop_names": ("a", "_b <c> %", "ångström"),
        "ids": rng.integers(-5, 10**9, len(sizes)),
        "charges": np.minimum(rng.integers(-15, 16, offsets[-1]), z),
        "bonds": bonds if len(bonds) else None,
        "orders": rng.integers(1, 4, len(bonds)) if len(bonds) else None,
    }
    return Molecules(**whole | changes)


@pytest.mark.parametrize("seed", range(25))
def test_an_sdf_has_all_that_was_written(tmp_path, seed, capfd):
    one = some(seed)
    write_sdf(tmp_path / "a.sdf", one)
    back = read_molecules(tmp_path / "a.sdf")
    for key in ("z", "offsets", "ids", "charges", "bonds", "orders", "props"):
        np.testing.assert_array_equal(getattr(back, key), getattr(one, key), err_msg=key)
    assert back.prop_names == one.prop_names
    assert np.abs(back.pos - one.pos).max() < 6e-5  # four decimals, and float32 at 90 Å
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(10))
def test_other_files_have_what_they_can(tmp_path, seed):
    one = some(seed)
    write_npz(tmp_path / "a.npz", one)
    write_xyz(tmp_path / "a.xyz", one)
    npz, xyz = read_molecules(tmp_path / "a.npz"), read_molecules(tmp_path / "a.xyz")
    for key in ("z", "pos", "offsets", "ids", "charges", "bonds", "orders", "props"):
        np.testing.assert_array_equal(getattr(npz, key), getattr(one, key), err_msg=key)
    assert np.array_equal(xyz.z, one.z) and np.array_equal(xyz.offsets, one.offsets)
    assert np.abs(xyz.pos - one.pos).max() < 1e-5  # six decimals, and float32 at 90 Å


def test_infinite_values_are_unknown_and_numbers_are_whole(tmp_path):
    one = ammonium()
    one = Molecules.concatenate([one, one])
    props, ids = np.array([[1.0, np.inf], [-np.inf, 2]]), [2**63 - 1, -(2**62)]
    write_sdf(tmp_path / "a.sdf", replace(one, props=props, prop_names=("a", "b"), ids=ids))
    back = read_molecules(tmp_path / "a.sdf")
    np.testing.assert_array_equal(back.props, [[1, np.nan], [np.nan, 2]])
    assert back.ids.tolist() == ids


def test_large_and_wide_molecules_are_written_in_the_newer_version(tmp_path):
    n = 1200
    pos = np.stack([np.arange(n), np.zeros(n), np.ones(n)], axis=1) * 300.0  # to 360,000 ångström
    chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    for atoms, scale in ((n, 1), (40, 1), (n, 0.001)):
        bonds = chain[: atoms - 1]
        z, orders = np.full(atoms, 6), np.ones(len(bonds), int)
        one = Molecules(z, pos[:atoms] * scale, [0, atoms], bonds=bonds, orders=orders)
        write_sdf(tmp_path / "a.sdf", one)
        back = read_molecules(tmp_path / "a.sdf")
        assert np.array_equal(back.bonds, bonds)
        np.testing.assert_allclose(back.pos, one.pos, rtol=1e-6, atol=1e-4)


def ammonium():
    pos = np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]) * 0.6
    bonds = [(0, k) for k in range(1, 5)]
    return Molecules(
        [7, 1, 1, 1, 1], pos, [0, 5], charges=[1, 0, 0, 0, 0], bonds=bonds, orders=[1] * 4
    )


def test_ions_are_written_so_that_rdkit_reads_them(tmp_path):
    write_sdf(tmp_path / "a.sdf", ammonium())
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "a.sdf"))
    assert Chem.MolToSmiles(mol) == "[NH4+]"


@pytest.mark.parametrize("z", [1, 2, 15, 16, 17, 35, 53, 78, 118])
def test_every_element_is_written(tmp_path, z):
    write_sdf(tmp_path / "a.sdf", Molecules([z], [[0, 0, 1]], [0, 1]))
    assert read_molecules(tmp_path / "a.sdf").z.tolist() == [z]
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "a.sdf"), removeHs=False)
    assert mol.GetAtomWithIdx(0).GetTotalNumHs() == 0


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    close = Molecules([1, 1], [[0, 0, 0], [0, 0, 1e-5]], [0, 2])
    mol = to_rdkit(close.pos, close.z, close.index)
    flat = Chem.MolFromSmiles("C")
    for wrong, message in (
        (close, "with 4 decimals: molecule 0, atom 1 is at the same point"),
        (mol, "with 4 decimals"),
        ([], "no molecules to write"),
        ([flat], "molecule 0: the molecule has no positions"),
        ([None], "molecule 0: NoneType is given; give an RDKit molecule"),
        (to_rdkit(close.pos * np.nan, close.z, close.index), "must be finite"),
    ):
        with pytest.raises(MoleculeError, match=message):
            write_sdf(tmp_path / "a.sdf", wrong)
    pos, z = np.zeros((1, 3)), [1]
    for frames, comments, message in (
        ([], None, "no frames"),
        (close.subset([0]), ["a", "b"], "2 comments for 1 frames"),
        ([(pos * np.nan, z)], None, "finite"),
        ([(pos, [0])], None, "atomic number 0"),
        ([(pos, [-1])], None, "atomic number -1"),
        ([(pos, [1, 1])], None, "1 pos for 2 z"),
        ([(np.array([[0, 0, 0], [0, 0, 1e-7]]), [1, 1])], None, "6 decimals.* same point"),
        ([(pos, z)], ["Properties=species:S:1"], "says how to read"),
        ([(pos, z)], ["gdb 1"], "says how to read"),
    ):
        with pytest.raises(MoleculeError, match=message):
            write_xyz(tmp_path / "a.xyz", frames, comments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("comment", ["a\nb", "a\x85b", "\udcff", "7", "energy=1", ""])
def test_any_other_comment_may_be_written(tmp_path, comment):
    write_xyz(tmp_path / "a.xyz", ammonium(), [comment])
    assert len(read_molecules(tmp_path / "a.xyz")) == 1


# npz --------------------

WATER = {
    "z": np.array([8, 1, 1]), "pos": np.array([[0, 0, 0.1], [0.96, 0, 0], [-0.24, 0.93, 0]]),
    "offsets": np.array([0, 3]),
}  # fmt: skip
ONE = np.array([[1.0]])


@pytest.mark.parametrize(
    "more, message",
    [
        ({"index": np.array(["a"])}, "ids .* integers"),
        ({"index": np.array([np.nan])}, "ids .* integers"),
        ({"index": np.array([1.7])}, "ids .* integers"),
        ({"z": np.array(["8", "1", "1"])}, "z .* integers"),
        ({"pos": WATER["pos"].astype(str)}, "pos is <U"),
        ({"pos": np.zeros((3, 3), int)}, "pos is int64; give floating point"),
        ({"smiles": np.array([[1.0]])}, "smiles is .*; give a row of texts"),
        ({"smiles": np.array([195, 40], np.uint8)}, "smiles are not UTF-8"),
        ({"smiles": np.array(["O", "O"])}, r"smiles are \(2,\) for 1"),
        ({"props": ONE, "prop_names": np.array([3])}, "prop_names is .*; give a row of texts"),
        ({"props": np.array([["a"]]), "prop_names": np.array(["mu"])}, "props .* numbers"),
        ({"props": ONE}, "0 prop_names"),
        ({"bonds": np.array([[0, 1]])}, "bonds without orders"),
        ({"bonds": np.array([[0, 7]]), "orders": np.array([1])}, "bond 0 joins"),
    ],
)
def test_a_faulty_npz_is_named_with_its_array(tmp_path, more, message):
    np.savez(tmp_path / "a.npz", **WATER | more)
    with pytest.raises(MoleculeError, match=rf"a\.npz: .*{message}"):
        read_molecules(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "more, key, value",
    [
        ({"smiles": np.array(["O"])}, "smiles", ["O"]),
        ({"smiles": np.array([b"O"])}, "smiles", ["O"]),
        ({"smiles": np.frombuffer(b"O", np.uint8)}, "smiles", ["O"]),
        ({"props": ONE, "prop_names": "alpha"}, "prop_names", ("alpha",)),
        ({"props": ONE, "prop_names": np.array([b"alpha"])}, "prop_names", ("alpha",)),
        ({"readme": "hello"}, "name", "mine"),
    ],
)
def test_texts_of_an_npz_may_be_of_several_kinds(tmp_path, more, key, value):
    np.savez(tmp_path / "a.npz", **WATER, **more)
    assert getattr(read_molecules(tmp_path / "a.npz", "mine"), key) == value


def test_whole_numbers_times_a_scale_are_positions_exactly(tmp_path):
    z, offsets = WATER["z"], WATER["offsets"]
    numbers = np.rint(WATER["pos"] * 1e4).astype(np.int64) + 10**10  # 1,000 km away
    path = tmp_path / "a.npz"
    np.savez(path, z=z, pos_q=numbers, pos_scale=1e-4, n_atoms=np.array([3]))
    pos = read_molecules(path).pos
    assert pos - pos[0] == pytest.approx(WATER["pos"] - WATER["pos"][0], abs=1e-6)
    for wrong, message in (
        ({"pos_scale": "a"}, "pos_scale .* numbers"),
        ({"pos_scale": np.ones(2)}, "give one number"),
        ({"pos_q": numbers * 1.0}, "pos_q .* integers"),
        ({"pos_scale": np.nan}, "finite"),
        ({"n_atoms": np.array([2.5])}, "n_atoms .* integers"),
    ):
        np.savez(path, **{"z": z, "pos_q": numbers, "pos_scale": 1.0, "n_atoms": [3]} | wrong)
        with pytest.raises(MoleculeError, match=message):
            read_molecules(path)
    assert offsets[-1] == len(z)

"""QM9 from its sources, its subset and its split."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from anydiff.data.sizes import SizeDistribution
from anydiff.molecules import MoleculeError, load_qm9, qm9
from anydiff.molecules.elements import LeftOut
from anydiff.molecules.files import write_npz
from anydiff.molecules.qm9 import read_qm9_csv, split
from tests.helpers.paths import SHARED

needs_full = pytest.mark.skipif(
    not (SHARED / "qm9_full.npz").exists(), reason="the full QM9 isn't here"
)


@pytest.fixture(scope="module")
def molecules():
    return load_qm9()


HEADER = "XYZ_file,Index,SMILES,N_atoms,Elements,XYZ_Ang," + ",".join(qm9._COLUMNS)
METHANE = (
    "\"a.xyz\",1,\"C\",5,\"['C','H','H','H','H']\",\"[[0.,1.2*^-5,0.],[0.6,0.6,0.6],[-0.6,-0.6,0.6],"
    '[0.6,-0.6,-0.6],[-0.6,0.6,-0.6]]",0.,13.21,-0.3877,0.1171,0.5048,35.3641,0.044749,'
    "-40.47893,-40.476062,-40.475117,-40.498597,6.469"
)
WATER = (
    '"b.xyz",3,"O",3,"[\'O\',\'H\',\'H\']","[[0.,0.,0.],[0.96,0.,0.],[-0.24,0.93,0.]]",'
    "1.8511,6.31,-0.2928,0.0687,0.3615,19.0002,0.021375,-76.4,-76.4,-76.4,-76.4,6.002"
)


def tables(folder, *rows, header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    for k, row in enumerate(rows):
        (folder / f"qm9_part{k + 1}.csv").write_text(header + "\n" + row)
    return folder


def test_tables_are_read_in_the_order_of_their_numbers(tmp_path):
    read = read_qm9_csv(tables(tmp_path, WATER, METHANE), progress=False)
    assert read.ids.tolist() == [1, 3] and list(read.smiles) == ["C", "O"]
    assert read.z.tolist() == [6, 1, 1, 1, 1, 8, 1, 1]
    assert read.pos[0].tolist() == pytest.approx([0, 1.2e-5, 0])
    assert read.property("mu").tolist() == [0, 1.8511] and read.property("Cv")[1] == 6.002


@pytest.mark.parametrize(
    "row, message",
    [
        (WATER.replace("'O'", "'Xx'"), "line 2: 'Xx' is not an element"),
        (WATER.replace("0.93", "?"), "line 2: .*faulty"),
        (WATER.replace("0.93", "0_0.93"), "line 2: .*faulty"),
        (WATER.replace(",3,", ",\u0663,", 1), "line 2: .*faulty"),
        (WATER + "\n" + METHANE.replace("a.xyz", "\0" + "x" * 200_000), "after line 2: .*limit"),
        (WATER.replace(",0.93", ""), "line 2: 3 atoms, but 3 elements and 8"),
        (WATER.replace("0.93", "inf"), "molecule 0, atom 2"),
        (WATER[:-40], "line 2: .* columns"),
        (METHANE + "\n" + WATER[:70], "line 3: .* columns"),
    ],
)
def test_a_faulty_table_is_named_by_file_and_line(tmp_path, row, message):
    with pytest.raises(MoleculeError, match=message) as error:
        read_qm9_csv(tables(tmp_path, row), progress=False)
    assert str(tmp_path) in str(error.value)


def test_a_missing_table_or_column_is_named(tmp_path):
    with pytest.raises(MoleculeError, match="no tables"):
        read_qm9_csv(tmp_path)
    with pytest.raises(MoleculeError, match=r"qm9_part1.csv, line 1: no column 'SMILES'"):
        read_qm9_csv(tables(tmp_path, WATER, header=HEADER.replace("SMILES", "Smiles")))


def test_the_parsed_set_is_cached_checked_and_made_anew(tmp_path, monkeypatch):
    folder = tables(tmp_path / "site" / "qm9pack" / "data", METHANE, WATER)
    about = tmp_path / "site" / "qm9pack-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: qm9pack\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(MoleculeError, match="2 molecules, not 130831"):
        load_qm9("full", progress=False)
    assert not (tmp_path / "cache").exists()  # no half result

    monkeypatch.setattr(qm9, "_FULL", 2)
    first = load_qm9("full", progress=False)
    cached = tmp_path / "cache" / "anydiff" / "qm9pack-9.9.npz"
    assert cached.exists()
    (folder / "qm9_part1.csv").unlink()
    assert np.array_equal(load_qm9("full").pos, first.pos)  # from the cache

    tables(folder, METHANE)
    cached.write_bytes(cached.read_bytes()[:200])
    with pytest.warns(UserWarning, match="qm9pack-9.9.npz.*written again"):
        assert np.array_equal(load_qm9("full", progress=False).pos, first.pos)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_qm9("full", cache=tmp_path / "cache" / "anydiff")


def test_bonds_are_made_when_they_are_asked_for_and_cached(tmp_path, monkeypatch):
    about = tmp_path / "site" / "qm9pack-9.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: qm9pack\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    # these positions of methane are a square, so that only those of water agree
    folder = tables(
        tmp_path / "site" / "qm9pack" / "data", METHANE.replace("0.6,0.6", "9,9"), WATER
    )
    monkeypatch.setattr(qm9, "_FULL", 2)
    given = {"cache": tmp_path / "cache", "progress": False}
    with pytest.warns(LeftOut, match="1 of 2 molecules are left out; their positions do not agree"):
        made = load_qm9("full", bonds=True, **given)
    assert list(made.smiles) == ["O"] and made.bonds.tolist() == [[0, 1], [0, 2]]
    for table in folder.iterdir():
        table.unlink()
    with pytest.warns(LeftOut, match="1 of 2 molecules are left out"):
        again = load_qm9("full", bonds=True, **given)
    assert np.array_equal(again.bonds, made.bonds) and np.array_equal(again.pos, made.pos)
    plain = load_qm9("full", **given)  # asked for or not, the same
    assert len(plain) == 2 and plain.bonds is None

    shipped = load_qm9("5k", bonds=True)
    assert np.array_equal(shipped.bonds, load_qm9("5k").bonds)
    with_smiles = replace(shipped.subset(range(9)), bonds=None, orders=None, charges=None)
    write_npz(tmp_path / "some.npz", with_smiles)
    read = load_qm9(tmp_path / "some.npz", bonds=True)
    assert np.array_equal(read.bonds, shipped.subset(range(9)).bonds)
    write_npz(tmp_path / "none.npz", replace(with_smiles, smiles=None))
    with pytest.raises(MoleculeError, match=r"none.npz has no SMILES; give"):
        load_qm9(tmp_path / "none.npz", bonds=True)


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise qm9.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(qm9.metadata, "distribution", missing)
    with pytest.raises(ImportError, match=r"anydiff\[qm9\]"):
        load_qm9("full")


def test_pyg_gives_the_same_arrays_and_units(tmp_path, molecules):
    from torch_geometric.datasets import QM9

    for name in ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / name).touch()
    (tmp_path / "processed").mkdir()
    part = molecules.subset([2, 5, 9])
    y = torch.zeros(3, 19)
    y[:, :12] = torch.tensor(part.props)
    y[:, [2, 3, 4, 6, 7, 8, 9, 10]] *= 27.211386246  # PyG keeps eV
    items = [
        Data(
            pos=part[k].pos,
            z=part[k].z,
            y=y[k : k + 1],
            smiles=part.smiles[k],
            idx=int(part.ids[k]) - 1,
        )
        for k in range(3)
    ]
    QM9.save(items, str(tmp_path / "processed" / "data_v3.pt"))
    read = load_qm9("full", root=tmp_path)
    assert np.array_equal(read.pos, part.pos) and np.array_equal(read.z, part.z)
    assert np.array_equal(read.offsets, part.offsets) and np.array_equal(read.ids, part.ids)
    assert read.smiles == part.smiles
    assert read.props == pytest.approx(part.props, rel=1e-6)  # PyG's are float32


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_v3.pt", "pre_transform.pt", "pre_filter.pt"])
def test_no_folder_runs_code(tmp_path, name):
    for part in ("raw/gdb9.sdf", "raw/gdb9.sdf.csv", "raw/uncharacterized.txt", "processed/x"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).touch()
    torch.save((Runs(tmp_path / "ran"), None), tmp_path / "processed" / name)
    with pytest.raises(MoleculeError, match=r"data_v3.pt.*(prepare it again|no such file)"):
        load_qm9("full", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [None, 3, (1, 2), ({}, {}), ({"z": torch.ones(2)}, None)])
def test_a_folder_without_molecules_is_named(tmp_path, held):
    (tmp_path / "processed").mkdir()
    torch.save(held, tmp_path / "processed/data_v3.pt")
    with pytest.raises(MoleculeError, match=r"data_v3.pt is not what PyG's QM9 writes"):
        load_qm9("full", tmp_path)


def test_the_split_shares_nothing_and_misses_nothing():
    for num, sizes in ((130_831, (100_000, 17_748, 13_083)), (5000, (3821, 678, 501))):
        parts = split(num)
        assert tuple(map(len, parts)) == sizes
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num))
    with pytest.raises(ValueError, match="num is -1"):
        split(-1)
    np.random.seed(0)
    assert np.array_equal(np.random.permutation(130_831)[:100_000], split().train)


@pytest.mark.parametrize("labels", [np.arange(1000) // 7, [f"m{k % 150}" for k in range(1000)]])
def test_conformers_of_a_molecule_stay_in_one_part(labels):
    parts = split(groups=labels)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    names = [{np.asarray(labels)[k].item() for k in part} for part in parts]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    assert len(parts.train) == pytest.approx(764, abs=30) and len(parts.valid) > 100
    for one, other in zip(split(1000, np.arange(1000)), split(1000), strict=True):
        assert np.array_equal(one, other)  # the usual split, if all labels differ
    with pytest.raises(ValueError, match=r"groups are \(1000,\); give \(999,\)"):
        split(999, labels)
    with pytest.raises(ValueError, match="groups are"):
        split(groups=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="labels of several kinds; give numbers, or texts"):
        split(groups=["a", None, "b"])


def test_what_is_neither_a_name_nor_a_path_is_told():
    with pytest.raises(MoleculeError, match="'6k': give 5k, full, or the path"):
        load_qm9("6k")
    with pytest.raises(MoleculeError, match="leave out skip"):
        load_qm9("5k", skip=True)


@needs_full
def test_the_training_part_has_the_published_histogram_of_sizes():
    full = load_qm9(SHARED / "qm9_full.npz")
    sizes = full.sizes[split(len(full)).train]
    # datasets_config.py of the reference implementation lists these counts
    published = {3: 1, 9: 124, 14: 5136, 17: 13025, 19: 13832, 22: 3393, 25: 1506, 27: 266, 29: 25}
    counts = np.bincount(sizes)
    assert {n: int(counts[n]) for n in published} == published
    assert SizeDistribution.from_sizes(sizes).entropy == pytest.approx(2.4757, abs=5e-5)

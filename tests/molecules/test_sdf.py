"""SDF and mol files: what is read is what RDKit reads, and what isn't read is named by its line."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import AllChem

from anydiff.molecules import MoleculeError, load_qm9, read_molecules
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.fields import AROMATIC

REST = "  0" * 12
WATER = [(0, 0, 0.1, "O"), (0.96, 0, 0, "H"), (-0.24, 0.93, 0, "H")]
FLAT = [(0, 0, 0, "O"), (0.76, 0.5, 0, "H"), (-0.76, 0.5, 0, "H")]


def record(
    atoms=WATER, title="t", program="  program 01010124003D", comment="", end="$$$$\n", more="", bonds=0
):  # fmt: skip
    lines = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {s:<3s}{REST}\n" for x, y, z, s in atoms)
    counts = f"{len(atoms):3d}{bonds:3d}  0  0  0  0  0  0  0  0999 V2000"
    return f"{title}\n{program}\n{comment}\n{counts}\n{lines}{more}M  END\n{end}"


def v3000(*atoms, more="", counts=None):
    lines = "".join(f"M  V30 {atom}\n" for atom in atoms)
    return (
        "t\n  program 01010124003D\n\n  0  0  0  0  0  0  0  0  0  0999 V3000\nM  V30 BEGIN CTAB\n"
        f"M  V30 COUNTS {counts or len(atoms)} 0 0 0 0\nM  V30 BEGIN ATOM\n{lines}M  V30 END ATOM\n"
        f"{more}M  V30 END CTAB\nM  END\n$$$$\n"
    )


@pytest.fixture
def read(tmp_path):
    def read(text, name="a.sdf", **how):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_molecules(tmp_path / name, "a.sdf", **how)

    return read


# records --------------------


@pytest.mark.parametrize("name", ["a.sdf", "a.mol"])
@pytest.mark.parametrize("title", ["t", ""])
@pytest.mark.parametrize(
    "end", ["", "\n", "> <a>\n1\n\n", "> <a>\n1\n\n> <b>\nx\ny\n\n", "$$$$ end\n"]
)
def test_no_record_is_lost_where_separators_are_missing_or_long(read, name, title, end):
    several = read(record(title=title, end=end) * 5 + record(), name)
    assert several.sizes.tolist() == [3] * 6
    assert np.abs(several.pos.reshape(6, 3, 3) - several.pos[:3]).max() == 0
    if "<a>" in end:
        np.testing.assert_array_equal(several.property("a"), [1] * 5 + [np.nan])


@pytest.mark.parametrize("mend", ["\n", "\r\n", "\r"])
def test_lines_end_only_where_lines_end(read, mend):
    odd = "".join(
        record(title=f"a{c}b", comment=c) for c in ("\f", "\v", "\x1c", "\x85", "\u2028", "\u2029")
    )
    assert len(read(odd.replace("\n", mend))) == 6
    with pytest.raises(MoleculeError, match=r"line 59: 'Q' is not an element"):
        read((odd + record([(0, 0, 0, "Q")])).replace("\n", mend))


def test_text_that_is_not_utf_8_does_not_matter(read):
    latin = record(title="café", end="> <ångström>\nå\n\n> <d>\n2\n\n$$$$\n").encode("latin-1")
    assert read(latin).property("d").tolist() == [2]
    assert (
        len(read(b"\xef\xbb\xbf" + record().encode())) == len(read(record().encode("utf-16"))) == 1
    )
    assert len(read(record(comment="μ", more="M  CHG  1   1  -1\n").encode())) == 1


@pytest.mark.parametrize(
    "text, message",
    [
        (record() + record(end="text\n"), "line 18: 'text' should be a data field"),
        (record(end="> <a>\n1\n") + record(), "line 14: a blank line should end the data field"),
        (record().replace("M  END\n", "") + record(), "line 8: the record ends where M  END"),
        ("a\nb\n", "line 3: the record ends where the counts line"),
        ("a\nb\nc\nd\ne\n", "line 4: 'd' should be the counts line"),
        (record().replace("V2000", "V9000"), "line 4: .*should be the counts line"),
        ("one more line\n" + record(), "line 5: the counts line should be the fourth"),
        (record([]), "line 4: the molecule has no atoms"),
        (record().replace("  3  0", "  4  0"), "line 8: M  END comes before the last of 4 atoms"),
        (record().replace("  3  0", "1 2  0"), "line 4: '1 2  0' should be two numbers"),
        (record().replace("  3  0", "  3 -1"), "line 4: .*should be"),
        (record().replace("  0.9600", "  0,9600"), r"line 6: the coordinate '0,9600' should be a num"),
        (record().replace("  0.9600", "        "), "line 6: the coordinate '' should be a number"),
        (record().replace("  0.9600", "  1_0.74"), "line 6: the coordinate '1_0.74' should be"),
        (record().replace("  0.9600", "     nan"), "line 6: the coordinate 'nan' should be a number"),
        (record().replace("  0.9600", " 1e99999"), "line 6: the coordinate .* is not finite"),
        (record().replace("  0.9600", "  1.0e30"), "line 6: the coordinate .* is too large"),
        (record([*WATER, (1, 1, 1, "R#")]), "line 8: 'R#' is not an element"),
        (record([*WATER, (1, 1, 1, "*")]), r"line 8: '\*' is not an element"),
        (record([*WATER, (1, 1, 1, "A")]), "line 8: 'A' is not an element"),
        (record([*WATER, (0, 0, 0.1, "H")]), "line 1: atoms 1 and 4, .* at the same point"),
        (record(more="M  RGP  1   2   1\n"), "atom 2, 'H', is no element but a placeholder"),
        (record(more="M  CHG  1   1 -16\n"), "atom 1 has charge -16; give -15 to 8"),
        (record(more="M  CHG  1   1  x1\n"), "line 8: RDKit refuses the record: Cannot convert '  x1'"),
        (record(more="nonsense\n"), "line 8: RDKit refuses the record"),
        (record(more="  1  9  1\n", bonds=1), "line 4: RDKit refuses the record: .*8 < 3"),
        (record(more="  1  1  1\n", bonds=1), "attempt to add self-bond"),
        (record(more="  1  2  8\n", bonds=1), "the bond of atoms 1 and 2 has no order"),
        (record(more="  1  2  0\n", bonds=1), "the bond of atoms 1 and 2 has no order"),
        ("", "a.sdf holds no molecules"),
        ("$$$$\n\n$$$$\n", "a.sdf holds no molecules"),
        (b"\0\xff" * 500, "line 2: the record ends"),
    ],
)  # fmt: skip
def test_what_is_no_record_is_named_by_its_line(read, text, message, capfd):
    with pytest.raises(MoleculeError, match=message):
        read(text)
    assert capfd.readouterr() == ("", "")  # RDKit says nothing beside


def test_skip_leaves_out_what_is_faulty_and_says_how_much(read):
    bad = [
        record([]),
        record([*WATER, (1, 1, 1, "R#")]),
        record([WATER[0]] * 2),
        record(more="  x\n"),
    ]
    with pytest.warns(UserWarning, match="left out") as warned:
        rest = read("".join(record() + text for text in bad) + "a\n$$$$\n" + record(), skip=True)
    assert len(rest) == 5 and len(warned) == 1
    said = str(warned[0].message)
    assert (
        "5 of 10 molecules are left out; the first: " in said
        and "line 13: the molecule has" in said
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(record() * 2, skip=True)) == 2
    with pytest.raises(MoleculeError, match=r"none of 2 molecules can be read; .*line 4"):
        read(record([]) * 2, skip=True)


@pytest.mark.parametrize(
    "text",
    [
        "\n\n" + record(), record() + "\n\n" + record(), record(title="").lstrip("\n"),
        record().strip(), record(more="\n"), record().replace("M  END", "M END"),
        record().replace("M  END\n", "M  END\n\n\n"), record().replace("999 V2000", ""),
        record().replace("V2000", "v2000"), record(more="A    1\n\n"), record(more="M  STY  1   1 ZZZ\n"),
        record([(x, y, z, s.lower()) for x, y, z, s in WATER]),
        "\n".join(line[:34] if "  0" * 12 in line else line for line in record().split("\n")),
    ],
)  # fmt: skip
def test_what_is_only_untidy_is_read(read, text):
    assert np.array_equal(read(text).pos[:3], read(record()).pos)


def test_exponents_keep_their_digits(read):
    small = record().replace("    0.9600", "  7.40e-05")
    assert read(small).pos[1, 0] == pytest.approx(7.4e-5, rel=1e-4)
    assert read(record().replace("    0.9600", " 9.600D-01")).pos[1, 0] == pytest.approx(0.96)


# drawings --------------------


@pytest.mark.parametrize("program", ["  program 01010124002D", "made by my own tool 2D to 3D", ""])
def test_positions_in_space_are_read_whatever_their_mark(read, program):
    assert read(record(program=program)).pos[0, 2] == np.float32(0.1)


def test_drawings_are_refused(read):
    drawn = record(FLAT, program="  program 01010124002D")
    with pytest.raises(MoleculeError, match="line 4: all z are 0: it is marked 2D"):
        read(drawn)
    with pytest.warns(UserWarning, match="1 of 2"):
        assert len(read(drawn + record(), skip=True)) == 1
    with pytest.raises(MoleculeError, match=r"line 1: all z of all molecules are 0.*mark .* 3D"):
        read(record(FLAT, program="") * 2)
    assert len(read(record(FLAT))) == 1  # a flat molecule, not a drawing
    assert len(read(record(FLAT, program="") + record(program=""))) == 2


# what is read --------------------


def test_bonds_charges_and_isotopes(read):
    bonds = "  3  1  1  0\n  1  2  9  0\nM  CHG  2   1  -1   3   1\nM  ISO  1   2   2\n"
    heavy = [(0, 0, 0.1, "O"), (0.96, 0, 0, "D"), (-0.24, 0.93, 0, "T")]
    one = read(record(WATER, more=bonds, bonds=2) + record(heavy))
    assert one.charges.tolist() == [-1, 0, 1, 0, 0, 0] and one.z.tolist() == [8, 1, 1] * 2
    assert one.bonds.tolist() == [[0, 1], [0, 2]] and one.orders.tolist() == [1, 1]
    assert read(record()).bonds is None  # no molecule has any
    code = record().replace(f" O  {REST}", " O   0  5")
    assert read(code).charges.tolist() == [-1, 0, 0]  # in the line of the atom


def test_aromatic_bonds_are_single_and_double_where_that_is_known(read, capfd):
    def ring(charge):
        mol = Chem.AddHs(Chem.MolFromSmiles("c1ccc[n+](C)c1"))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        lines = Chem.MolToMolBlock(mol, kekulize=False).split("\n")
        return read("\n".join(line for line in lines if charge or "CHG" not in line))

    assert np.bincount(ring(True).orders).tolist() == [0, 12, 3]
    assert (ring(False).orders == AROMATIC).sum() == 6
    assert capfd.readouterr() == ("", "")


def test_data_fields_that_are_numbers_are_properties(read):
    fields = (
        ">  <alpha>  (1)\n1.5\n\n> <name>\nfoo\n\n> 25 <b > c>\n-2e3\n\n> DT12\n7\n\n$$$$\n",
        "> <alpha>\nnone\n\n> <two>\n1\n2\n\n> <one>\n 1 \n> <nan>\nnan\n\n$$$$\n",
        "> <alpha>\n1_0\n\n",
    )
    one = read("".join(record(end=end) for end in fields))
    assert one.prop_names == ("alpha", "b > c", "one")
    nan = np.nan
    np.testing.assert_array_equal(one.props, [[1.5, -2000, nan], [nan, nan, 1], [nan, nan, nan]])
    assert read(record()).props is None


def test_texts_of_data_fields_may_hold_blank_lines(read):
    end = "> <text>\none\n\n\ntwo: M  END\n\nthree\n\n> <b>\n2\n\n"
    for text in (record(end=end + "$$$$\n") + record(), record(end=end) + record()):
        two = read(text)
        assert two.prop_names == ("b",) and two.sizes.tolist() == [3, 3]
    for end in ("> <a>\n1\n\ntext\n", "> <text>\none\n\nM  END\n"):  # a number; a lost record
        with pytest.raises(MoleculeError, match=r"line 12: .* should be a data field"):
            read(record(end=end))


def test_titles_are_numbers_or_tell_conformers(read):
    def ids(*titles):
        return read("".join(record(title=title) for title in titles)).ids

    assert ids("7", " -3", "7").tolist() == [7, -3, 7]
    assert ids(str(2**63 - 1), "1").tolist() == [2**63 - 1, 1]
    assert ids(str(2**63), "1").tolist() == [0, 1]
    assert ids("one", "two", "one", "3").tolist() == [0, 1, 0, 3]
    assert ids("gdb_7", "gdb_12").tolist() == [7, 12]  # as in QM9's own SDF
    assert ids("one", "") is None


# V3000 --------------------

ATOMS = ("1 O 0 0 0.1 0", "2 H 0.96 0 0 0", "3 H -0.24 0.93 0 0")


@pytest.mark.parametrize(
    "atoms",
    [
        ("1 O 0 0 -\nM  V30 0.1 0", "2 H 0.96 0-\nM  V30  0 -\nM  V30 0", ATOMS[2]),
        ("10 O 0 0 .1 0 CHG=0 VAL=-1", "2 D 9.6D-1 0 0 0", '3 "H" -0.24 93.*^-2 0 0'),
        ("1 o 0 0 0.1", "2 H +.96 0 0", ATOMS[2]),
    ],
)
def test_v3000_is_read(read, atoms):
    assert np.array_equal(read(v3000(*atoms)).pos, read(record()).pos)
    assert read(v3000(*ATOMS, more="M  V30 BEGIN FOO\nM  V30 bar\nM  V30 END FOO\n")).sizes == [3]
    space = "M  V30 BEGIN OBJ3D 1\nM  V30 1 -7 0 0 0\nM  V30 END OBJ3D\n"
    assert read(v3000(*ATOMS, more=space)).sizes == [3]
    templates = "M  V30 END CTAB\n" + space.replace("OBJ3D", "TEMPLATE")
    assert read(v3000(*ATOMS).replace("M  V30 END CTAB\n", templates)).sizes == [3]


@pytest.mark.parametrize(
    "word", ["1,5", "abc", "1_0", "nan", "inf", "0x10", "1.5x", "1e400", "\u0663"]
)
def test_v3000_refuses_coordinates_of_which_rdkit_takes_the_beginning(read, word):
    with pytest.raises(MoleculeError, match=r"line 8: the coordinate .* (should be a|is not fin)"):
        read(v3000(f"1 O {word} 0 0.1 0", *ATOMS[1:]))


@pytest.mark.parametrize(
    "atoms, counts, message",
    [
        (("1 * 0 0 0.1 0",), None, r"line 8: '\*' is not an element"),
        (("1 [C,N] 0 0 0.1 0",), None, r"line 8: '\[C,N\]' is not"),
        (("1 O 0 0",), None, "line 8: .* should be an atom"),
        ((ATOMS[0], ATOMS[1].replace("2", "1", 1)), None, "line 9: there are two atoms with the"),
        (ATOMS, 4, "line 11: there are 3 atoms, not the 4 of COUNTS"),
        (ATOMS, 2, "line 10: there are more than the 2 atoms"),
        (ATOMS, "x", "RDKit refuses"),
        (("1 O 1e10 0 0",), None, "line 1: atom 1 is at .*below 10"),
        ((), 0, "line 6: the molecule has no atoms"),
        (("1 O 0 -\n0 0.1 0",), None, "line 9: after a line that ends in -, M  V30 and the rest"),
    ],
)  # fmt: skip
def test_a_faulty_v3000_is_named_by_its_line(read, atoms, counts, message):
    with pytest.raises(MoleculeError, match=message):
        read(v3000(*atoms, counts=counts))


# against RDKit --------------------


def as_rdkit(mols):
    """What RDKit has of molecules, the parts that are kept."""
    for mol in mols:
        bonds = {
            tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))): b.GetBondTypeAsDouble()
            for b in mol.GetBonds()
        }
        z = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
        yield z, charges, mol.GetConformer().GetPositions(), bonds


def assert_as_rdkit(ours, mols):
    for m, (z, charges, pos, bonds) in enumerate(as_rdkit(mols)):
        rows = slice(ours.offsets[m], ours.offsets[m + 1])
        assert ours.z[rows].tolist() == z and ours.charges[rows].tolist() == charges
        np.testing.assert_allclose(ours.pos[rows], pos, rtol=0, atol=4e-6)  # float32 at 100 Å
        pairs = ours.bonds[slice(*ours.bond_offsets[m : m + 2])] - ours.offsets[m]
        orders = ours.orders[slice(*ours.bond_offsets[m : m + 2])].tolist()
        assert {tuple(p) for p in pairs.tolist()} == bonds.keys()
        for pair, order in zip(pairs.tolist(), orders, strict=True):
            assert order == bonds[tuple(pair)] or bonds[tuple(pair)] == 1.5
    assert m + 1 == len(ours)


@pytest.mark.parametrize("v3000", [False, True])
def test_all_is_as_rdkit_reads_it(tmp_path, v3000):
    part = load_qm9().subset(range(0, 5000, 50))
    with Chem.SDWriter(str(tmp_path / "a.sdf")) as writer:
        writer.SetForceV3000(v3000)
        writer.SetKekulize(False)
        for mol in to_rdkit(part.pos, part.z, part.index):
            writer.write(mol)
    supplier = Chem.SDMolSupplier(str(tmp_path / "a.sdf"), sanitize=False, removeHs=False)
    assert_as_rdkit(read_molecules(tmp_path / "a.sdf"), supplier)


def test_files_that_come_with_rdkit_are_read_as_it_reads_them():
    paths = [p for p in Path(RDConfig.RDDataDir).parent.rglob("*") if p.suffix in (".sdf", ".mol")]
    read = 0
    for path in paths:
        try:
            ours = read_molecules(path)
        except MoleculeError:
            continue
        with rdBase.BlockLogs():
            supplier = Chem.SDMolSupplier(str(path), False, False, False)
            assert_as_rdkit(ours, supplier)
        read += 1
    if not read:
        pytest.skip("RDKit has no such files here")


def test_a_missing_rdkit_is_named_with_its_extra(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.sdf").write_text(record())
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"rdkit.*anydiff\[molecules\]"):
        read_molecules(tmp_path / "a.sdf")
    assert len(load_qm9()) == 5000  # what is shipped doesn't need it

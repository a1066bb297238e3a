"""XYZ files: plain, extended, and QM9's own."""

import numpy as np
import pytest

from anydiff.molecules import MoleculeError, load_qm9, qm9, read_molecules
from anydiff.molecules.xyz import QM9_PROPERTIES

H2 = "2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n"


@pytest.fixture
def read(tmp_path):
    def read(text, name="a.xyz", **how):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_molecules(tmp_path / name, "a.xyz", **how)

    return read


# plain --------------------


@pytest.mark.parametrize(
    "text",
    [
        H2, "\n\n" + H2, H2 + "\n \n", " 2 \n\n h 0 0 0\n H\t0 0 7.4D-01 0.1 more\n",
        "2\n\n1 0 0 0\n1 0. -.0 74.*^-2\n", "2\n\nD 0 0 0\nT 0 0 +.74E+0\n", H2.replace("\n", "\r\n"),
        H2.replace("\n", "\r"), "\ufeff" + H2, H2.encode("utf-16"), H2.replace("hydrogen", "Å\x85\x1c\f"),
        "2\nd = 0.74 \xc5\nH 0 0 0\nH 0 0 0.74\n".encode("latin-1"), "2\n3\nH 0 0 0\nH 0 0 0.74\n",
    ],
)  # fmt: skip
def test_one_molecule_in_many_hands(read, text):
    one = read(text)
    assert one.z.tolist() == [1, 1] and one.pos.tolist() == read(H2).pos.tolist()
    assert one.charges is one.bonds is one.props is one.ids is None


def test_blank_lines_between_frames(read):
    assert read(f"{H2}\n\n{H2}\n{H2}\n").sizes.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("\u00b2\nc\nH 0 0 0\nH 0 0 0.74\n", "line 1: .*should be the number of atoms"),
        ("9" * 5000 + "\n\nH 0 0 0\n", r"line 1: '9+\.\.\.' should be the number of atoms"),
        ("1_0\n\nH 0 0 0\n", "line 1"),
        ("-2\n\nH 0 0 0\n", "line 1"),
        ("2.0\n\nH 0 0 0\n", "line 1"),
        (H2 + "2\n\nH 0 0 0\nH 0 0 1_0.74\n", r"line 8: '0 0 1_0.74' should be three numbers"),
        (H2 + "2\n\nH 0 0 0\nH 0 0 \u0663\n", "line 8: .*three numbers"),
        (H2 + "2\n\nH 0 0 0\nH 0 0 1d5\n", "line 8: .*three numbers"),
        (H2 + "2\n\nH 0 0 0\nH 0 0 -Inf\n", "line 8: .*not finite"),
        (H2 + f"1\n\nH 0 0 {'9' * 5000}\n", "line 7: .*not finite"),
        (H2 + "1\n\nH 0 -1e9 0\n", "line 7: .* too far away"),
        (H2 + "1\n\n-1 0 0 0\n", "line 7: '-1' is not an element"),
        (H2 + "1\n\n119 0 0 0\n", "line 7: '119' is not an element"),
        (H2 + "1\n\n0 0 0 0\n", "line 7: '0' is not an element"),
        (H2 + "1\n\nX 0 0 0\n", "line 7: 'X' is not an element"),
        (b"\0\xff" * 1000, "line 1: .*should be the number"),
    ],
)
def test_numbers_are_those_that_a_file_may_have(read, text, message):
    with pytest.raises(MoleculeError, match=message):
        read(text)


def test_skip_goes_on_at_the_next_number(read):
    bad = [
        "2\n\nQq 0 0 0\nH 0 0 1\n", "3\n\nH 0 0 0\nH 0 0 1\n", "2\n\nH 0 0 0\nH 0 0 0\n", "0\n\n",
        "2\n\nH 0 0\nH 0 0 1\n",
    ]  # fmt: skip
    with pytest.warns(
        UserWarning, match=r"a.xyz: 6 of 11 .* line 7: 'Qq' is not an element"
    ) as warned:
        rest = read("".join(H2 + text for text in bad) + "2\n", skip=True)
    assert rest.sizes.tolist() == [2] * 5 and len(warned) == 1
    with pytest.raises(MoleculeError, match="none of 1 molecules can be read"):
        read("2\n", skip=True)


# extended --------------------


def test_columns_are_read_as_properties_says(read):
    one = read(
        "2\nProperties=forces:R:3:pos:R:3:tag:S:1:species:S:1 energy=-1.5 name=a_b charge=1\n"
        "1 1 1 0 0 0 T O\n2 2 2 0 0 9.6D-1 D D\n" + H2 + '2\nProperties="Z:I:1:pos:R:3" gap=0.25 '
        'energy=2 pbc="F F F"\n6 0 0 0\n8 0 0 1.1\n'
    )  # fmt: skip
    assert one.z.tolist() == [8, 1, 1, 1, 6, 8]
    assert one.pos[1].tolist() == pytest.approx([0, 0, 0.96]) and one.pos[5, 2] == np.float32(1.1)
    assert set(one.prop_names) == {"energy", "charge", "gap"}
    np.testing.assert_array_equal(one.property("energy"), [-1.5, np.nan, 2])


@pytest.mark.parametrize(
    "comment, last, message",
    [
        ("Properties=species:S:1:forces:R:3", "H 0 0 1", "line 6: Properties= has no pos:R:3"),
        (f"Properties=species:S:{'9' * 30}:pos:R:3", "H 0 0 1", r"line 6: .*name:type:columns"),
        ("Properties=species:S:1:pos:R:3:x", "H 0 0 1", r"line 6: .*name:type:columns"),
        ("Properties=species:S:1:pos:R:-3", "H 0 0 1", r"line 6: .*name:type:columns"),
        ("Properties=1:2", "H 0 0 1", r"line 6: .*name:type:columns"),
        ("Properties=species:S:1:pos:R:2", "H 0 0", "line 6: Properties= has no pos:R:3"),
        ("Properties=species:S:1:pos:R:3", "H 0 0", "line 5: ASE refuses the frame"),
        ("Properties=species:S:1:pos:R:3", "H 0 0 1_0", "line 8: '1_0' should be a number"),
        ("Properties=species:S:1:pos:R:3", "H 0 0 nan", "line 5: atom 2 .*finite"),
        ("Properties=species:S:1:pos:R:3", "H 0 0 1e39", "line 5: atom 2 .*below 10"),
        ("Properties=species:S:1:pos:R:3", "Qq 0 0 1", "line 8: 'Qq' is not an element"),
        ("Properties=species:S:1:pos:R:3", "X 0 0 1", "line 8: 'X' is not an element"),
        ("Properties=species:S:1:pos:R:3", "", "line 5: "),
        ('Lattice="5 0 0 0 5 0 0 0 5"', "H 0 0 1", "line 5: the cell is periodic"),
        ('Lattice="5 0 0 0 5 0" pbc="F F F"', "H 0 0 1", "line 6: ASE refuses the comment"),
    ],
)
def test_a_faulty_extended_frame_is_named_by_its_line(read, comment, last, message):
    with pytest.raises(MoleculeError, match=message):
        read(f"{H2}2\n{comment}\nH 0 0 0\n{last}\n")
    with pytest.warns(UserWarning, match="1 of 3"):
        rest = read(f"{H2}2\n{comment}\nH 0 0 0\n{last}\n{H2}", skip=True)
    assert len(rest) == 2


def test_pairs_alone_are_properties_too(read):
    pairs = "2\nenergy=-76.4 step=3 method=pbe\nH 0 0 0\nH 0 0 0.74\n"
    one = read(pairs + H2.replace("hydrogen", "E = 1 and more"))
    assert set(one.prop_names) == {"energy", "step"}
    np.testing.assert_array_equal(one.property("energy"), [-76.4, np.nan])


def test_numbers_of_a_comment_are_written_as_those_of_positions(read):
    frame = H2.split("\n", 2)[2]
    one = read("2\nenergy=-7.64D+01 my_gap=2.5*^-1 run=1_0 step=3\n" + frame)
    assert dict(zip(one.prop_names, one.props[0], strict=True)) == {
        "energy": -76.4, "my_gap": 0.25, "step": 3
    }  # fmt: skip


@pytest.mark.parametrize("comment", ["a=bcde" * 5000 + " x", "a=b " * 50_000, "a=b" * 50_000])
def test_no_comment_takes_long(read, comment):
    text = f"1\n{comment}\nH 0 0 0\n"
    if len(comment.strip()) == 199_999:
        with pytest.raises(MoleculeError, match="line 2: the comment has 200000 characters"):
            read(text)
    else:
        assert len(read(text)) == 1


@pytest.mark.parametrize("element", ["1", "h", "D", "H"])
@pytest.mark.parametrize("comment", ["energy=-1", "Properties=species:S:1:pos:R:3 energy=-1"])
def test_elements_of_extended_frames_are_those_of_plain_ones(read, element, comment):
    one = read(f"2\n{comment}\n17 0 0 0\n{element} 0 0 1.3\n")
    assert one.z.tolist() == [17, 1] and one.property("energy") == -1
    numbers = read("2\nProperties=pos:R:3:Z:I:1\n0 0 0 17\n0 0 1.3 1\n")
    assert numbers.z.tolist() == [17, 1]


def test_a_lattice_without_periods_does_not_matter(read):
    one = read('2\nLattice="5 0 0 0 5 0 0 0 5" pbc="F F F"\nH 0 0 0\nH 0 0 0.74\n')
    assert one.pos.tolist() == read(H2).pos.tolist()


def test_what_ase_writes_is_read(tmp_path):
    ase = pytest.importorskip("ase")
    from ase.io import write

    one = load_qm9().subset([4])
    atoms = ase.Atoms(one.z, one.pos, info={"gap": 0.5, "flag": True, "source": "x y"})
    write(tmp_path / "a.extxyz", [atoms, atoms])
    back = read_molecules(tmp_path / "a.extxyz")
    assert np.array_equal(back.z, np.tile(one.z, 2)) and back.prop_names == ("gap",)
    assert np.abs(back.pos[: len(one.z)] - one.pos).max() < 1e-6


# QM9 --------------------


def methane(number, more=""):
    """A file of QM9's layout, with made-up numbers."""
    atoms = ["C\t0.0\t1.2*^-5\t0.0", *(f"H\t{x}\t{y}\t{z}" for x, y, z in CORNERS)]
    values = "\t".join(f"{k + number / 8}" for k in range(14)) + "\t6.469*^-1"
    lines = "\n".join(f"{atom}\t-0.5357" for atom in atoms)
    return f"5\ngdb {number}\t{values}\t\n{lines}\n1341.307\t1341.3\nC\t[CH4]\t\nInChI=1\tInChI=1\n{more}"


CORNERS = [(0.6, 0.6, 0.6), (-0.6, -0.6, 0.6), (0.6, -0.6, -0.6), (-0.6, 0.6, -0.6)]


def test_qm9_s_own_files_are_read(read):
    one = read(methane(7, more="\n") + methane(3))
    assert one.ids.tolist() == [7, 3] and one.smiles == ["[CH4]", "[CH4]"]
    assert one.prop_names == QM9_PROPERTIES and set(qm9.PROPERTIES) <= set(QM9_PROPERTIES)
    assert one.property("mu").tolist() == [3.875, 3.375]
    assert one.property("Cv") == pytest.approx([0.6469] * 2)
    assert one.pos[0].tolist() == pytest.approx([0, 1.2e-5, 0])


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("\t6.469*^-1", "", "line 1: after gdb in the comment"),
        ("\t6.469*^-1", "\tx", "line 1: after gdb in the comment"),
        ("C\t[CH4]\t\n", "C\n", "line 9: .*two SMILES"),
        ("\nInChI=1\tInChI=1\n", "", "line 10: the file ends where the InChI"),
    ],
)
def test_a_faulty_file_of_qm9_is_named_by_its_line(read, old, new, message):
    with pytest.raises(MoleculeError, match=message):
        read(methane(3).replace(old, new))


def test_a_folder_of_qm9_is_read_without_what_is_listed(tmp_path):
    for k in (3, 1, 2):
        (tmp_path / f"dsgdb9nsd_{k:06}.xyz").write_text(methane(k))
    (tmp_path / "readme.txt").write_text("not a molecule")
    assert load_qm9(tmp_path).ids.tolist() == [1, 2, 3]
    (tmp_path / "uncharacterized.txt").write_text(
        "Molecules\n=====\n134 kilo\n\n  Index  SMILES\n    2    C1CC1   [CH3]\n3054 molecules\n"
    )
    assert load_qm9(tmp_path).ids.tolist() == [1, 3]
    (tmp_path / "other.xyz").write_text(H2)
    with pytest.raises(
        MoleculeError, match=r"other.xyz, line 1: not a molecule of QM9, but .*unchar"
    ):
        load_qm9(tmp_path)
    (tmp_path / "uncharacterized.txt").write_text("nothing")
    with pytest.raises(MoleculeError, match=r"uncharacterized.txt: lists no molecules"):
        load_qm9(tmp_path)

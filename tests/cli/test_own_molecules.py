"""Molecules of one's own, with elements that QM9 has not, from a file to figures."""

import sys

import numpy as np
import pytest
import torch

from anydiff import load
from anydiff.cli import train
from anydiff.cli.main import main
from anydiff.molecules import Molecules
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.files import read_molecules, write_npz, write_sdf, write_xyz
from anydiff.molecules.qm9 import split
from tests.helpers.molecules import embedded, embedded_rdkit, rows

MINE = [
    "CCS", "CCCl", "CCBr", "CI", "CP", "CSC", "CS(C)=O", "C[Si](C)(C)C", "CB(C)C", "C1CCSC1",
    "CP(C)C", "FC(F)(F)Cl", "CC(=O)SC", "OCCS", "NCCCl",
]  # fmt: skip
ELEMENTS = {1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53}


def call(*words):
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With molecules, those of them that have a ring, and a model of them."""
    folder = tmp_path_factory.mktemp("mine")
    write_sdf(folder / "mine.sdf", to_rdkit(*rows(embedded(*MINE))))
    write_sdf(folder / "rings.sdf", to_rdkit(*rows(embedded("C1CCSC1", "CC1CSCC1Br"))))
    common = {"epochs": 2, "hidden": 8, "layers": 1, "accelerator": "cpu", "out": folder / "run"}
    train.molecules(str(folder / "mine.sdf"), **common)
    return folder


def test_the_elements_are_those_of_the_data(folder, capsys):
    call("info", folder / "run/model.safetensors")
    assert "molecules of H, B, C, N, O, F, Si, P, S, Cl, Br, I, 5 to " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "sample --data {0}/mine.sdf",
        "inpaint --resamples 1 --data {0}/rings.sdf",
        "inpaint --resamples 1 --keep heavy --data {0}/rings.sdf",
        "inpaint --resamples 1 --keep elements --data {0}/rings.sdf",
        "edit --data {0}/mine.sdf",
    ],
)
def test_everything_works_with_them(how, folder, tmp_path, capsys):
    name, *more = how.format(folder).split()
    some = ["--out", tmp_path, "--steps", 3, "--num", 5, "--accelerator", "cpu"]
    call(name, folder / "run/model.safetensors", *more, *some)
    out = capsys.readouterr().out
    assert "real, held out" in out and "no metrics" not in out
    files = {"samples.sdf", "samples.png", "path.xyz", "path.gif", "table.txt", "report.html"}
    drawn = {p.name for p in tmp_path.iterdir()}
    assert drawn == (files if name == "sample" else files | {"before.png"})
    molecules = read_molecules(tmp_path / "samples.sdf")
    # its own data are split, and two of them are held out
    assert len(molecules) == (5 if name == "sample" else 2) and set(molecules.elements) <= ELEMENTS
    for written in ("samples.sdf", "path.xyz"):
        call("evaluate", tmp_path / written, "--against", folder / "mine.sdf")
        assert "drawn" in capsys.readouterr().out


@pytest.mark.slow
def test_bonds_are_drawn_on_request(tmp_path, capsys):
    texts = ["C[NH3+]", "C[N+](=O)[O-]", "C1CCSC1", "c1ccoc1", "CC(=O)[O-]", "CC#N"] * 2
    write_sdf(tmp_path / "mine.sdf", [embedded_rdkit(text) for text in texts])
    some = ["--epochs", 2, "--hidden", 8, "--layers", 1, "--accelerator", "cpu"]
    call("train", "molecules", "--data", tmp_path / "mine.sdf", "--bonds", *some, "--out", tmp_path)
    model, data = tmp_path / "model.safetensors", ["--data", tmp_path / "mine.sdf"]
    capsys.readouterr()
    call("info", model)
    assert "molecules with bonds of H, C, N, O, S" in capsys.readouterr().out
    few = ["--resamples", 1, "--steps", 2, *data, "--accelerator", "cpu"]
    call("inpaint", model, "--keep", "graph", *few, "--out", tmp_path / "conformers")
    held_out = read_molecules(tmp_path / "mine.sdf").subset(split(len(texts)).test)
    drawn = read_molecules(tmp_path / "conformers/samples.sdf")
    assert len(drawn) and drawn.bonds.tolist() == held_out.bonds.tolist()
    assert (tmp_path / "conformers/before.png").exists()
    short = ["--steps", 3, "--num", 5, "--accelerator", "cpu"]
    write_sdf(tmp_path / "rings.sdf", [embedded_rdkit("C1CCSC1")] * 2)
    rings = ["--data", tmp_path / "rings.sdf", "--resamples", 1]
    for command in ("sample", "inpaint", "edit"):
        begin = rings if command == "inpaint" else data
        call(command, model, *begin, *short, "--out", tmp_path / command)
        text = (tmp_path / command / "table.txt").read_text()
        header, _, real, drawn = text.split("\n\n")[1].splitlines()
        assert header.startswith("own bonds") and drawn.startswith("drawn ")
        assert real.split()[4:7] == ["100.0", "100.0", "100.0"]  # atoms, molecules stable; strict
        made = read_molecules(tmp_path / command / "samples.sdf")
        assert made.bonds is not None and made.charges is not None
    call("evaluate", tmp_path / "edit/samples.sdf", "--against", tmp_path / "mine.sdf")
    assert "own bonds" in capsys.readouterr().out
    write_xyz(tmp_path / "bare.xyz", read_molecules(tmp_path / "mine.sdf"))
    with pytest.raises(SystemExit):
        call("train", "molecules", "--data", tmp_path / "bare.xyz", "--bonds", *some)
    assert "bare.xyz has no SMILES; give molecules with them, or bonds" in capsys.readouterr().err


@pytest.mark.slow
def test_training_compiles_the_network_on_request(folder, tmp_path, monkeypatch):
    graphs = []

    def backend(graph, example):  # counts in place of a compiler, which takes a minute
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compiled(f, backend=backend, **how))
    some = ["--data", folder / "mine.sdf", "--hidden", 8, "--layers", 1, "--accelerator", "cpu"]
    for flags in ([], ["--compile"]):
        assert not graphs
        out = tmp_path / f"run{len(flags)}"
        call("train", "molecules", *some, "--epochs", 2, *flags, "--out", out)
    assert graphs
    plain, fast = (load(tmp_path / f"run{k}/model.safetensors")[0].state_dict() for k in (0, 1))
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_an_element_that_the_model_has_not_is_named(folder, tmp_path, capsys):
    write_sdf(tmp_path / "se.sdf", to_rdkit(*rows(embedded("C[Se]C"))))
    with pytest.raises(SystemExit):
        call("edit", folder / "run/model.safetensors", "--data", tmp_path / "se.sdf")
    assert "atom 1 is Se, which is not among H B C N O F Si P S Cl Br I" in capsys.readouterr().err


def test_faulty_molecules_of_the_data_may_be_skipped(folder, tmp_path, capsys):
    text = (folder / "mine.sdf").read_text()
    (tmp_path / "part.sdf").write_text(text + text.replace(" S ", " R#", 1))
    words = ["--epochs", 1, "--hidden", 8, "--layers", 1, "--accelerator", "cpu"]
    words += ["--data", tmp_path / "part.sdf", "--out", tmp_path / "run"]
    with pytest.raises(SystemExit):
        call("train", "molecules", *words)
    assert "'R#' is not an element" in capsys.readouterr().err
    call("train", "molecules", *words, "--skip-faulty")
    assert "1 of 30 molecules are left out" in capsys.readouterr().err
    assert (tmp_path / "run/model.safetensors").exists()


def test_data_without_hydrogens_are_warned_of(tmp_path, capsys):
    some = embedded(*MINE)
    heavy = some.z > 1
    sizes = np.bincount(some.index[heavy], minlength=len(some))
    bare = Molecules(some.z[heavy], some.pos[heavy], np.cumsum([0, *sizes]))
    write_npz(tmp_path / "bare.npz", bare)
    words = ["--epochs", 1, "--hidden", 8, "--layers", 1, "--accelerator", "cpu"]
    call("train", "molecules", "--data", tmp_path / "bare.npz", *words, "--out", tmp_path / "run")
    assert "bare.npz: no molecule has hydrogen atoms" in capsys.readouterr().err
    assert (tmp_path / "run/model.safetensors").exists()


def test_molecules_of_a_file_that_are_not_finite_are_counted(folder, tmp_path, capsys):
    text = (folder / "mine.sdf").read_text()
    lines = text.split("\n")
    lines[4] = f"{'nan':>10}{'nan':>10}{'inf':>10}" + lines[4][30:]
    (tmp_path / "some.sdf").write_text("\n".join(lines))
    words = ["--against", folder / "mine.sdf", "--out", tmp_path / "table.txt"]
    call("evaluate", tmp_path / "some.sdf", *words)
    said = "some.sdf: 1 of 15 molecules are left out; the first: "
    for text in (capsys.readouterr().out, (tmp_path / "table.txt").read_text()):
        assert said in text and "the coordinate 'nan'" in text
        assert "drawn: 1 of 15 molecules are not finite or faulty, and so not valid." in text
        figures = next(line for line in text.splitlines() if line.startswith("drawn ")).split()
        assert figures[1] == "15" and figures[5] == "93.3"  # valid: 14 of 15


def test_ions_are_measured_with_their_charges(tmp_path, capsys):
    ions = ["C[NH3+]", "CC[NH3+]", "[NH4+]", "C[O-]", "CC[O-]"] * 3
    write_sdf(tmp_path / "ions.sdf", [embedded_rdkit(text) for text in ions])
    call("evaluate", tmp_path / "ions.sdf", "--against", tmp_path / "ions.sdf")
    real = capsys.readouterr().out.splitlines()[2]
    assert real.split()[3:8] == ["2", "100.0", "100.0", "100.0", "100.0"]


def test_packages_are_missed_before_training(tmp_path, capsys, monkeypatch):
    for missing, name in (("torch_geometric", "molecules"), ("matplotlib", "train")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(SystemExit):
                call("train", "molecules", "--epochs", 1, "--out", tmp_path / "run")
        assert (
            f'{missing} is not installed: pip install "anydiff[{name}]"' in capsys.readouterr().err
        )
        assert not (tmp_path / "run/last.ckpt").exists()


@pytest.mark.slow
def test_what_was_drawn_is_written_whatever_becomes_of_its_metrics(
    folder, tmp_path, capsys, monkeypatch
):
    def fails(*_, **__):
        raise ValueError("this cannot be measured.")

    monkeypatch.setattr("anydiff.cli.molecules.compare_parts", fails)
    words = ["--steps", 2, "--num", 3, "--accelerator", "cpu", "--out", tmp_path / "out"]
    call("sample", folder / "run/model.safetensors", "--data", folder / "mine.sdf", *words)
    assert "no metrics: this cannot be measured." in capsys.readouterr().out
    assert len(read_molecules(tmp_path / "out/samples.sdf")) == 3


def test_molecules_are_relaxed_on_request(folder, tmp_path, capsys):
    pytest.importorskip("tblite", reason="relaxation needs the extra xtb")
    words = ["evaluate", folder / "mine.sdf", "--against", folder / "mine.sdf"]
    call(*words, "--relax", 2, "--out", tmp_path / "table.txt")
    written = (tmp_path / "table.txt").read_text()
    assert written in capsys.readouterr().out + "\n"
    header, _, *lines = written.split("\n\n")[2].splitlines()
    assert "ΔE median" in header and [line.split()[-6:-4] for line in lines] == [["2", "0"]] * 2
    assert all(line.endswith(" 100.0") for line in lines)
    call(*words)
    assert "ΔE" not in capsys.readouterr().out
    for wrong, told in (
        (["--relax", 0], "relax is 0; it must be positive"),
        (["--relax", 2, "--kind", "sketches"], "--relax does not apply to sketches"),
    ):
        with pytest.raises(SystemExit):
            call(*words, *wrong)
        assert told in capsys.readouterr().err


def test_what_relaxation_needs_is_missed_before_anything_is_read(folder, capsys, monkeypatch):
    monkeypatch.setattr("anydiff.cli.options.find_spec", lambda name: name != "tblite" or None)
    with pytest.raises(SystemExit):
        call("evaluate", folder / "mine.sdf", "--against", folder / "none.sdf", "--relax", 2)
    assert 'tblite is not installed: pip install "anydiff[xtb]"' in capsys.readouterr().err


def test_molecules_are_checked_by_posebusters_on_request(folder, capsys, monkeypatch):
    words = ["evaluate", folder / "mine.sdf", "--against", folder / "mine.sdf", "--posebusters", 3]
    with monkeypatch.context() as patch:
        patch.setattr("anydiff.cli.options.find_spec", lambda name: name != "posebusters" or None)
        with pytest.raises(SystemExit):
            call(*words)
    assert 'pip install "anydiff[posebusters]"' in capsys.readouterr().err
    pytest.importorskip("posebusters", reason="these checks need the extra posebusters")
    call(*words)
    part = capsys.readouterr().out.split("PoseBusters")[1].splitlines()
    assert part[0].split() == ["real,", "held", "out", "(2)", "drawn", "(3)"]
    assert len(part) == 14 and part[-1].split() == ["all", "of", "these", "100.0", "100.0"]

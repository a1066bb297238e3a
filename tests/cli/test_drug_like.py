"""Drug-like molecules from a file of chemists to samples and figures, by commands alone."""

import shutil

import pytest

from anydiff.cli.main import main
from anydiff.molecules import read_molecules
from tests.helpers.molecules import drug_like

SMALL = ["--epochs", 1, "--hidden", 16, "--layers", 1, "--accelerator", "cpu"]


def call(*words):
    main([str(word) for word in words])


@pytest.mark.slow
def test_a_measured_property_of_ligands_is_learned_and_asked_for(tmp_path, capsys):
    data, model = drug_like("cmet_ligands.sdf"), tmp_path / "run/model.safetensors"
    words = ["--data", data, "--property", "r_exp_dg", *SMALL, "--out", tmp_path / "run"]
    call("train", "molecules", *words)
    assert "18 molecules for training, 3 for validation" in capsys.readouterr().out
    call("info", model)
    assert "molecules of H, C, N, O, F, S, Cl, 42 to 71 atoms" in capsys.readouterr().out
    words = ["--target", -9, "--num", 3, "--steps", 2, "--data", data, "--accelerator", "cpu"]
    call("sample", model, *words)
    told = capsys.readouterr().out
    assert "no metrics" not in told and "real, held out" in told
    drawn = read_molecules(tmp_path / "run/sample/samples.sdf")
    assert (
        len(drawn) == 3
        and drawn.sizes.min() >= 42
        and set(drawn.elements) <= {1, 6, 7, 8, 9, 16, 17}
    )
    call("evaluate", tmp_path / "run/sample/samples.sdf", "--against", data)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[3:4]] == [["drawn", "3"]]
    with pytest.raises(SystemExit):
        call("train", "molecules", "--data", data, "--property", "dg", *SMALL)
    assert "no property 'dg'; there are the properties r_exp_dg" in capsys.readouterr().err


@pytest.mark.slow
def test_bonds_and_charges_of_ligands_are_learned_and_written(tmp_path, capsys):
    data, model = drug_like("cmet_ligands.sdf"), tmp_path / "run/model.safetensors"
    call("train", "molecules", "--data", data, "--bonds", *SMALL, "--out", tmp_path / "run")
    call("info", model)
    assert "bonds" in capsys.readouterr().out
    words = ["--data", data, "--accelerator", "cpu", "--measure", "false"]
    call("sample", model, "--num", 2, "--steps", 2, *words[2:])
    drawn = read_molecules(tmp_path / "run/sample/samples.sdf")
    assert len(drawn) == 2 and drawn.charges is not None

    # hardly noised, the molecules of a file come back with the bonds and charges that it has
    shutil.copy(data, tmp_path / "others.sdf")
    words = ["--data", tmp_path / "others.sdf", *words[2:], "--num", 6]
    call("edit", model, "--strength", 1e-4, "--steps", 1, *words)
    real = read_molecules(data).subset(range(6))
    back = read_molecules(tmp_path / "run/edit/samples.sdf")
    assert (back.z == real.z).all() and (back.offsets == real.offsets).all()
    assert (back.bonds == real.bonds).all() and (back.orders == real.orders).all()
    assert (back.charges == real.charges).all() and real.charges.any()

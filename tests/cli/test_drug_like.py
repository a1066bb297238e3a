"""Drug-like molecules from a file of chemists to samples and figures, by commands alone."""

import pytest

from anydiff.cli.main import main
from anydiff.molecules import read_molecules
from tests.helpers.molecules import drug_like

SMALL = ["--epochs", 1, "--hidden", 16, "--layers", 1, "--accelerator", "cpu"]


def call(*words):
    main([str(word) for word in words])


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

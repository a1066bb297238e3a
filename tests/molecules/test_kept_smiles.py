"""SMILES in the cache: the same as anew, of these molecules alone, and no matter what the file is."""

from dataclasses import replace

import numpy as np
import pytest

from anydiff.molecules import kept_smiles, load_qm9
from anydiff.molecules.kept_smiles import known_smiles

QM9 = load_qm9("5k", bonds=True).subset(range(60))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_smiles, "MANY", 10)
    return tmp_path / "anydiff"


def rule(asked):
    def smiles(molecules):
        asked.append(len(molecules))
        return [f"{len(molecules)}-{m % 50}" if m % 7 else None for m in range(len(molecules))]

    return smiles


def test_they_are_made_once(cache):
    asked = []
    first = known_smiles(QM9, rule(asked), "rule")
    assert first == {text for text in rule([])(QM9) if text}
    assert known_smiles(QM9, rule(asked), "rule") == first
    assert asked == [60]
    known_smiles(QM9, rule(asked), "other")
    assert asked == [60, 60]


@pytest.mark.parametrize(
    "change",
    [
        {"pos": QM9.pos + np.float32(1e-3)},
        {"charges": np.zeros(len(QM9.z), np.int64)},
        {"bonds": None, "orders": None},
    ],
)
def test_other_molecules_have_others(change, cache):
    asked = []
    known_smiles(replace(QM9, charges=None), rule(asked), "rule")
    known_smiles(replace(replace(QM9, charges=None), **change), rule(asked), "rule")
    assert asked == [60, 60]


@pytest.mark.parametrize("content", [b"", b"CCO\nCC", b"\xff\xfe", b"CCO\n2"])
def test_a_file_that_is_not_whole_is_made_anew(content, cache):
    asked = []
    first = known_smiles(QM9, rule(asked), "rule")
    (path,) = cache.glob("smiles-*")
    path.write_bytes(content)
    assert known_smiles(QM9, rule(asked), "rule") == first
    assert asked == [60, 60]


def test_without_a_cache_they_are_made_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    monkeypatch.setattr(kept_smiles, "MANY", 10)
    asked = []
    assert known_smiles(QM9, rule(asked), "rule") == known_smiles(QM9, rule(asked), "rule")
    assert asked == [60, 60]


def test_few_molecules_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known_smiles(QM9, rule([]), "rule")
    assert not (tmp_path / "anydiff").exists()

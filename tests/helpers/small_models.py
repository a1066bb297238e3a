"""Small trained models of each kind, and the command line."""

from anydiff.cli import train
from anydiff.cli.main import main
from anydiff.molecules.files import write_npz
from anydiff.molecules.qm9 import load_qm9
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji


def made(kind, folder):
    """Train a small model of a kind for one pass; its file."""
    common = {"epochs": 1, "out": folder / kind, "accelerator": "cpu"}
    if kind == "molecules":
        write_npz(folder / "data.npz", load_qm9().subset(range(100)))
        data = str(folder / "data.npz")
        return train.molecules(data, hidden=8, layers=1, property="alpha", **common)
    if kind == "sketches":
        write_ndjson(folder / "data.ndjson", load_kanji().subset(range(100)))
        return train.sketches(str(folder / "data.ndjson"), hidden=8, layers=1, **common)
    return train.images("digits", widths=[4], groups=2, classes=True, batch_size=512, **common)


def call(*words):
    main([str(word) for word in words])

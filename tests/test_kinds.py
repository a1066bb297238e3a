"""Files of models of all kinds: what stands in them, and what may be wrong there."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import anydiff
from anydiff.checkpoints import CheckpointError
from anydiff.cli.main import main
from anydiff.cli.runs import open_model
from anydiff.images.models import ImageModel
from anydiff.molecules.models import MoleculeModel
from anydiff.ready import model_path
from anydiff.sketches.models import SketchModel
from tests.helpers.changes import DROPPED, changed

FORMAT2 = Path(__file__).parent / "goldens/format2"


@pytest.mark.parametrize("kind", [MoleculeModel, SketchModel, ImageModel])
@pytest.mark.parametrize("data", ["more/own", "folder", "../5k", "/dev/zero", "", None])
def test_what_a_file_says_that_a_model_was_trained_on_is_opened_only_by_name(
    tmp_path, monkeypatch, kind, data
):
    opened = []
    diffusion, extra = anydiff.load(FORMAT2 / f"{kind.kind}.safetensors")
    extra["data"], extra["root"] = [data, "more", 8] if kind is ImageModel else data, "more"
    anydiff.save(tmp_path / "m", diffusion, extra)
    model = kind.load(tmp_path / "m")
    assert getattr(model, "root", None) is None and model.data == data
    for name in ("load_qm9", "load_sketches", "load_images"):
        if hasattr(module := sys.modules[kind.__module__], name):
            monkeypatch.setattr(module, name, lambda *given, **_: opened.append(given))
    with pytest.raises(ValueError, match=r"trained on.*give the data \(--data\)"):
        model.read_data()
    assert not opened
    model.read_data("mine")  # a path of the user's
    assert opened[0][0] == "mine"
    model.save(tmp_path / "n")
    assert "more" not in str(anydiff.load(tmp_path / "n")[1].get("root"))


def test_what_is_shipped_is_in_the_place_of_named_data(monkeypatch, caplog):
    model, asked = open_model(model_path("kanji")), []

    def read(data=None):
        asked.append(data)
        if data is None:
            raise ImportError("kanjivg is not installed")
        return [data]

    monkeypatch.setattr(type(model), "read_data", lambda self, data=None: read(data))
    with caplog.at_level("INFO", "anydiff.kinds"):
        assert model.at_hand() == ["kanji"] and asked == [None, "kanji"]
    assert "the data kanjivg are not there; kanji, which comes with the package" in caplog.text
    assert model.at_hand("mine") == ["mine"]
    for data in (None, "mine.ndjson", "kanji"):  # nothing, a path, what is shipped itself
        with pytest.raises(ImportError):
            replace(model, data=data).at_hand()


ODD = [
    DROPPED, None, True, 0, -1, 3, 10**9, 10**400, 0.5, float("nan"), "", "a", [], [0], [[1]], {},
    {"a": 1},
    torch.ones(2), torch.zeros(3), torch.tensor([0, -1]), torch.tensor([0.0, torch.nan]),
    torch.tensor([0, 1.5]), torch.ones(2, dtype=torch.complex64), torch.ones(0), torch.tensor(3),
    torch.ones(2, 5), torch.tensor([False, True]),
]  # fmt: skip


def nodes(value, path=()):
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 2)):
            yield from nodes(value[key], (*path, key))


@pytest.mark.parametrize("kind", [MoleculeModel, SketchModel, ImageModel])
def test_any_change_beside_a_diffusion_ends_in_a_model_or_one_error(kind):
    diffusion, extra = anydiff.load(FORMAT2 / f"{kind.kind}.safetensors")
    loaded = 0
    for path in nodes(extra):
        for new in ODD:
            entries = changed(extra, path, new)
            if not kind.made(entries):
                continue
            try:
                kind.opened("file", diffusion, entries)
                loaded += 1
            except CheckpointError as error:
                text = str(error)
                assert text.startswith("file: its entry '") and len(text) < 500 and "\n" not in text
    assert loaded


@pytest.mark.parametrize(
    "kind, change, named",
    [
        (MoleculeModel, {"sizes": "many"}, "entry 'sizes'"),
        (MoleculeModel, {"atoms": {"elements": [1, 6]}}, "network has features=5, and the data take"),
        (MoleculeModel, {"atoms": []}, "entry 'atoms'"),
        (MoleculeModel, {"of_size": torch.tensor([2])}, "entry 'values'"),
        (MoleculeModel, {"properties": {"names": [3], "mean": [0.0], "mad": [1.0]}}, "names is"),
        (SketchModel, {"rows": {"kind": "strokes", "points": 8, "center": [0, 0], "scale": None}},
         "scale"),
        (MoleculeModel, {"data": 5}, "entry 'data' cannot be read: data is 5"),
        (SketchModel, {"rows": {"kind": "points", "spacing": 1.0, "center": [0.0, 0.0], "scale": 1.0}},
         "network has channels=.*, and the data take 3"),
        (SketchModel, {"lengths": torch.tensor([1, 2])}, "entry 'lengths'"),
        (SketchModel, {"skip_empty": "no"}, "skip_empty is 'no'"),
        (ImageModel, {"shape": [3, 8, 8]}, "network has channels=1, and the data take 3"),
        (ImageModel, {"shape": [1, 10**6, 10**6]}, "entry 'shape'|shape is"),
        (ImageModel, {"shape": "1x8x8"}, "entry"),
        (ImageModel, {"data": ["digits", None, 10**5]}, "size"),
    ],
)  # fmt: skip
def test_an_entry_that_is_wrong_is_named_before_anything_is_drawn(
    tmp_path, capsys, kind, change, named
):
    diffusion, extra = anydiff.load(FORMAT2 / f"{kind.kind}.safetensors")
    anydiff.save(tmp_path / "m", diffusion, extra | change)
    with pytest.raises(ValueError, match=rf"m: its .*{named}"):
        kind.load(tmp_path / "m")
    for command in ("info", "sample"):
        with pytest.raises(SystemExit) as stop:
            main([command, str(tmp_path / "m")])
        told = capsys.readouterr()
        assert stop.value.code == 2 and told.err.count("\n") == 1 and not told.out
        assert [p.name for p in tmp_path.iterdir()] == ["m"]

"""A saved diffusion comes back the same, and a bad file says what is wrong with it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from test_spaces import draw
from torch import nn

from anydiff import Cosine, GaussianDiffusion, Linear, Polynomial, Ragged, Tabulated, load, save
from anydiff.denoisers import EGNN

SPACE = Ragged.from_sizes([3, 5], centered=3)


def small(schedule=Polynomial(), hidden=8, prediction="eps"):  # noqa: B008
    torch.manual_seed(0)
    return GaussianDiffusion(EGNN(features=2, hidden=hidden, layers=1), schedule, prediction)


@pytest.mark.parametrize(
    "schedule", [Cosine(-8), Linear(beta_max=15), Polynomial(3), Tabulated.linear(50)], ids=str
)
def test_a_round_trip_changes_nothing(tmp_path, schedule):
    diffusion = small(schedule, prediction="v")
    path = tmp_path / "deep" / "model.safetensors"
    save(path, diffusion, {"sizes": torch.arange(5), "elements": [1, 6], "scale": 0.25})
    loaded, extra = load(path)

    x, t = draw((8, 5)).float(), torch.tensor([0.2, 0.6])
    before, after = (d.predictor(SPACE).predict(x, t).x0 for d in (diffusion, loaded))
    assert torch.equal(before, after) and not loaded.training
    assert extra["elements"] == [1, 6] and extra["scale"] == 0.25
    assert torch.equal(extra["sizes"], torch.arange(5))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_network_of_one_s_own_is_handed_in(tmp_path):
    class Mine(nn.Linear):
        config = {"in_features": 3, "out_features": 3}  # noqa: RUF012

        def forward(self, x_t, t):
            return super().forward(x_t)

    mine = GaussianDiffusion(Mine(3, 3))
    save(tmp_path / "m", mine)
    with pytest.raises(ValueError, match=r"load\(path, denoiser=\.\.\.\)"):
        load(tmp_path / "m")
    loaded, _ = load(tmp_path / "m", denoiser=Mine(3, 3))
    assert torch.equal(loaded.denoiser.weight, mine.denoiser.weight)
    with pytest.raises(ValueError, match=r"has \(3, 3\) where Mine has \(4, 3\)"):
        load(tmp_path / "m", denoiser=Mine(3, 4))
    with pytest.raises(ValueError, match="no attribute `config`"):
        save(tmp_path / "n", GaussianDiffusion(nn.Identity()))


def test_a_schedule_of_one_s_own_is_handed_in(tmp_path):
    class Mine(Cosine):
        pass

    save(tmp_path / "m", small(Mine()))
    with pytest.raises(ValueError, match=r"load\(path, schedule=\.\.\.\)"):
        load(tmp_path / "m")
    assert isinstance(load(tmp_path / "m", schedule=Mine())[0].schedule, Mine)


def test_weights_keep_their_type(tmp_path):
    save(tmp_path / "m", small().double())
    assert next(load(tmp_path / "m")[0].parameters()).dtype == torch.float64


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load(tmp_path / "absent")

    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95 not tensors")
    with pytest.raises(ValueError, match="pickle is not a safetensors file"):
        load(tmp_path / "pickle")

    save(tmp_path / "good", small())
    whole = (tmp_path / "good").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut is not a safetensors file, or is damaged"):
        load(tmp_path / "cut")

    save_file({"w": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="no anydiff config"):
        load(tmp_path / "other")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(format=99), "upgrade"),
        (lambda c: c["schedule"].update(name="os.system"), "not one of anydiff.schedules"),
        (lambda c: c["denoiser"].update(name="os.system"), "not one of anydiff.denoisers"),
        (
            lambda c: c["denoiser"]["config"].update(hidden=16),
            "arguments that the file was saved with",
        ),
    ],
)
def test_a_config_can_name_nothing_but_anydiff_s_own(tmp_path, change, message):
    from safetensors import safe_open

    save(tmp_path / "good", small())
    with safe_open(tmp_path / "good", framework="pt") as file:
        config = json.loads(file.metadata()["anydiff"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(config)
    save_file(tensors, tmp_path / "bad", metadata={"anydiff": json.dumps(config)})
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "bad")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    save(tmp_path / "m", small())
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(TypeError):
        save(tmp_path / "m", small(), {"not json": object()})
    assert (tmp_path / "m").read_bytes() == before

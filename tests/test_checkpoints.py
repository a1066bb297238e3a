"""A saved diffusion comes back the same, and a bad file says what is wrong with it."""

import inspect
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anydiff import GaussianDiffusion, Ragged, load, save, schedules
from anydiff.denoisers import EGNN
from anydiff.predictions import TARGETS, Preconditioned, Target
from anydiff.schedules import (
    VE,
    Cosine,
    Flow,
    Karras,
    Learned,
    Level,
    Linear,
    Polynomial,
    ScaledLinear,
    SigmoidAlphaBar,
    SigmoidBeta,
    SubVP,
    Tabulated,
)
from tests.helpers.spaces import draw

SPACE = Ragged.from_sizes([3, 5], centered=3)


def small(schedule=Polynomial(), hidden=8, prediction="eps"):  # noqa: B008
    torch.manual_seed(0)
    return GaussianDiffusion(EGNN(features=2, hidden=hidden, layers=1), schedule, prediction)


SCHEDULES = [
    Cosine(-8),
    Linear(beta_max=15),
    Polynomial(3),
    Tabulated.linear(50),
    Tabulated.cosine(20),
    ScaledLinear(),
    SigmoidBeta(limit=5.0),
    SigmoidAlphaBar(0.0, 3.0, 0.7),
    SubVP(beta_max=15),
    VE(0.02, 30.0),
    Karras(rho=5.0),
    Flow(),
    Shifted(Flow(), 0.3),
    ZeroTerminalSNR(ScaledLinear()),
    Shifted(ZeroTerminalSNR(Shifted(Tabulated.scaled_linear(50), 0.5)), 2.0),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
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


def test_every_schedule_has_its_round_trip():
    written = {type(schedule) for schedule in SCHEDULES} | {Learned}
    offered = {getattr(schedules, name) for name in schedules.__all__}
    concrete = {s for s in offered if isinstance(s, type) and not inspect.isabstract(s)}
    assert written == concrete - {Level}


def test_a_learned_schedule_keeps_what_it_learned(tmp_path):
    torch.manual_seed(1)
    schedule = Learned(-4.0, 10.0, width=8)
    with torch.no_grad():
        for weight in schedule.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    diffusion = small(schedule, prediction="v")
    save(tmp_path / "m", diffusion)
    loaded, _ = load(tmp_path / "m")

    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(loaded.schedule.logsnr(t), schedule.logsnr(t))
    assert loaded.state_dict().keys() == diffusion.state_dict().keys()
    with pytest.raises(ValueError, match=r"has \(8,\) where Learned has \(9,\) \(weight\)"):
        load(tmp_path / "m", schedule=Learned(width=9))
    save(tmp_path / "n", diffusion.double())
    assert load(tmp_path / "n")[0].schedule.gamma_0.dtype == torch.float64


def test_a_learned_schedule_of_one_s_own_is_handed_in_and_filled(tmp_path):
    class Mine(Learned):
        pass

    mine = Mine(width=4)
    save(tmp_path / "m", small(mine, prediction="v"))
    with pytest.raises(ValueError, match=r"'Mine'.*load\(path, schedule=\.\.\.\)"):
        load(tmp_path / "m")
    loaded, _ = load(tmp_path / "m", schedule=Mine(width=4))
    assert torch.equal(loaded.schedule.centre, mine.centre)


def test_a_schedule_within_another_may_be_one_s_own(tmp_path):
    class Mine(Cosine):
        pass

    save(tmp_path / "m", small(Shifted(Mine(), 0.5)))
    with pytest.raises(ValueError, match=r"the schedule 'Mine'.*load\(path, schedule=\.\.\.\)"):
        load(tmp_path / "m")
    assert load(tmp_path / "m", schedule=Shifted(Mine(), 0.5))[0].schedule.factor == 0.5


def test_a_namesake_of_a_schedule_is_not_taken_for_it(tmp_path):
    namesake = type("Linear", (Cosine,), {})
    save(tmp_path / "m", small(namesake()))
    with pytest.raises(ValueError, match=r"load\(path, schedule=\.\.\.\)"):
        load(tmp_path / "m")


@pytest.mark.parametrize("name", TARGETS)
def test_every_prediction_comes_back(tmp_path, name):
    save(tmp_path / "m", small(Karras(), prediction=name))
    assert load(tmp_path / "m")[0].predicts == TARGETS[name]


def test_the_data_s_deviation_comes_back(tmp_path):
    diffusion = small(Karras(), prediction=Preconditioned(sigma_data=0.25))
    save(tmp_path / "m", diffusion)
    loaded, _ = load(tmp_path / "m")
    assert loaded.predicts == Preconditioned(sigma_data=0.25) != TARGETS["karras"]
    x, t = draw((8, 5)).float(), torch.tensor([0.2, 0.6])
    before, after = (d.predictor(SPACE).predict(x, t).x0 for d in (diffusion, loaded))
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["mine", "v"])
def test_a_prediction_type_of_one_s_own_is_handed_in(tmp_path, name):
    mine = Target(name, lambda at: (-2 * at.sigma, 2 * at.alpha))
    save(tmp_path / "m", small(prediction=mine))
    with pytest.raises(ValueError, match=rf"{name!r}.*load\(path, prediction=\.\.\.\)"):
        load(tmp_path / "m")
    assert load(tmp_path / "m", prediction=mine)[0].predicts is mine


def test_files_of_the_first_format_are_read(tmp_path):
    diffusion = small(Polynomial(3), prediction="v")
    config = {
        "format": 1,
        "denoiser": {"name": "EGNN", "config": diffusion.denoiser.config},
        "schedule": {"name": "Polynomial", "config": {"power": 3, "precision": 1e-5}},
        "prediction": "v",
        "extra": {"elements": [1, 6]},
    }
    tensors = {f"denoiser.{k}": v for k, v in diffusion.denoiser.state_dict().items()}
    tensors["extra.sizes"] = torch.arange(3)
    save_file(tensors, tmp_path / "m", metadata={"anydiff": json.dumps(config)})
    loaded, extra = load(tmp_path / "m")
    assert (loaded.schedule, loaded.prediction) == (Polynomial(3), "v")
    assert extra["elements"] == [1, 6] and torch.equal(extra["sizes"], torch.arange(3))
    x, t = draw((8, 5)).float(), torch.tensor([0.2, 0.6])
    before, after = (d.predictor(SPACE).predict(x, t).x0 for d in (diffusion, loaded))
    assert torch.equal(before, after)


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
        (lambda c: c["schedule"].update(name="shifted"), "not one of anydiff.schedules"),
        (lambda c: c["schedule"].update(name="Level"), "not one of anydiff.schedules"),
        (lambda c: c["schedule"].update(name="Schedule"), "not one of anydiff.schedules"),
        (
            lambda c: c.update(
                schedule={
                    "name": "Shifted",
                    "config": {"schedule": c["schedule"] | {"name": "os.system"}, "factor": 2.0},
                }
            ),
            "os.system.* not one of anydiff.schedules",
        ),
        (lambda c: c["prediction"].update(name="os.system"), "not one of eps, x0"),
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

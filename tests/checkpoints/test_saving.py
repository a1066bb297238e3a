"""A saved diffusion comes back the same, and a bad file says what is wrong with it."""

import inspect
import json
import warnings
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anydiff import DPMSolver, GaussianDiffusion, Ragged, load, save, schedules
from anydiff.denoisers import EGNN, UNet
from anydiff.denoisers.unet.diffusers import FromDiffusers
from anydiff.likelihood import ContinuousGaussian, DiscretizedGaussian
from anydiff.losses import (
    P2,
    Hybrid,
    KarrasWeighting,
    LearnedUncertainty,
    Likelihood,
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    Mapped,
    MinSNR,
    Plain,
    Power,
    PseudoHuber,
    Rows,
    Sigmoid,
    SoftTruncation,
    SquaredError,
    Times,
    TruncatedSNR,
    UniformLogSNR,
    Unit,
    Weighting,
)
from anydiff.predictions import TARGETS, Preconditioned, Target
from anydiff.schedules import (
    VE,
    Cosine,
    Flow,
    Geometric,
    Karras,
    Learned,
    Level,
    Linear,
    Polynomial,
    ScaledLinear,
    Shifted,
    SigmoidAlphaBar,
    SigmoidBeta,
    SubVP,
    Tabulated,
    ZeroTerminalSNR,
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
    Geometric(1e-4, 0.99),
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
    assert load(tmp_path / "m")[0].target == TARGETS[name]


def test_the_data_s_deviation_comes_back(tmp_path):
    diffusion = small(Karras(), prediction=Preconditioned(sigma_data=0.25))
    save(tmp_path / "m", diffusion)
    loaded, _ = load(tmp_path / "m")
    assert loaded.target == Preconditioned(sigma_data=0.25) != TARGETS["karras"]
    x, t = draw((8, 5)).float(), torch.tensor([0.2, 0.6])
    before, after = (d.predictor(SPACE).predict(x, t).x0 for d in (diffusion, loaded))
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["mine", "v"])
def test_a_target_of_one_s_own_is_handed_in(tmp_path, name):
    mine = Target(name, lambda at: (-2 * at.sigma, 2 * at.alpha))
    save(tmp_path / "m", small(prediction=mine))
    with pytest.raises(ValueError, match=rf"{name!r}.*load\(path, prediction=\.\.\.\)"):
        load(tmp_path / "m")
    assert load(tmp_path / "m", prediction=mine)[0].target is mine


@pytest.mark.parametrize("number", [1, 2])
def test_files_of_the_first_formats_are_read(tmp_path, number):
    diffusion = small(Polynomial(3), prediction="v")
    config = {
        "format": number,
        "denoiser": {"name": "EGNN", "config": diffusion.denoiser.config},
        "schedule": {"name": "Polynomial", "config": {"power": 3, "precision": 1e-5}},
        "prediction": "v" if number == 1 else {"name": "v", "config": {}},
        "extra": {"elements": [1, 6]},
    }
    tensors = {f"denoiser.{k}": v for k, v in diffusion.denoiser.state_dict().items()}
    tensors["extra.sizes"] = torch.arange(3)
    save_file(tensors, tmp_path / "m", metadata={"anydiff": json.dumps(config)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, extra = load(tmp_path / "m")
    assert (loaded.weighting, loaded.times, loaded.error) == (
        Plain(), Mapped(), SquaredError(),
    )  # fmt: skip
    assert not loaded.drop and not loaded.augment
    assert (loaded.schedule, loaded.target) == (Polynomial(3), TARGETS["v"])
    assert extra["elements"] == [1, 6] and torch.equal(extra["sizes"], torch.arange(3))
    x, t = draw((8, 5)).float(), torch.tensor([0.2, 0.6])
    before, after = (d.predictor(SPACE).predict(x, t).x0 for d in (diffusion, loaded))
    assert torch.equal(before, after)


# the objective: what a model is trained by


class Told(nn.Module):
    """A network of everything it is told, which gives a variance too."""

    config = {}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x_t, t, label=None, image=None, image_t=None):
        y = self.weight * x_t + t[:, None]
        for told in (label, image, image_t):
            y = y if told is None else y + torch.nan_to_num(told.reshape(-1, 1)).float()
        return y, torch.tanh(x_t)


def learned_uncertainty(inner):
    weighting = LearnedUncertainty(inner, features=4)
    nn.init.normal_(weighting.linear.weight, generator=torch.Generator().manual_seed(1))
    return weighting


def remembering():
    times = LossSecondMoment(4, 2, mixing=0.1)
    t = torch.arange(8) / 8
    times.reweigh(t, 1 + 9 * t)
    return times


OBJECTIVES = {
    "weighting": [
        Plain(), Unit("v"), MinSNR(3.0), TruncatedSNR(), P2(0.5, 2.0), KarrasWeighting(0.3),
        Likelihood(), Sigmoid(-1.0), learned_uncertainty(None), learned_uncertainty(MinSNR(2.0)),
        PseudoHuber(0.01), PseudoHuber(weighting=Unit("eps")),
    ],
    "times": [
        Mapped(), Power(2.0), LogNormal(-1.0, 0.5), LogitNormal(0.3),
        UniformLogSNR(-5.0, 5.0), remembering(),
        SoftTruncation(), SoftTruncation(2.0, 1e-4, LogNormal(-1.0, 0.5)),
        Rows([1.0, 0.6, 0.0]), Rows((0.9, 0.2), DPMSolver(1)),
    ],
    "error": [
        SquaredError(), Hybrid(20, 0.1), Hybrid(10, decoder=ContinuousGaussian()),
        Hybrid(10, 0.1, DiscretizedGaussian(bits=4)),
        Hybrid(10, 0.1, DiscretizedGaussian(levels=[-1.0, 0.0, 0.5])),
    ],
    "drop": [0.5, {"label": 0.5}],
    "augment": [{"image": 0.6}],
}  # fmt: skip


def losses(diffusion):
    """In training mode, of one seed; twice, since some densities remember."""
    generator = torch.Generator().manual_seed(3)
    x0, label = draw((64, 3)).float().tanh(), torch.arange(64) % 5
    image = draw((64, 1), 1).float()
    diffusion.train()
    return torch.stack(
        [diffusion.loss(x0, label=label, image=image, generator=generator) for _ in range(2)]
    )


@pytest.mark.parametrize("name, value", [(k, v) for k, of in OBJECTIVES.items() for v in of])
def test_a_loaded_model_trains_on_as_it_was_trained(tmp_path, name, value):
    diffusion = GaussianDiffusion(Told(), Cosine(-8.0, 8.0), "v", **{name: value})
    save(tmp_path / "m", diffusion)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, _ = load(tmp_path / "m", denoiser=Told())
    assert type(getattr(loaded, name)) is type(getattr(diffusion, name))
    assert loaded.state_dict().keys() == diffusion.state_dict().keys()
    assert torch.equal(losses(loaded), losses(diffusion))

    plain = losses(GaussianDiffusion(Told(), Cosine(-8.0, 8.0), "v"))
    usual = value in (Plain(), Unit("v"), Mapped(), SquaredError())
    assert torch.allclose(losses(loaded), plain) == usual


def test_every_objective_has_its_round_trip():
    from anydiff import losses as room

    written = {type(value) for of in OBJECTIVES.values() for value in of}
    concrete = {c for n in room.__all__ if isinstance(c := getattr(room, n), type)}
    of_points = {room.PairDistances}  # which dense data have not: see its own tests
    assert concrete - {Weighting, Times} - of_points <= written


def test_all_parts_of_an_objective_come_back_together(tmp_path):
    diffusion = GaussianDiffusion(
        Told(), Cosine(-8.0, 8.0), "v", learned_uncertainty(MinSNR()), remembering(), Hybrid(20, 0.1),
        drop={"label": 0.2, "image": 0.3}, augment={"image": 0.5},
    )  # fmt: skip
    save(tmp_path / "m", diffusion)
    save(tmp_path / "n", load(tmp_path / "m", denoiser=Told())[0])
    loaded, _ = load(tmp_path / "n", denoiser=Told())
    assert torch.equal(loaded.times.losses, diffusion.times.losses)
    assert torch.equal(loaded.weighting.linear.weight, diffusion.weighting.linear.weight)
    assert torch.equal(losses(loaded), losses(diffusion))


class Mine(Weighting):
    def common(self, at):
        return at.sigma**2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weighting": lambda s: s.sigmoid()}, "weighting '<lambda>'.*set diffusion.weighting"),
        ({"weighting": Mine()}, "weighting 'Mine'.*set diffusion.weighting"),
        ({"weighting": LearnedUncertainty(Mine())}, "weighting 'Mine'.*set diffusion.weighting"),
        ({"times": lambda u: u**2}, "times '<lambda>'.*set diffusion.times"),
        ({"times": SoftTruncation(times=torch.sqrt)}, "times 'sqrt'.*set diffusion.times"),
        (
            {"weighting": Mine(), "times": torch.sqrt},
            "weighting 'Mine' and the times 'sqrt'.*diffusion.weighting, diffusion.times",
        ),
    ],
)
def test_what_no_file_can_keep_is_a_warning(tmp_path, options, message):
    diffusion = GaussianDiffusion(Told(), prediction="v", drop=0.5, **options)
    save(tmp_path / "m", diffusion)
    with pytest.warns(UserWarning, match=message):
        loaded, _ = load(tmp_path / "m", denoiser=Told())
    assert loaded.drop == 0.5
    x_t, t = draw((4, 3)).float(), torch.rand(4)
    before, after = (d.predictor().predict(x_t, t).x0 for d in (diffusion, loaded))
    assert torch.equal(before, after)


def test_a_compiled_model_is_saved_as_the_one_it_wraps(tmp_path):
    diffusion = small(prediction="v")
    plain = diffusion.denoiser
    for wrapped in (
        torch.compile(plain, backend="eager"),
        torch.optim.swa_utils.AveragedModel(plain),
    ):
        diffusion.denoiser = wrapped
        save(tmp_path / "m", diffusion)
        loaded, _ = load(tmp_path / "m")
        assert type(loaded.denoiser) is EGNN
        assert loaded.denoiser.state_dict().keys() == plain.state_dict().keys()


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


@pytest.mark.parametrize(
    "extra, named",
    [
        ({"not json": object()}, r"extra\['not json'\] is of type object"),
        ({"a": {"b": [1, {2, 3}]}}, r"extra\['a'\]\['b'\]\[1\] is of type set"),
        (
            {"a": {"b": torch.ones(2)}},
            r"extra\['a'\]\['b'\] is of type Tensor.*an entry of `extra`",
        ),
        ({"a": {1: 2}}, r"extra\['a'\] has the key 1"),
        ({1: 2}, "extra has the key 1"),
        ({None: torch.ones(2)}, "extra has the key None"),
        ({"a": np.array(["x"])}, r"extra.a cannot be stored as a tensor"),
        ({"a": np.array([1, None])}, r"extra.a cannot be stored as a tensor"),
        ({"a": 1j}, r"extra\['a'\] is of type complex"),
        ({"a": np.complex64(1)}, r"extra\['a'\] is of type complex"),
        ({"a": Path("x")}, r"extra\['a'\] is of type PosixPath"),
        ({"a": torch.ones(2).to_sparse()}, "extra.a cannot be stored"),
        ({"a": torch.ones(2, device="meta")}, "extra.a cannot be stored"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "extra.a cannot be stored .*complex128"),
        ([("a", 1)], "extra is of type list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stored_is_named_and_leaves_the_old_file(tmp_path, extra, named):
    save(tmp_path / "m", small())
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(ValueError, match=named):
        save(tmp_path / "m", small(), extra)
    assert (tmp_path / "m").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_circles_are_refused(tmp_path):
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match=r"extra\['a'\].* is within 101 lists"):
        save(tmp_path / "m", small(), {"a": circle})
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers_and_arrays_tensors(tmp_path):
    told = {
        "std": np.float32(0.5), "count": np.int64(3), "flag": np.bool_(True), "text": np.str_("a"),
        "inner": {"means": [np.float64(0.1), np.float16(0.5)], "pair": (1, None)},
        "odd": [float("nan"), float("-inf")],
    }  # fmt: skip
    arrays = {
        "row": np.arange(3)[::-1], "big": np.arange(3, dtype=">i4"), "one": np.array(2.5),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "flags": np.array([True, False]),
    }  # fmt: skip
    save(tmp_path / "m", small(), told | arrays)
    extra = load(tmp_path / "m")[1]
    assert (extra["std"], extra["count"], extra["flag"], extra["text"]) == (0.5, 3, True, "a")
    assert {type(extra[k]) for k in ("std", "count", "flag", "text")} == {float, int, bool, str}
    assert extra["inner"] == {"means": [0.1, 0.5], "pair": [1, None]}
    assert np.isnan(extra["odd"][0]) and extra["odd"][1] == -np.inf
    for name, array in arrays.items():
        assert extra[name].shape == array.shape and np.array_equal(extra[name].numpy(), array)


def test_a_config_and_a_schedule_may_have_numbers_of_numpy(tmp_path):
    net = UNet(1, np.array([4, 8]), groups=np.int64(2), dropout=np.float32(0.5))
    schedule = Shifted(Tabulated(np.array([0.9, 0.5])), np.float32(0.5))
    options = {"drop": {"label": np.float32(0.25)}, "weighting": MinSNR(np.float32(2))}
    save(
        tmp_path / "m", GaussianDiffusion(net, schedule, Preconditioned(np.float32(0.5)), **options)
    )
    loaded = load(tmp_path / "m")[0]
    assert loaded.denoiser.config["widths"] == [4, 8] and loaded.denoiser.config["dropout"] == 0.5
    assert (loaded.schedule.factor, loaded.target.sigma_data) == (0.5, 0.5)
    assert (loaded.drop, loaded.weighting) == ({"label": 0.25}, MinSNR(2.0))


def test_a_config_that_json_cannot_hold_is_named(tmp_path):
    class Mine(nn.Linear):
        config = {"act": nn.SiLU()}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"Mine.config\['act'\] is of type SiLU"):
        save(tmp_path / "m", GaussianDiffusion(Mine(2, 2)))


def test_a_network_with_a_part_called_module_is_not_taken_for_a_wrapper(tmp_path):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.module = {}, nn.Linear(2, 2)

        def forward(self, x_t, t):
            return self.module(x_t)

    net = Around()
    save(tmp_path / "m", GaussianDiffusion(net))
    back, _ = load(tmp_path / "m", denoiser=Around())
    assert torch.equal(back.denoiser.module.weight, net.module.weight)


# what is a network's, and what is around it


class Doubled(nn.Module):
    """Holds a network as `module`, and is none of PyTorch's wrappers."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x_t, t, space=None):
        return 2 * self.module(x_t, t, space=space)


def test_networks_without_a_config_are_handed_in_by_name(tmp_path):
    for network in (nn.Bilinear(2, 2, 2), Doubled(EGNN(2, 4, 1))):
        name = type(network).__name__
        with torch.no_grad():
            first = next(network.parameters()).add_(1)
        save(tmp_path / "m", GaussianDiffusion(network))
        with pytest.raises(
            ValueError, match=rf"m has the denoiser '{name}'.*load\(path, denoiser="
        ):
            load(tmp_path / "m")
        fresh = nn.Bilinear(2, 2, 2) if name == "Bilinear" else Doubled(EGNN(2, 4, 1))
        loaded = load(tmp_path / "m", fresh)[0].denoiser
        assert loaded is fresh and torch.equal(next(loaded.parameters()), first)


def test_a_function_around_a_network_is_handed_in_with_its_network(tmp_path):
    net, other = UNet(1, (4,), groups=2, classes=3), UNet(1, (4,), groups=2, classes=3)
    save(tmp_path / "m", GaussianDiffusion(partial(net, label=None)))
    with pytest.raises(ValueError, match=r"denoiser 'partial'.*denoiser=\.\.\."):
        load(tmp_path / "m")
    load(tmp_path / "m", partial(other, label=None))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


def test_a_network_of_diffusers_is_saved_and_handed_in(tmp_path):
    class Theirs(nn.Module):  # as diffusers has them
        config = MappingProxyType({"in_channels": 1, "out_channels": 1})

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x, step, return_dict):
            return (self.conv(x),)

    one = FromDiffusers(Theirs())
    save(tmp_path / "m", GaussianDiffusion(one, Tabulated.linear(), "eps"))
    with pytest.raises(
        ValueError, match=r"denoiser 'FromDiffusers'.*load\(path, denoiser=\.\.\.\)"
    ):
        load(tmp_path / "m")
    loaded = load(tmp_path / "m", FromDiffusers(Theirs()))[0].denoiser
    assert torch.equal(loaded.network.conv.weight, one.network.conv.weight)


def test_a_namesake_of_a_network_is_not_taken_for_it(tmp_path):
    namesake = type("EGNN", (EGNN,), {})
    save(tmp_path / "m", GaussianDiffusion(namesake(2, 4, 1)))
    with pytest.raises(ValueError, match=r"denoiser '\w+.EGNN'.*denoiser="):
        load(tmp_path / "m")
    assert type(load(tmp_path / "m", namesake(2, 4, 1))[0].denoiser) is namesake


def test_parts_that_are_compiled_have_their_own_names(tmp_path):
    net = EGNN(2, 4, 2)
    expected = {k: v.clone() for k, v in net.state_dict().items()}
    for k in range(2):
        net.blocks[k] = torch.compile(net.blocks[k], backend="eager")
    save(tmp_path / "m", GaussianDiffusion(net))
    loaded = load(tmp_path / "m")[0].denoiser.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(v, loaded[k]) for k, v in expected.items())
    for other in (net, torch.compile(EGNN(2, 4, 2), backend="eager")):  # also to load into
        back = load(tmp_path / "m", other)[0].denoiser
        assert back is other
        assert all(
            torch.equal(a, b)
            for a, b in zip(back.state_dict().values(), expected.values(), strict=True)
        )


def test_a_network_that_was_changed_after_it_was_built_says_so(tmp_path):
    def changed():
        net = EGNN(2, 4, 1)
        net.readout = nn.Sequential(net.readout, nn.Identity())
        return net

    net = changed()
    with pytest.warns(UserWarning, match=r"the EGNN was changed .*readout.*denoiser=\.\.\."):
        save(tmp_path / "m", GaussianDiffusion(net))
    with pytest.raises(ValueError, match=r"denoiser 'changed EGNN'.*denoiser=\.\.\."):
        load(tmp_path / "m")
    loaded = load(tmp_path / "m", changed())[0].denoiser
    assert torch.equal(loaded.readout[0].weight, net.readout[0].weight)


class Counts(nn.Module):
    """Keeps more than tensors."""

    def __init__(self, told=None):
        super().__init__()
        self.weight, self.told = nn.Parameter(torch.ones(1)), told

    def forward(self, x_t, t):
        return self.weight * x_t

    def get_extra_state(self):
        return self.told

    def set_extra_state(self, state):
        self.told = state


@pytest.mark.parametrize(
    "told", [None, 3, {"steps": [1, 2.5], "name": "a"}, torch.arange(3)], ids=str
)
def test_extra_state_comes_back(tmp_path, told):
    save(tmp_path / "m", GaussianDiffusion(nn.Sequential(Counts(told))))
    loaded = load(tmp_path / "m", nn.Sequential(Counts(7)))[0].denoiser[0].told
    assert torch.equal(loaded, told) if isinstance(told, torch.Tensor) else loaded == told


def test_extra_state_that_no_file_can_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"denoiser.0._extra_state\['f'\] is of type function"):
        save(tmp_path / "m", GaussianDiffusion(nn.Sequential(Counts({"f": small}))))


def test_what_was_fixed_stays_fixed(tmp_path):
    diffusion = small(Learned(width=4), prediction="v")
    diffusion.schedule.gamma_0.requires_grad_(False)
    diffusion.denoiser.readout.requires_grad_(False)
    fixed = {k for k, p in diffusion.named_parameters() if not p.requires_grad}
    save(tmp_path / "m", diffusion)
    loaded = load(tmp_path / "m")[0]
    assert {k for k, p in loaded.named_parameters() if not p.requires_grad} == fixed
    save(tmp_path / "m", diffusion.requires_grad_(False))  # a copy to draw from
    assert all(p.requires_grad for p in load(tmp_path / "m")[0].parameters())


def test_a_class_of_one_s_own_is_a_warning(tmp_path):
    class Mine(GaussianDiffusion):
        pass

    with pytest.warns(UserWarning, match="a Mine is saved as the GaussianDiffusion"):
        save(tmp_path / "m", Mine(EGNN(2, 4, 1)))


def test_a_weighting_by_a_target_comes_back(tmp_path):
    for target, kept in ((TARGETS["v"], "v"), (Preconditioned(0.3), Preconditioned(0.3))):
        save(tmp_path / "m", GaussianDiffusion(EGNN(2, 4, 1), weighting=Unit(target)))
        assert load(tmp_path / "m")[0].weighting == Unit(kept)


def test_every_argument_of_a_diffusion_is_kept_or_said():
    from anydiff.checkpoints.loading import CLASSES

    arguments = set(inspect.signature(GaussianDiffusion).parameters)
    assert arguments == {*CLASSES, "prediction", "drop", "augment"}

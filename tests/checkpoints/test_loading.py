"""Whatever a file holds, loading it ends in a model or in one error that names file and part."""

import json
import time
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from anydiff import DPMSolver, Flow, GaussianDiffusion, Preconditioned, Tabulated, load, save
from anydiff.checkpoints import CheckpointError
from anydiff.denoisers import EGNN, BiRNN, Harmonic, PairNet, Transformer, UNet
from anydiff.denoisers.configured import planned
from anydiff.losses import Hybrid, LearnedUncertainty, LossSecondMoment, MinSNR, Rows, Unit
from anydiff.schedules import Learned, Shifted
from tests.helpers.changes import DROPPED, changed

ODD = [
    DROPPED, None, True, -1, 2, 10**6, 10**400, 0.5, float("nan"), float("inf"), "", "UNet", [], [0],
    [8] * 1000, {}, {"name": "Cosine", "config": {}}, {"name": "UNet", "config": {}}, "x" * 1000,
    {"name": "LossSecondMoment", "config": {"bins": 10**6, "history": 10**6}},
]  # fmt: skip
MODELS = {
    "points": (
        lambda: EGNN(2, 4, 1), Shifted(Tabulated([0.9, 0.5, 0.1]), 0.5), Preconditioned(0.3),
        {"weighting": MinSNR(), "times": LossSecondMoment(3, 2), "drop": {"label": 0.1},
         "augment": {"image": 0.5}},
    ),
    "sequences": (
        lambda: BiRNN(1, 4, 1), Learned(width=4), "v",
        {"weighting": LearnedUncertainty(Unit("eps"), features=4), "error": Hybrid(10), "drop": 0.5},
    ),
    "of one run": (
        lambda: BiRNN(1, 4, 1), Flow(), "v", {"times": Rows([0.9, 0.5, 0.0], DPMSolver(3))},
    ),
}  # fmt: skip
NETWORKS = {
    "EGNN": lambda: EGNN(2, 4, 1), "PairNet": lambda: PairNet(2, 4, 4, 2, 1),
    "Harmonic": lambda: Harmonic(2, 4, 4, 2, 1),
    "BiRNN": lambda: BiRNN(2, 4, 1), "Transformer": lambda: Transformer(2, 4, 1, 1),
    "UNet": lambda: UNet(1, (4, 4), groups=2),
}  # fmt: skip


def written(path, net, schedule=Flow(), prediction="v", options=None):
    """The config and the tensors of a saved model."""
    torch.manual_seed(0)
    save(path, GaussianDiffusion(net(), schedule, prediction, **options or {}), {"a": 1})
    return opened(path)


def opened(path):
    with safe_open(path, framework="pt") as file:
        # copies: tests write to the file that these are read from
        tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["anydiff"]), tensors


def write(path, config, tensors):
    header = config if isinstance(config, str) else json.dumps(config)
    save_file(tensors, path, metadata={"anydiff": header})


def nodes(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 2)):
            yield from nodes(value[key], (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:.*which no file can store")
def test_any_change_of_a_header_ends_in_a_model_or_one_error(tmp_path, name):
    config, tensors = written(tmp_path / "m", *MODELS[name])
    loaded = 0
    for k, path in enumerate(nodes(config)):
        for new in ODD[k % 5 if path else 1 :: 5]:
            write(tmp_path / "m", changed(config, path, new), tensors)
            try:
                load(tmp_path / "m")
                loaded += 1
            except CheckpointError as error:
                text = str(error)
                assert text.startswith(str(tmp_path / "m")) and len(text) < 600 and "\n" not in text
    assert loaded


@pytest.mark.parametrize(
    "header",
    ["", "{", "[]", "3", "null", "{}", '"text"', "[" * 100_000, "1" * 5000, '{"format": 3}', "\ud800",
     '{"format": 3, "extra": {}, "denoiser": {"name": "EGNN", "config": ' + "[" * 900 + "]" * 900 + "}}"],
)  # fmt: skip
def test_a_header_that_is_none_is_named(tmp_path, header):
    _, tensors = written(tmp_path / "m", NETWORKS["EGNN"])
    header = (
        header.encode("utf-16", "surrogatepass").decode("latin1") if "\ud800" in header else header
    )
    write(tmp_path / "m", header, tensors)
    with pytest.raises(CheckpointError, match=r"m: its (config|denoiser) cannot be read"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "part, value, named",
    [
        (("format",), "3", "format is '3'"),
        (("format",), None, "format is None"),
        (("format",), True, "format is True"),
        (("denoiser",), None, "its denoiser"),
        (("denoiser", "config"), [], "its denoiser"),
        (("denoiser", "config", "hidden"), "4", "hidden is '4', not int"),
        (("denoiser", "config", "hidden"), float("nan"), "hidden is nan, not int"),
        (("denoiser", "config", "tanh"), "yes", "tanh is 'yes', not bool"),
        (("denoiser", "config", "coords_range"), float("inf"), "coords_range is inf"),
        (("denoiser", "config", "width"), 4, "EGNN has no argument 'width'"),
        (("schedule",), None, "its schedule"),
        (("schedule", "name"), 5, "its schedule .*name is 5, not str"),
        (("schedule", "name"), "MinSNR", "its schedule .*MinSNR is no Schedule"),
        (("prediction",), None, "its prediction"),
        (("prediction", "config"), {"sigma_data": "x"}, "prediction"),
        (("objective",), None, "objective is None, not a dict"),
        (("objective", "weighting"), 3, "its weighting"),
        (("objective", "drop"), "half", "drop is 'half'"),
        (("objective", "drop"), 7, "drop"),
        (("extra",), None, "extra is None, not a dict"),
        (("extra",), [], "extra is"),
    ],
)
def test_the_part_that_is_wrong_is_named(tmp_path, part, value, named):
    config, tensors = written(tmp_path / "m", NETWORKS["EGNN"])
    write(tmp_path / "m", changed(config, part, value), tensors)
    with pytest.raises(ValueError, match=rf"m.*{named}"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "part, value, named",
    [
        (("config", "times"), [0.0, 0.5, 1.0], r"times is .*; give falling times in \[0, 1\]"),
        (("config", "times"), [1.0], "give falling times"),
        (("config", "times"), [1.0, "a"], "times is .*, not Sequence"),
        (("config", "times"), 4, "times is 4, not Sequence"),
        (("config", "times"), [1.0] * 200_000, "times has 200000 entries"),
        (("config", "sampler"), None, "sampler is None"),
        (("config", "sampler", "name"), "Cosine", "Cosine is no Sampler"),
        (("config", "sampler", "config", "order"), 7, "order is 7; choose one of 1, 2, 3"),
        (("config", "rows"), 4, "Rows has no argument 'rows'"),
    ],
)
def test_a_run_that_is_damaged_is_named(tmp_path, part, value, named):
    config, tensors = written(tmp_path / "m", *MODELS["of one run"])
    write(tmp_path / "m", changed(config, ("objective", "times", *part), value), tensors)
    with pytest.raises(CheckpointError, match=rf"m: its times .*{named}"):
        load(tmp_path / "m")


# sizes --------------------

SIZES = [
    ("EGNN", "layers"), ("EGNN", "hidden"), ("EGNN", "sublayers"), ("EGNN", "classes"),
    ("PairNet", "layers"), ("PairNet", "hidden"), ("PairNet", "vectors"), ("PairNet", "tokens"),
    ("PairNet", "pairs"), ("Harmonic", "layers"), ("Harmonic", "tensors"),
    ("BiRNN", "layers"), ("BiRNN", "hidden"), ("Transformer", "layers"), ("Transformer", "hidden"),
    ("Transformer", "expansion"), ("UNet", "blocks"), ("UNet", "patch"), ("UNet", "image"),
]  # fmt: skip


@pytest.mark.parametrize("name, size", SIZES)
def test_sizes_that_the_tensors_do_not_have_are_refused_at_once(tmp_path, name, size):
    config, tensors = written(tmp_path / "m", NETWORKS[name])
    for number in (1000, 99_840, 10**6, 10**12, 10**30):
        write(tmp_path / "m", changed(config, ("denoiser", "config", size), number), tensors)
        start = time.process_time()
        with pytest.raises(CheckpointError, match="its denoiser cannot be read"):
            load(tmp_path / "m")
        assert time.process_time() - start < 1


@pytest.mark.parametrize("widths", [[4_000_000, 8], [40_000] * 8, [8] * 5000, [2] * 64])
def test_widths_that_the_tensors_do_not_have_are_refused_at_once(tmp_path, widths):
    config, tensors = written(tmp_path / "m", NETWORKS["UNet"])
    config["denoiser"]["config"] |= {"widths": widths, "blocks": 1000}
    write(tmp_path / "m", config, tensors)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="its denoiser cannot be read"):
        load(tmp_path / "m")
    assert time.process_time() - start < 1


def test_no_memory_is_asked_for_before_the_shapes_agree(tmp_path, monkeypatch):
    config, tensors = written(tmp_path / "m", NETWORKS["EGNN"])
    config["denoiser"]["config"]["hidden"] = 50_000
    write(tmp_path / "m", config, tensors)
    made = []
    monkeypatch.setattr(EGNN, "_build_readers", lambda self, *_: made.append(self))
    with pytest.raises(CheckpointError, match=r"\(50000, 100002\)|50000"):
        load(tmp_path / "m")
    assert len(made) == 1 and all(p.device.type == "meta" for p in made[0].parameters())


def test_chains_longer_than_any_tensor_are_read(tmp_path):
    save(tmp_path / "m", GaussianDiffusion(UNet(1, (4,), groups=2, steps=4000), Flow(), "v"))
    assert load(tmp_path / "m")[0].denoiser.config["steps"] == 4000


# tensors --------------------


def weight(tensors):
    return next(k for k, v in tensors.items() if k.startswith("denoiser.") and v.numel() > 4)


@pytest.mark.parametrize(
    "dtype",
    [torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn],
)
def test_weights_that_are_no_floats_are_refused(tmp_path, dtype):
    config, tensors = written(tmp_path / "m", NETWORKS["EGNN"])
    name = weight(tensors)
    write(tmp_path / "m", config, tensors | {name: tensors[name].to(dtype)})
    with pytest.raises(
        CheckpointError, match=f"m: its denoiser .*{dtype} where EGNN has torch.float32"
    ):
        load(tmp_path / "m")


def test_counts_keep_their_dtype(tmp_path):
    options = {"times": LossSecondMoment(3, 2)}
    config, tensors = written(tmp_path / "m", NETWORKS["EGNN"], options=options)
    write(tmp_path / "m", config, tensors | {"times.count": tensors["times.count"].float()})
    with pytest.raises(
        CheckpointError, match=r"its times .*float32 where LossSecondMoment has .*int64"
    ):
        load(tmp_path / "m")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype):
    config, tensors = written(tmp_path / "m", NETWORKS["EGNN"])
    name = weight(tensors)
    tensors = {k: v.to(dtype) for k, v in tensors.items()}
    tensors[name].view(-1)[3] = value
    write(tmp_path / "m", config, tensors)
    with pytest.raises(
        CheckpointError, match=f"{name.partition('.')[2]} is not finite: the training"
    ):
        load(tmp_path / "m")


def test_a_mask_that_is_built_with_infinities_may_have_them(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, x_t, t):
            return self.weight * x_t

    save(tmp_path / "m", GaussianDiffusion(Masked()))
    assert load(tmp_path / "m", Masked())[0].denoiser.mask[1] == -torch.inf


def test_one_narrow_tensor_does_not_make_the_others_narrow(tmp_path):
    config, tensors = written(tmp_path / "m", NETWORKS["UNet"])
    first = min(tensors)
    write(tmp_path / "m", config, tensors | {first: tensors[first].half()})
    network = load(tmp_path / "m")[0].denoiser
    assert {v.dtype for v in network.state_dict().values()} == {torch.float32}
    for name, value in network.state_dict().items():
        expected = tensors[f"denoiser.{name}"]
        assert torch.equal(
            value, expected.half().float() if f"denoiser.{name}" == first else expected
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_of_one_dtype_keeps_it(tmp_path, dtype):
    diffusion = GaussianDiffusion(UNet(1, (4,), groups=2), Flow(), "v").to(dtype)
    save(tmp_path / "m", diffusion)
    loaded = load(tmp_path / "m")[0].state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in diffusion.state_dict().items())
    assert {v.dtype for v in loaded.values()} == {dtype}


def test_weights_of_two_dtypes_by_construction_keep_both(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("table", torch.ones(2, dtype=torch.float64))

        def forward(self, x_t, t):
            return self.weight * x_t

    both = Both()
    both.weight.data = both.weight.data.bfloat16()
    save(tmp_path / "m", GaussianDiffusion(both))
    loaded = load(tmp_path / "m", Both())[0].denoiser
    assert (loaded.weight.dtype, loaded.table.dtype) == (torch.bfloat16, torch.float64)


@pytest.mark.parametrize("size", [0, 7, 8, 100])
def test_files_cut_anywhere_are_named(tmp_path, size):
    written(tmp_path / "m", NETWORKS["EGNN"])
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:size])
    with pytest.raises(CheckpointError, match="m is not a safetensors file, or is damaged"):
        load(tmp_path / "m")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load(tmp_path)


def test_a_plan_that_ends_early_leaves_no_trace():
    for tensors in range(40):  # at one or another operation, some of them within no_grad
        with pytest.raises(ValueError, match="operations to build"):
            planned(lambda: PairNet(2, 4, 4, 2, 1000), tensors / 100)
        assert torch.is_grad_enabled() and torch.ones(1).device.type == "cpu"


def test_a_plan_has_the_shapes_of_the_network_and_draws_nothing():
    for make in NETWORKS.values():
        state = torch.get_rng_state()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            network = planned(make, 100)
        assert torch.equal(state, torch.get_rng_state())
        assert {v.device.type for v in network.state_dict().values()} == {"meta"}
        shapes = {k: v.shape for k, v in make().state_dict().items()}
        assert {k: v.shape for k, v in network.state_dict().items()} == shapes

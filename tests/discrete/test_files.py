"""Models of tokens in files, in training, and broken off and gone on with."""

import pytest
import torch

import anydiff
from anydiff import Cosine, Flow
from anydiff.denoisers import BiRNN, Transformer, UNet
from anydiff.discrete import (
    AbsorbingKernel,
    CategoricalDiffusion,
    OrdinalKernel,
    UniformKernel,
    one_hot,
)
from anydiff.losses import Power
from anydiff.spaces import DENSE
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import fit

MODELS = {
    "absorbing": lambda: CategoricalDiffusion(Transformer(6, 16, 1), AbsorbingKernel(5), Flow()),
    "uniform": lambda: CategoricalDiffusion(
        BiRNN(4, 16, 1), UniformKernel(4), Cosine(), Power(2.0), {"label": 0.1}
    ),
    "ordinal": lambda: CategoricalDiffusion(
        UNet(4, (8, 16), groups=4), OrdinalKernel(4), Cosine(), axis=1
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_same_again(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    anydiff.save(tmp_path / "m.safetensors", model, {"words": ["a", "b"]})
    again, extra = anydiff.load(tmp_path / "m.safetensors")
    assert extra == {"words": ["a", "b"]} and type(again) is CategoricalDiffusion
    for key in ("kernel", "schedule", "axis", "times", "drop"):
        assert getattr(again, key) == getattr(model, key)
    tokens = torch.randint(4, (2, 8, 8) if again.axis == 1 else (2, 5))
    x0 = one_hot(tokens, again.kernel, again.axis)
    noise = torch.randn(x0.shape, dtype=torch.float64)
    a, b = (m.eval().loss(x0, 0.4, noise=noise) for m in (model, again))
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_what_was_changed_in_a_file_is_an_error(tmp_path):
    import json

    from safetensors.torch import load_file, save_file

    path = tmp_path / "m.safetensors"
    anydiff.save(path, MODELS["absorbing"]())
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["anydiff"])
    for tokens, error in (
        ({"kernel": {"name": "Flow", "config": {}}, "axis": -1}, "Flow is no Kernel"),
        ({"kernel": {"name": "UniformKernel", "config": {"values": 1}}, "axis": -1}, "values is 1"),
        ({"kernel": {"name": "UniformKernel", "config": {"values": 3}}, "axis": "x"}, "axis"),
    ):
        wrong = tmp_path / "wrong.safetensors"
        save_file(load_file(path), wrong, {"anydiff": json.dumps(config | {"tokens": tokens})})
        with pytest.raises(anydiff.checkpoints.CheckpointError, match=error):
            anydiff.load(wrong)


def test_a_kernel_of_ones_own_is_refused_before_it_is_lost(tmp_path):
    class Mine(UniformKernel):
        pass

    with pytest.raises(
        ValueError, match="the kernel Mine is one of your own, which no file can store"
    ):
        anydiff.save(tmp_path / "m.safetensors", CategoricalDiffusion(BiRNN(4, 16, 1), Mine(4)))
    assert not (tmp_path / "m.safetensors").exists()


def test_training_goes_on_where_it_was_broken_off(tmp_path):
    """The trainer, averages and resumption are those of Gaussian diffusion."""
    tokens = torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(0))

    def run(folder, epochs):
        torch.manual_seed(0)
        model = MODELS["absorbing"]()
        module = DiffusionModule(
            model, lambda rows: (one_hot(rows, model.kernel), DENSE, {}), lr=1e-3, decay=False
        )
        loading = torch.utils.data.DataLoader(tokens, batch_size=8)
        fit(module, folder, loading, epochs=epochs, ema=0.9, accelerator="cpu", devices=1)
        return module.objective.state_dict()

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 4)  # goes on
    for key, value in whole.items():
        torch.testing.assert_close(value, parts[key])

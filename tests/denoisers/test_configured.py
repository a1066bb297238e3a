"""`config` follows the constructor, and builds the network again."""

import copy
import inspect
import json

import pytest
import torch
from torch import nn

from anydiff import denoisers
from anydiff.denoisers import (
    BiRNN,
    Completing,
    Energy,
    Gated,
    TextEncoder,
    UNet,
    Worded,
    configured,
)

NETWORKS = [n for n in map(denoisers.__dict__.get, denoisers.__all__) if inspect.isclass(n)]


@configured
class Small(nn.Module):
    def __init__(self, width, sizes=(1, (2, 3)), *, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(width, len(sizes), bias)


@configured
class Smaller(Small):
    def __init__(self, scale=2.0) -> None:
        super().__init__(4)


def test_it_has_every_argument_as_json_has_it():
    net = Small(3)
    assert net.config == {"width": 3, "sizes": [1, [2, 3]], "bias": True}
    assert Small(width=3, bias=False).config == {**net.config, "bias": False}
    assert Small(**json.loads(json.dumps(net.config))).config == net.config
    assert copy.deepcopy(net).config == net.config


def test_of_classes_that_inherit_the_one_that_is_called_decides():
    class Plain(Small):
        pass

    assert Smaller().config == {"scale": 2.0}
    assert Plain(1).config == Small(1).config


def test_the_constructor_keeps_its_signature():
    assert list(inspect.signature(Small).parameters) == ["width", "sizes", "bias"]
    with pytest.raises(TypeError, match="width"):
        Small()


def test_arguments_without_a_name_are_refused():
    class Open(nn.Module):
        def __init__(self, *widths):
            super().__init__()

    with pytest.raises(TypeError, match=r"Open is \(self, \*widths\)"):
        configured(Open)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_every_denoiser_keeps_what_it_was_built_with(network):
    parameters = inspect.signature(network).parameters
    first = next(iter(parameters))
    if network is Gated:
        inner = BiRNN(3, 8, 1)
        kept = {
            "net": {"name": "BiRNN", "config": inner.config},
            "columns": 3,
            "axis": -1,
            "start": -6.0,
        }
        assert network(inner, 3).config == json.loads(json.dumps(kept))
        return
    if network is Completing:
        inner = BiRNN(6, 8, 1)
        kept = {"net": {"name": "BiRNN", "config": inner.config}, "axis": -1}
        assert network(inner).config == json.loads(json.dumps(kept))
        return
    if network is Energy:
        inner = BiRNN(3, 8, 1)
        kept = {"network": {"name": "BiRNN", "config": inner.config}}
        assert network(inner).config == json.loads(json.dumps(kept))
        return
    if network is Worded:
        inner, encoder = UNet(2, (8,), tokens=4), TextEncoder(5, 4)
        kept = {"net": {"name": "UNet", "config": inner.config}}
        kept |= {"encoder": {"name": "TextEncoder", "config": encoder.config}}
        assert network(inner, encoder).config == json.loads(json.dumps(kept))
        return
    net = network(**{first: 3})
    defaults = {k: p.default for k, p in parameters.items() if k != first}
    if network is UNet:
        defaults["widths"] = list(defaults["widths"])
    assert net.config == {first: 3, **defaults}


def test_files_from_before_had_what_none_stands_for():
    torch.manual_seed(0)
    for now, then in (
        (UNet(2, (8, 16), groups=4), UNet(2, [8, 16], groups=4, attention=[1])),
        (BiRNN(3, 8, 1), BiRNN(3, 8, 1, velocity=3)),
    ):
        then.load_state_dict(now.state_dict())

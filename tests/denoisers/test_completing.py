"""A network that completes: what it is told, what it answers, and its files."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from anydiff import Cosine, GaussianDiffusion, load, save
from anydiff.denoisers import EGNN, BiRNN, Completing, PairNet, Transformer, UNet
from anydiff.spaces import Dense, Masked, Packed, Rest
from tests.helpers.networks import awake
from tests.helpers.spaces import MASK, NODES, OBSERVED, draw

BONDS = NODES.pair_space
PACKED = Packed(
    {"atoms": (NODES, (14, 5)), "bonds": (BONDS, (len(BONDS.index), 2))}, {"bonds": 0.3}
)


class Own(nn.Linear):
    """A network of somebody else's, which takes neither space nor conditions."""

    def forward(self, x_t, t):
        return super().forward(x_t) * t[:, None]


NETWORKS = {
    "PairNet": (lambda: PairNet(7, 16, 8, 4, 1), NODES, (14, 5), -1),
    "EGNN": (lambda: EGNN(7, 16, 1), NODES, (14, 5), -1),
    "pairs": (lambda: PairNet(7, 16, 8, 4, 1, pairs=4), PACKED, PACKED.shape, -1),
    "BiRNN": (lambda: BiRNN(6, 8, 1), Masked(MASK), (4, 7, 3), -1),
    "observed": (lambda: BiRNN(6, 8, 1, observed=True), Masked(MASK, OBSERVED), (4, 7, 3), -1),
    "Transformer": (lambda: Transformer(6, 8, 1, 2), Dense(), (4, 7, 3), 2),
    "UNet": (lambda: UNet(6, (8, 16), groups=4), Dense(), (4, 3, 8, 8), 1),
    "variance": (
        lambda: UNet(6, (8, 16), groups=4, out_channels=12), Dense(), (4, 3, 8, 8), 1
    ),
    "signal": (lambda: UNet(6, (8, 16), groups=4, dims=1), Dense(), (4, 3, 8), 1),
    "one's own": (lambda: Own(6, 6), Dense(), (4, 3), 1),
}  # fmt: skip
every_network = pytest.mark.parametrize("name", NETWORKS)
T = torch.tensor([0.1, 0.4, 0.6, 0.9])


def built(name):
    make, space, shape, axis = NETWORKS[name]
    torch.manual_seed(0)
    net = Completing(awake(make()), axis)
    known = (draw(shape, 3) > 0.4) & (space.diagonal(draw(shape)) > 0)
    x0 = space.project(draw(shape).float())
    return net, Rest(space, known), x0, space.restrict(x0, known)


def first(y):
    return y[0] if isinstance(y, tuple) else y


@every_network
def test_it_is_told_what_is_known_and_answers_for_the_rest(name):
    net, space, x0, given = built(name)
    x_t = space.noise(x0, torch.Generator().manual_seed(0))
    y = net(x_t, T, space=space, given=given)
    for part in y if isinstance(y, tuple) else (y,):
        assert part.shape == x_t.shape and part.isfinite().all()
    out = space.project(first(y))
    assert out.abs().max() > 1e-3

    def moved(**told):
        told = {"space": space, "given": given, **told}
        return space.project(first(net(x_t, T, **told)) - first(y)).abs().max()

    assert moved() == 0
    assert moved(given=2 * given) > 1e-4  # by the values
    # by the flags alone, with the same values in the network's input
    fewer = space.known & (draw(x0.shape, 4) > 0)
    assert moved(space=Rest(space.space, fewer)) > 1e-4
    # and all of them absent is what a space without known parts has
    free = first(net(x_t, T, space=space.space))
    for absent in (None, torch.full_like(given, torch.nan)):
        assert torch.equal(first(net(x_t, T, space=space, given=absent)), free)


@every_network
def test_it_trains_and_its_file_is_the_same_network(name, tmp_path):
    net, space, x0, given = built(name)
    diffusion = GaussianDiffusion(net, Cosine(), "v").train()
    loss = diffusion.loss(x0, T, space=space, given=given)
    loss.sum().backward()
    assert loss.shape == (4,) and loss.isfinite().all()
    assert any(p.grad is not None and p.grad.any() for p in net.parameters())
    if name == "one's own":
        return
    save(tmp_path / "m", diffusion.eval())
    loaded, _ = load(tmp_path / "m")
    assert type(loaded.denoiser) is Completing and loaded.denoiser.axis == net.axis
    assert loaded.denoiser.config == net.config
    again = loaded.loss(x0, T, space=space, given=given, noise=space.noise(x0, generators()))
    here = diffusion.loss(x0, T, space=space, given=given, noise=space.noise(x0, generators()))
    assert torch.equal(again, here)


def generators():
    return [torch.Generator().manual_seed(s) for s in range(4)]


def test_a_network_of_one_s_own_is_handed_in(tmp_path):
    net = built("one's own")[0]
    save(tmp_path / "m", GaussianDiffusion(net, Cosine(), "v"))
    with pytest.raises(ValueError, match=r"the denoiser 'Own'.*load\(path, denoiser=\.\.\.\)"):
        load(tmp_path / "m")
    loaded, _ = load(tmp_path / "m", denoiser=Completing(Own(6, 6), 1))
    assert torch.equal(loaded.denoiser.net.weight, net.net.weight)


def forged(path, **changes):
    """The file of a completing network, whose description says something else."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["anydiff"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config["denoiser"]["config"] |= changes
    save_file(tensors, path, {"anydiff": json.dumps(config)})
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"net": {"name": "Completing", "config": {"net": 3}}}, "net is 3, not Module"),
        ({"net": {"name": "Cosine", "config": {}}}, "Cosine is no Module"),
        ({"net": {"name": "BiRNN", "config": {"channels": 6, "hidden": 9, "layers": 1}}}, "BiRNN"),
        ({"net": {"name": "BiRNN", "config": {"channels": 5, "hidden": 8, "layers": 1}}}, "BiRNN"),
        ({"net": {"name": "BiRNN", "config": {"channels": 6, "hidden": 10**9}}}, "hidden is 1e"),
        ({"axis": 10**9}, "axis is 1e"),
        ({"axis": "last"}, "axis is 'last', not int"),
        ({"net": "BiRNN"}, "net is 'BiRNN', not Module"),
    ],
)  # fmt: skip
def test_a_file_that_says_something_else_is_refused(changes, message, tmp_path):
    net, *_ = built("BiRNN")
    save(tmp_path / "m", GaussianDiffusion(net, Cosine(), "v"))
    with pytest.raises(ValueError, match=message):
        load(forged(tmp_path / "m", **changes))


def test_it_shows_the_columns_of_a_state():
    net = Completing(PairNet(2 * 8 - 3, 16, 8, 4, 1, pairs=4, context=1, classes=3))
    assert (net.features, net.pairs, net.context, net.classes) == (5, 2, 1, 3)
    assert Completing(UNet(6, (8, 16), classes=10), 1).channels == 3


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="BiRNN has channels=5; give it twice the columns"):
        Completing(BiRNN(5, 8, 1))
    with pytest.raises(ValueError, match="PairNet has features=6; give it twice"):
        Completing(PairNet(6, 16, 8, 4, 1))
    net, space, x0, given = built("BiRNN")
    with pytest.raises(ValueError, match=r"given is \(4, 7, 2\).*give space.restrict\(x0, known\)"):
        net(x0, T, space=space, given=given[..., :2])
    flat = Packed({"a": (Dense(), (4,))})
    with pytest.raises(ValueError, match="the number of axes of the field 'a' is 1"):
        net(draw((4,)).float(), T, space=flat)

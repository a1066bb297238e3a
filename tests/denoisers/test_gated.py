"""Gates: where they are closed a model is that of a standard normal, and in between a mixture of both."""

import pytest
import torch

import anydiff
from anydiff import Cosine, GaussianDiffusion
from anydiff.denoisers import BiRNN, Gated, UNet
from anydiff.spaces import DENSE, Masked
from tests.helpers.networks import awake
from tests.helpers.spaces import draw


@pytest.mark.parametrize("axis", [-1, 1])
def test_the_prediction_is_mixed_with_that_of_a_standard_normal(axis):
    torch.manual_seed(0)
    if axis == 1:
        net, shape, space = UNet(2, [4], groups=2), (3, 2, 4, 4), DENSE
    else:
        net, shape, space = BiRNN(2, 8, 1), (3, 4, 2), Masked.from_lengths([4, 1, 3])
    net = awake(net).double()
    gated = Gated(net, 2, axis).double()
    with torch.no_grad():
        gated.logits.copy_(torch.tensor([0.3, -1.0]))
    x, t = space.project(draw(shape)), torch.tensor([0.1, 0.5, 0.9])
    plain, mixed = (GaussianDiffusion(n, Cosine(), "v").predictor(space) for n in (net, gated))
    at = Cosine()._at(t.double())
    p, q = plain.predict(x, at), mixed.predict(x, at)
    sigma = space.expand(at.sigma, x)
    a = gated.logits.sigmoid().view([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])
    torch.testing.assert_close(q.eps, (1 - a) * sigma * x + a * p.eps, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        gated.logits.fill_(-1e9)
    closed = mixed.predict(x, at)
    torch.testing.assert_close(closed.eps, sigma * x, rtol=0, atol=1e-12)


def test_it_learns_is_saved_and_checks_its_arguments(tmp_path):
    torch.manual_seed(0)
    gated = Gated(awake(BiRNN(3, 8, 1)), 3)
    assert gated.channels == 3 and gated.logits.sigmoid().max() < 0.003
    model = GaussianDiffusion(gated, Cosine(), "v")
    model.loss(torch.randn(2, 4, 3)).mean().backward()
    assert gated.logits.grad.any() and gated.net.layers[0].film.weight.grad is not None
    anydiff.save(tmp_path / "m.safetensors", model)
    again = anydiff.load(tmp_path / "m.safetensors")[0]
    a, b = (m.eval().sample((2, 4, 3), steps=2, seed=0) for m in (model, again))
    assert torch.equal(a, b)
    for wrong in ({"columns": 0}, {"axis": -2}, {"start": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Gated(BiRNN(3, 8, 1), **{"columns": 3} | wrong)

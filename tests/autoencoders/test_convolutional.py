"""Convolutional autoencoders: shapes, ways there and back, and what is refused."""

import pytest
import torch

from anydiff.autoencoders import Autoencoding, Convolutional
from anydiff.spaces import DENSE, Masked
from tests.helpers.networks import awake
from tests.helpers.points import ROUNDING
from tests.helpers.spaces import draw


@pytest.mark.parametrize("dims, sides", [(2, (8, 12)), (1, (16,))])
@pytest.mark.parametrize("noisy", [True, False])
def test_a_latent_has_a_side_halved_for_each_width(dims, sides, noisy):
    torch.manual_seed(0)
    net = Convolutional(3, 2, (8, 8, 16), noisy=noisy, groups=4, dims=dims).double()
    x = draw((5, 3, *sides))
    q = net.encode(x)
    assert q.mean.shape == net.latent_shape(x.shape) == (5, 2, *(s // 4 for s in sides))
    assert (q.log_variance is None) != noisy
    assert net.decode(q.sample()).shape == x.shape and net.columns == 2 and net.axis == 1
    # an item alone is as in its batch
    net = awake(net)
    torch.testing.assert_close(net.encode(x[:1]).mean, net.encode(x).mean[:1], **ROUNDING)
    assert net.config == {
        "channels": 3, "latent": 2, "widths": [8, 8, 16], "blocks": 1, "noisy": noisy, "groups": 4,
        "dims": dims,
    }  # fmt: skip


def test_every_weight_learns():
    torch.manual_seed(0)
    net = awake(Convolutional(2, 3, (8, 16), blocks=2, groups=4))
    objective = Autoencoding(net)
    objective.loss(torch.randn(4, 2, 8, 8)).mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.parameters())


@pytest.mark.slow
def test_it_learns_to_keep_what_is_there():
    """Images of four numbers, in a latent of as many: nothing need be lost."""
    torch.manual_seed(0)
    net = Convolutional(1, 4, (16, 32), groups=4)
    objective = Autoencoding(net, beta=0.0)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    grid = torch.stack(
        torch.meshgrid(torch.arange(8) / 4 - 1, torch.arange(8) / 4 - 1, indexing="ij")
    )
    bases = torch.stack([grid[0], grid[1], grid[0] * grid[1], torch.ones(8, 8)])

    def batch(num):
        return torch.einsum("bk,khw->bhw", torch.randn(num, 4), bases)[:, None]

    for _ in range(300):
        optimizer.zero_grad()
        objective.loss(batch(32)).mean().backward()
        optimizer.step()
    x = batch(200)
    with torch.no_grad():
        error = (net.decode(net.encode(x).mode) - x).square().mean()
    assert error < 0.02 * x.square().mean()


def test_what_does_not_fit_is_named():
    net = Convolutional(3, 2, (8, 16), groups=4)
    with pytest.raises(ValueError, match=r"whose sides are multiples of 2, as .* has 2 widths"):
        net.encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(ValueError, match=r"x is .*3 channels and dims=2"):
        net.encode(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"z is .*latents have 2 channels"):
        net.decode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"Masked, and convolutions read every place"):
        net.latent_space(Masked.from_lengths([2]))
    with pytest.raises(ValueError, match=r"a width is 9; give multiples of the 4 groups"):
        Convolutional(3, 2, (9,), groups=4)
    for wrong in ({"latent": 0}, {"channels": 0}, {"dims": 3}, {"blocks": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Convolutional(**{"channels": 3} | wrong)
    assert net.latent_space(DENSE) is DENSE

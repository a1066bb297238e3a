"""Known parts drawn for training: which there are, what a batch becomes, and what is learned from it."""

import pytest
import torch
from torch import nn

from anydiff import Cosine, Dense, GaussianDiffusion, Masked
from anydiff.data.parts import boxes, stretches, with_parts
from anydiff.denoisers import Completing
from anydiff.editing import complete
from anydiff.spaces import Rest
from tests.helpers.spaces import NODES, SPACES, draw

X = torch.zeros(2000, 3, 6, 8)


def spans(rows):
    """Where rows (B, N) begin and end to be True, and whether they are True in between."""
    n = rows.sum(1)
    first = rows.long().argmax(1)
    return first, n, (rows.long().diff(dim=1) > 0).sum(1) + rows[:, 0].long() <= 1


def test_boxes_are_boxes_cuts_and_what_is_around_them():
    torch.manual_seed(0)
    known = boxes(None, X, Dense())
    assert known.shape == (2000, 1, 6, 8) and known.dtype == torch.bool
    known = known[:, 0]
    # one of the two parts is the product of an interval of each axis
    sides = []
    for part in (known, ~known):
        rows, columns = part.any(2), part.any(1)
        box = (part == rows[:, :, None] & columns[:, None]).all((1, 2))
        box &= spans(rows)[2] & spans(columns)[2]
        whole = (rows.all(1) | columns.all(1)) & ~part.all((1, 2))
        sides.append((box, box & whole))
    (inside, half), (outside, _) = sides
    assert (inside | outside).all()
    assert 0.3 < half.float().mean() < 0.7 and (inside & ~half).any() and (~inside).any()
    # every pixel is known about as often as not, and either side of a cut
    assert ((known.float().mean(0) - 0.5).abs() < 0.1).all()
    left = known[half][:, 0, 0] & ~known[half][:, -1, -1]
    assert 0.2 < left.float().mean() < 0.8
    assert boxes(None, torch.zeros(5, 2, 7), Dense()).shape == (5, 1, 7)


def test_stretches_are_first_rows_and_gaps():
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor([9, 4]).repeat(1000)[:, None]
    space, x = Masked(mask), torch.zeros(2000, 9, 3)
    known = stretches(None, x, space)
    unknown = ~known & mask
    assert known.shape == (2000, 9) and spans(unknown)[2].all()  # one stretch of each
    last = unknown[torch.arange(2000), mask.sum(1) - 1]
    assert 0.4 < last[unknown.any(1)].float().mean() < 0.8  # of which about half are at the end
    assert 0.2 < (unknown.sum(1) / mask.sum(1)).mean() < 0.6
    assert stretches(None, x, Dense()).float().mean() < 0.8


def test_a_batch_becomes_one_of_which_parts_are_known():
    known = draw((14, 5), 3) > 0
    for share, some in ((0.0, 0), (1.0, 4)):
        unpack = with_parts(lambda b: (b, NODES, {"label": 3}), lambda *_: known, share)
        x0, space, cond = unpack(draw((14, 5)))
        assert torch.equal(x0, draw((14, 5))) and cond["label"] == 3
        assert isinstance(space, Rest) and space.space is NODES
        expected = known if some else torch.zeros_like(known)
        assert torch.equal(space.known, expected)
        assert torch.equal(cond["given"], NODES.restrict(x0, expected))


@pytest.mark.parametrize("kind", SPACES)
def test_the_share_is_of_whole_items_in_every_space(kind):
    space, shape = SPACES[kind]
    torch.manual_seed(0)
    unpack = with_parts(lambda b: (b, space, {}), lambda b, x, s: x == x, 0.5)  # all of an item
    seen = []
    for _ in range(50):
        rest = unpack(space.project(draw(shape)))[1]
        left = rest.dim(draw(shape))
        assert ((left == 0) | (left == space.dim(draw(shape)))).all()
        seen.append(left[1:] == 0)  # the first of them may have no dimension
    assert 0.3 < torch.stack(seen).float().mean() < 0.7


class Linear(nn.Module):
    """The second number is linear in the first where that is known, and in itself."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))

    def forward(self, x, t):
        x, flags = x[:, :2], x[:, 2:]
        known = (flags[:, 0] > 0.5).long()
        y = (self.gain[known] * x).sum(1)
        return torch.stack([0 * y, y, 0 * y, 0 * y], 1)


def test_what_is_learned_is_the_regression_on_what_is_known():
    """The least squares of x0 at t = 1 - and so pure noise - on the known number: its covariance."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20000, 2, generator=generator, dtype=torch.float64) @ factor.T

    def first(batch, x0, space):
        return torch.tensor([True, False]).expand_as(x0)

    torch.manual_seed(0)
    x0, space, cond = with_parts(lambda b: (b, Dense(), {}), first, 0.6)(data)
    diffusion = GaussianDiffusion(Completing(Linear()), Cosine(), "x0")
    gain = diffusion.denoiser.net.gain

    def loss():
        # as items have one dimension or two, the sum over all is not weighted by it
        each = diffusion.loss(x0, 1.0, space=space, generator=generator, **cond)
        return (each * space.dim(x0)).mean()

    slope = torch.autograd.grad(loss(), gain)[0]
    # a parabola without mixed terms, up to sampling: one Newton step along each number
    step = torch.zeros_like(gain)
    for k in range(4):
        unit = torch.zeros(4, dtype=torch.float64)
        unit[k] = 1
        gain.data = unit.view(2, 2)
        generator.manual_seed(0)
        up = torch.autograd.grad(loss(), gain)[0].flatten()[k]
        step.view(-1)[k] = -slope.flatten()[k] / (up - slope.flatten()[k])
    # unknown: nothing to go by in noise; known: the regression; five errors of 8,000 items
    error = 5 / 8000**0.5
    assert (step - torch.tensor([[0.0, 0.0], [0.6, 0.0]])).abs().max() < error
    gain.data = step
    y = complete(diffusion, torch.tensor([[2.0, float("nan")]]).double(), steps=1, seed=0)
    assert y.shape == (1, 1, 2) and abs(y[0, 0, 1] - 1.2) < 0.2


def test_a_share_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"share is 1\.5; give a number in"):
        with_parts(lambda b: b, boxes, 1.5)

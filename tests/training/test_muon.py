"""Muon's matrix step is orthogonal, its other step is Adam's, and it descends."""

import copy

import torch
from torch import nn

from anydiff.training.muon import QUINTICS, Muon, orthogonalize
from tests.helpers.spaces import draw


def spread(R: int, C: int, decades: float) -> torch.Tensor:
    """A matrix whose singular values fall from 1 by so many powers of ten."""
    U, _, Vh = torch.linalg.svd(draw((R, C)), full_matrices=False)
    return U * torch.logspace(0, -decades, min(R, C), dtype=U.dtype) @ Vh


def test_orthogonalize_keeps_the_singular_vectors_and_evens_out_the_values():
    matrices = [spread(40, 64, 2), 1e3 * spread(64, 40, 1), spread(40, 40, 2.4), draw((32, 400))]
    for m, found in zip(matrices, orthogonalize(matrices), strict=True):
        U, S, Vh = torch.linalg.svd(m, full_matrices=False)
        values = U.mT @ found @ Vh.mT
        diagonal = values.diagonal()
        assert torch.allclose(values, torch.diag(diagonal), atol=1e-10)
        # the largest is at least two thirds of the root of the sum of their eighth powers
        assert diagonal[0.005 * S.amax() < S].min() > 0.79 and diagonal.max() < 1.21
        assert torch.equal(orthogonalize([m])[0], found)  # in any company


def test_each_quintic_is_the_best_for_what_the_one_before_leaves():
    """Errors of the best approximation alternate, at one point more than it has coefficients."""
    lowest, highest = 0.003, 1.0
    for a, b, c in QUINTICS:
        s = torch.linspace(lowest, highest, 400_001, dtype=torch.float64)
        error = a * s + b * s**3 + c * s**5 - 1
        slope = error.diff().sign()
        turns = 1 + (slope[1:] != slope[:-1]).nonzero().flatten()
        extremes = torch.stack([error[0], *error[turns], error[-1]])
        size = error.abs().max()
        torch.testing.assert_close(
            extremes, size * torch.tensor([-1, 1, -1, 1]).double(), rtol=0, atol=3e-3
        )
        lowest, highest = float(1 - size), float(1 + size)
    assert lowest > 0.79 and highest < 1.21


def test_a_matrix_steps_by_the_same_amount_whatever_its_gradient():
    steps = []
    for scale in (1e-2, 1.0, 1e4):
        p = nn.Parameter(torch.zeros(48, 96, dtype=torch.float64))
        p.grad = scale * draw((48, 96))
        Muon([p], lr=0.1).step()
        steps.append(p.detach())
    assert torch.allclose(steps[0], steps[1], atol=1e-5)
    assert torch.allclose(steps[1], steps[2], atol=1e-5)
    # singular values near 1, 48 of them: the norm is near sqrt(48), the root mean square 0.2 lr
    assert 0.7 < steps[1].square().mean().sqrt() / (0.2 * 0.1) < 1.2


def test_the_others_step_as_torch_s_adam_does():
    ours, theirs = (nn.Parameter(draw((7, 5))) for _ in range(2))
    muon = Muon([ours], adam_lr=0.01, betas=(0.9, 0.98))
    adam = torch.optim.Adam([theirs], 0.01, betas=(0.9, 0.98))
    for k in range(5):
        ours.grad, theirs.grad = draw((7, 5), k), draw((7, 5), k)
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_a_parameter_that_joins_late_steps_as_if_alone():
    early, late, alone = (nn.Parameter(torch.zeros(3).double()) for _ in range(3))
    both, single = Muon([late, early], adam_lr=0.01), Muon([alone], adam_lr=0.01)
    early.grad = draw((3,))
    for _ in range(50):
        both.step()
    late.grad, alone.grad = draw((3,), 1), draw((3,), 1)
    both.step()
    single.step()
    assert torch.allclose(late, alone, rtol=1e-12)


def test_it_descends_and_its_state_round_trips():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32)).double()
    x, y = draw((256, 32)), draw((256, 32), 1) * 0.1
    optimizer = Muon(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]

    again = Muon(net.parameters(), lr=0.02)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    after = [p.detach().clone() for p in net.parameters()]
    for p, b in zip(net.parameters(), before, strict=True):
        p.data.copy_(b)
    again.step()
    for p, a in zip(net.parameters(), after, strict=True):
        assert torch.equal(p, a)


def test_the_steps_are_those_of_the_quintics_one_by_one():
    for shape in [(40, 300), (300, 40), (16, 16)]:
        m = draw(shape)
        x = m / torch.linalg.svdvals(m).pow(8).sum().pow(1 / 8)
        for a, b, c in QUINTICS:
            gram = x @ x.mT
            x = a * x + b * gram @ x + c * gram @ gram @ x
        torch.testing.assert_close(orthogonalize([m])[0], x, rtol=0, atol=1e-6)


def test_a_kernel_steps_as_the_matrix_of_its_rows():
    kernel, matrix = nn.Parameter(draw((40, 8, 3, 3))), nn.Parameter(draw((40, 8, 3, 3)).flatten(1))
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    few = nn.Parameter(draw((3, 40, 3, 3)))  # few rows: Adam's
    kernel.grad, few.grad = draw((40, 8, 3, 3), 1), draw((3, 40, 3, 3), 1)
    matrix.grad = kernel.grad.flatten(1)
    before = few.detach().clone()
    tall = nn.Parameter(draw((400, 4, 3, 3)))
    tall.grad, columns = draw((400, 4, 3, 3), 2), tall.detach().clone().flatten(1).mT
    muon = Muon([kernel, matrix, few, tall], lr=0.1, adam_lr=0.01)
    muon.step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-12)
    alone = nn.Parameter(columns.clone())
    alone.grad = tall.grad.flatten(1).mT
    Muon([alone], lr=0.1).step()
    assert torch.allclose(tall.flatten(1).mT, alone, atol=1e-12)
    assert torch.allclose((few - before).abs(), torch.tensor(0.01, dtype=few.dtype), rtol=1e-4)


def test_half_precision_is_iterated_in_more():
    low = draw((64, 4)) @ draw((4, 64), 1)  # its Gram matrix has eigenvalues that are next to 0
    for dtype in (torch.float16, torch.bfloat16):
        found = orthogonalize([(low / low.norm()).to(dtype)])[0]
        assert found.dtype == dtype
        assert torch.linalg.svdvals(found.float()).max() < 1.3


def test_what_is_far_too_small_counts_as_nothing():
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(40, 64, generator=generator)
    dead = m.clone()
    dead[5:9] = 0
    faint = dead.clone()  # the momentum of rows without a gradient halves every 14 steps
    faint[5:9] = 1e-30 * torch.randn(4, 64, generator=generator)
    faint[6] *= 1e-10  # denormal
    whole, left, right, turned, back = orthogonalize([m, faint, dead, faint.mT, dead.mT])
    assert torch.equal(left, right) and torch.equal(turned, back)
    # of all entries alike, nothing is small; of none, nothing grows
    small, none = orthogonalize([1e-3 * m, torch.zeros(40, 64)])
    torch.testing.assert_close(small, whole, rtol=1e-3, atol=1e-4)
    assert not none.any()
    # a whole layer that hardly has a gradient does not step by its noise, and never by NaN
    norms = [10.0**-k for k in range(8, 45)]
    sizes = [float(x.norm()) for x in orthogonalize([k * (m / m.norm()) for k in norms])]
    assert all(size <= 500 * k / (k + 1e-7) for size, k in zip(sizes, norms, strict=True))
    assert sizes[0] > 1 and sizes[-1] == 0

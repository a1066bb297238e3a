"""Muon's matrix step is orthogonal, its other step is Adam's, and it descends."""

import copy

import torch
from test_spaces import draw
from torch import nn

from anydiff.optimizers import Muon, orthogonalize


def test_orthogonalize_keeps_the_singular_vectors_and_evens_out_the_values():
    for shape in [(40, 64), (64, 40), (3, 32, 32)]:
        m = draw(shape)
        U, S, Vh = torch.linalg.svd(m, full_matrices=False)
        values = U.mT @ orthogonalize(m) @ Vh.mT
        diagonal = values.diagonal(dim1=-2, dim2=-1)
        assert torch.allclose(values, torch.diag_embed(diagonal), atol=1e-10)
        assert diagonal[0.1 * S.amax() < S].min() > 0.6 and diagonal.max() < 1.3


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

"""Contrastive training: closed forms, equal conditions, and encoders that learn to agree."""

import math

import pytest
import torch

from anydiff import Cosine, Masked
from anydiff.contrastive import Contrastive, equal_rows


class Known(torch.nn.Module):
    """Embeddings that are given."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(rows)

    def forward(self, x_t, t, *, space):
        return self.rows.to(x_t.dtype)


def model(a, b, **options):
    made = Contrastive(Known(a), lambda **cond: b, **options).double()
    made.log_scale.data.fill_(math.log(5.0))
    return made


def test_orthonormal_pairs_have_a_closed_form():
    eye = torch.eye(4, dtype=torch.float64)
    loss = model(3 * eye, 0.1 * eye).loss(torch.zeros(4, 2).double(), label=torch.arange(4))
    # each softmax has one logit of 5 and three of 0
    torch.testing.assert_close(loss, torch.full((4,), math.log(1 + 3 * math.exp(-5.0))).double())
    # rotating all embeddings together changes nothing
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    turned = model(eye @ turn, eye @ turn).loss(torch.zeros(4, 2).double(), label=torch.arange(4))
    torch.testing.assert_close(turned, loss)


def test_embeddings_that_say_nothing_cost_the_logarithm_of_the_batch():
    same = torch.ones(8, 3, dtype=torch.float64)
    loss = model(same, same).loss(torch.zeros(8, 1).double(), label=torch.arange(8))
    torch.testing.assert_close(loss, torch.full((8,), math.log(8)).double())


def test_equal_conditions_cost_nothing():
    label = torch.tensor([0, 1, 0, 2, 1])
    rows = 1000 * torch.eye(3, dtype=torch.float64)[label]
    made = model(rows, rows)
    made.log_scale.data.fill_(99.0)  # of which 100 is used
    assert made.loss(torch.zeros(5, 1).double(), label=label).abs().max() < 1e-12
    # of one condition for all, nothing can be told apart
    loss = made.loss(torch.zeros(5, 1).double(), label=torch.zeros(5, dtype=torch.long))
    assert loss.min() > 1
    made = model(torch.ones(5, 3).double(), torch.ones(5, 3).double())
    assert made.loss(torch.zeros(5, 1).double(), label=0 * label).abs().max() < 1e-12


def test_conditions_are_compared_as_a_whole():
    nan = torch.nan
    tokens = torch.tensor([[[1.0], [nan]], [[1.0], [nan]], [[1.0], [2.0]], [[1.0], [nan]]])
    label = torch.tensor([4, 4, 4, 5])
    same = equal_rows({"tokens": tokens, "label": label})
    assert torch.equal(
        same,
        torch.eye(4, dtype=torch.bool)
        | torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool),
    )


def test_gradients():
    torch.manual_seed(0)
    label = torch.tensor([0, 1, 0, 2])
    b = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    made = model(torch.randn(4, 3, dtype=torch.float64), b)

    def loss(a, b, log_scale):
        made.of_condition = lambda label: b
        named = {"of_data.rows": a, "log_scale": log_scale}
        x = torch.zeros(4, 1).double()
        return torch.func.functional_call(made, named, (x,), {"label": label})

    assert torch.autograd.gradcheck(loss, (made.of_data.rows, b, made.log_scale))


class OfRows(torch.nn.Module):
    """The mean of the valid rows, and the time."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x_t, t, *, space):
        mean = x_t.sum(1) / space.lengths[:, None]
        return self.linear(torch.cat([mean, t[:, None]], 1))


@pytest.mark.parametrize("schedule", [None, Cosine()], ids=["clean", "noised"])
def test_encoders_learn_to_agree_in_a_space_of_rows(schedule):
    torch.manual_seed(0)
    label = torch.arange(30) % 3
    space = Masked.from_lengths([2 + k % 4 for k in range(30)])
    centers = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]])
    x0 = space.project(centers[label][:, None] + 0.1 * torch.randn(30, 5, 2))
    embed = torch.nn.Embedding(3, 4)
    clip = Contrastive(OfRows(), lambda label: embed(label), schedule, embed=embed)
    optimizer = torch.optim.Adam(clip.parameters(), 0.03)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        loss = clip.loss(x0, space=space, generator=generator, label=label).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < (0.1 if schedule is None else 0.8) < math.log(3)
    scores = torch.stack(
        [clip.similarity(x0, space=space, label=torch.full((30,), k)) for k in range(3)]
    )
    assert (scores.argmax(0) == label).float().mean() == 1
    if schedule:  # the same noise gives the same loss
        again = [clip.loss(x0, 0.5, space=space, noise=0 * x0, label=label) for _ in range(2)]
        assert torch.equal(*again)


def test_absent_conditions_say_nothing():
    b = torch.eye(3, dtype=torch.float64)
    b[1] = torch.nan
    made = model(torch.eye(3, dtype=torch.float64), b)
    loss = made.loss(torch.zeros(3, 1).double(), label=torch.arange(3))
    expected = math.log(1 + math.exp(-5.0))  # of the two others
    torch.testing.assert_close(loss, torch.tensor([expected, 0.0, expected]).double())
    loss.sum().backward()
    assert made.of_data.rows.grad.isfinite().all() and (made.of_data.rows.grad[1] == 0).all()
    cosines = made.similarity(torch.zeros(3, 1).double(), label=torch.arange(3))
    assert cosines.tolist() == [1, 0, 1]


def test_arguments():
    made = model(torch.eye(2), torch.eye(2))
    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="there are no conditions; give what belongs to the data"):
        made.loss(x)
    with pytest.raises(ValueError, match="t is given, and there is no schedule to noise by"):
        made.loss(x, 0.5, label=torch.arange(2))
    narrow = Contrastive(Known(torch.eye(2)), lambda label: torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"of_condition is \(2, 3\).*as of_data does"):
        narrow.loss(x, label=torch.arange(2))
    with pytest.raises(ValueError, match=r"of_data is \(2, 2\).*give a vector for each item"):
        made.loss(torch.zeros(3, 1), label=torch.arange(3))

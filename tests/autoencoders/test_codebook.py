"""Codes: the nearest by brute force, their gradients, and what nothing uses."""

import copy

import pytest
import torch

from anydiff.autoencoders import Autoencoding, Codebook, Convolutional, Quantized, Rowwise
from anydiff.denoisers import BiRNN
from anydiff.spaces import Masked
from tests.helpers.networks import awake
from tests.helpers.points import ROUNDING
from tests.helpers.spaces import draw

ROWS = Masked.from_lengths([4, 1, 3])


def quantized(codes=6, **options):
    torch.manual_seed(0)
    widths = Rowwise.widths(3, 2, noisy=False)
    inner = Rowwise(*(BiRNN(w, 8, 1) for w in widths), 3, 2, noisy=False)
    return awake(Quantized(inner, codes, **options).double())


def test_the_nearest_code_is_that_by_brute_force_and_the_first_of_several():
    book = Codebook(7, 3).double()
    h = draw((50, 3))
    distances = (h[:, None] - book.codes[None]).square().sum(2)
    assert torch.equal(book.nearest(h), distances.argmin(1))
    with torch.no_grad():
        book.codes[4] = book.codes[2]
    assert 4 not in book.nearest(h)
    assert torch.equal(book.codes[book.nearest(book.codes.detach())], book.codes)


def test_codes_of_rows_that_are_few_have_no_error_and_are_all_used():
    places = draw((5, 3))
    h = places[torch.arange(40) % 5]
    book = Codebook(5, 3).double()
    book.begin(h, torch.Generator().manual_seed(0))
    numbers = book.nearest(h)
    assert torch.equal(book.codes[numbers], h)
    book.note(numbers)
    assert book.usage == pytest.approx(5) and book.used.tolist() == [8] * 5
    book.begin(h[:1].expand(3, 3))  # fewer different rows than codes
    with pytest.raises(ValueError, match="there are no rows to place codes at"):
        book.begin(h[:0])


def test_a_dead_code_is_revived_and_the_others_stay():
    h, book = draw((30, 2)), Codebook(4, 2).double()
    with torch.no_grad():
        book.codes[3] = 1e6
    before = book.codes.clone()
    assert book.usage == 0
    book.note(book.nearest(h))
    assert book.used[3] == 0 and book.usage <= 3
    dead = int((book.used == 0).sum())
    assert book.revive(h, torch.Generator().manual_seed(0)) == dead
    assert (book.codes[3] == h).all(1).any() and not book.used.any()
    assert torch.equal(book.codes[book.codes[:, 0] == before[:, 0]][:1], before[:1])
    book.note(torch.tensor([0, -1, -1]))
    assert book.used.tolist() == [1, 0, 0, 0]


def test_gradients_pass_straight_through_and_pull_codes_to_their_rows():
    net = quantized(commitment=0.25)
    z = ROWS.project(draw((3, 4, 2))).requires_grad_()
    q, numbers = net.quantize(z, ROWS)
    (numbers_2d,) = (numbers.view(3, 4),)
    assert torch.equal(numbers_2d >= 0, ROWS.mask)
    assert not q[~ROWS.mask].any()
    codes = net.codebook.codes
    torch.testing.assert_close(q[ROWS.mask], codes[numbers[numbers >= 0]], **ROUNDING)
    weight = draw((3, 4, 2), 5)
    (gradient,) = torch.autograd.grad((q * weight).sum(), z)
    assert torch.equal(gradient, weight)  # and none of it reaches the codes

    loss = net.extra_loss(z, ROWS)
    to_z, to_codes = torch.autograd.grad(loss.sum(), [z, codes])
    away = torch.where(ROWS.mask[..., None], z - q.detach(), 0)
    torch.testing.assert_close(to_z, 2 * 0.25 * away, **ROUNDING)
    for k in range(6):
        mine = z.detach()[numbers_2d == k]
        torch.testing.assert_close(to_codes[k], 2 * (codes[k] - mine).sum(0).detach(), **ROUNDING)
    wanted = 1.25 * ROWS.sum(away.square())
    torch.testing.assert_close(loss, wanted, **ROUNDING)


def test_padding_is_never_assigned_and_the_batch_changes_nothing():
    net = quantized().eval()
    x = ROWS.project(draw((3, 4, 3)))
    z = net.encode(x, ROWS).mode
    y, alone = net.decode(z, ROWS), Masked.from_lengths([3])
    torch.testing.assert_close(net.decode(z[2:, :3], alone), y[2:, :3], **ROUNDING)
    net.train()
    net.extra_loss(z, ROWS)
    assert net.codebook.used.sum() == 8 and net.batches == 1


def test_training_places_codes_at_once_and_revives_them_on_time():
    net = quantized(every=3).train()
    calls = []
    for name in ("begin", "revive"):
        real = getattr(net.codebook, name)
        setattr(
            net.codebook, name,
            lambda h, real=real, name=name: calls.append((name, len(h))) or real(h),
        )  # fmt: skip
    z = net.encode(ROWS.project(draw((3, 4, 3))), ROWS).mode
    for _ in range(7):
        net.extra_loss(z, ROWS)
    assert calls == [("begin", 8), ("revive", 8), ("revive", 8)] and net.batches == 7
    other = copy.deepcopy(quantized(every=3))
    other.load_state_dict(net.state_dict())
    assert other.batches == 7  # a resumed run goes on
    net.eval()
    net.extra_loss(z, ROWS)
    assert net.batches == 7 and len(calls) == 3


def test_a_step_of_lloyd_is_where_the_gradient_of_the_codes_vanishes():
    """Each code in the mean of the rows it is nearest to."""
    net = quantized(4)
    z = ROWS.project(draw((3, 4, 2)))
    rows = z[ROWS.mask]
    with torch.no_grad():
        for _ in range(20):  # until nothing moves
            numbers = net.codebook.nearest(rows)
            for k in numbers.unique():
                net.codebook.codes[k] = rows[numbers == k].mean(0)
    assert torch.equal(net.codebook.nearest(rows), numbers)
    net.eval()
    net.extra_loss(z, ROWS).sum().backward()
    torch.testing.assert_close(
        net.codebook.codes.grad, torch.zeros(4, 2).double(), rtol=0, atol=1e-12
    )


@pytest.mark.slow
def test_pictures_are_learned_with_few_codes():
    torch.manual_seed(0)
    net = Quantized(Convolutional(1, 2, (8, 16), noisy=False, groups=4), 8, every=50)
    objective = Autoencoding(net)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    kinds = torch.randn(4, 1, 4, 4)

    def batch(num):
        return kinds[torch.randint(4, (num,))]

    for _ in range(250):
        optimizer.zero_grad()
        objective.loss(batch(32)).mean().backward()
        optimizer.step()
    net.eval()
    x = batch(100)
    error = (net.decode(net.encode(x).mode) - x).square().mean()
    assert error < 0.05 * x.var() and net.codebook.usage > 1.5


def test_latents_with_noise_or_centred_columns_have_no_codes():
    with pytest.raises(ValueError, match=r"a latent with noise or centred columns"):
        Quantized(Convolutional(3))
    net = Convolutional(3, noisy=False)
    for wrong in ({"codes": 0}, {"commitment": -1.0}, {"every": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Quantized(net, **wrong)

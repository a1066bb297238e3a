"""The bidirectional layer is PyTorch's on packed sequences, whatever the batch and its padding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from anydiff.denoisers.sequences.recurrent import BiRecurrent

TEXTBOOK = {"gru": nn.GRU, "lstm": nn.LSTM}
LENGTHS = torch.tensor([3, 9, 1, 9, 4, 6])
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}  # float64, sums of a few hundred numbers below ten


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.fixture(params=["gru", "lstm"])
def cell(request) -> str:
    return request.param


@pytest.fixture(params=["rows", "padded"])
def way(request, monkeypatch) -> str:
    """The layer's own steps, and the kernels on reversed sequences that other devices get."""
    if request.param == "padded":
        monkeypatch.setattr(BiRecurrent, "forward", BiRecurrent._padded)
    return request.param


def layers(cell: str, inputs: int = 5, hidden: int = 7) -> tuple[BiRecurrent, nn.RNNBase]:
    textbook = TEXTBOOK[cell](inputs, hidden, batch_first=True, bidirectional=True)
    for parameter in textbook.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = BiRecurrent(inputs, hidden, cell)
    ours.load_state_dict(textbook.state_dict())
    return ours, textbook


def packed(textbook: nn.RNNBase, x: Tensor, lengths: Tensor) -> Tensor:
    rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return pad_packed_sequence(textbook(rows)[0], batch_first=True, total_length=x.shape[1])[0]


def padding(lengths: Tensor, N: int) -> Tensor:
    return torch.arange(N) >= lengths[:, None]


# The same function


@pytest.mark.parametrize("lengths", [LENGTHS, torch.full((6,), 9), LENGTHS.clamp(max=1)], ids=str)
def test_outputs_and_gradients_are_those_of_packed_sequences(cell, way, lengths):
    ours, textbook = layers(cell)
    x = torch.randn(6, 9, 5, requires_grad=True)
    y, expected = ours(x, lengths), packed(textbook, x, lengths)
    torch.testing.assert_close(y, expected, **ROUNDING)

    # padding has a gradient from above too, which must go nowhere
    above = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, *ours.parameters()], above)
    exact = torch.autograd.grad(expected, [x, *textbook.parameters()], above)
    torch.testing.assert_close(gradients, exact, **ROUNDING)


def test_gradients_are_those_of_finite_differences(cell):
    ours, _ = layers(cell, 2, 3)
    weights = tuple(ours.parameters())
    names = [name for name, _ in ours.named_parameters()]
    x = torch.randn(3, 4, 2, requires_grad=True)

    def output(x: Tensor, *weights: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(ours, state, (x, torch.tensor([2, 4, 0])))

    assert torch.autograd.gradcheck(output, (x, *weights))


@pytest.mark.parametrize("shortest", [1, 40])
def test_float32_is_as_close_as_float32_is(cell, shortest):
    ours, textbook = layers(cell, 32, 48)
    x, lengths = torch.randn(16, 40, 32), torch.randint(shortest, 41, (16,))
    nn.init.uniform_(ours.weight_hh_l0, -0.15, 0.15)
    textbook.load_state_dict(ours.state_dict())
    exact = packed(textbook, x, lengths)
    y = ours.float()(x.float(), lengths)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-4)  # 40 steps, weights up to 2


def test_state_dicts_go_both_ways(cell):
    ours, textbook = layers(cell)
    assert list(ours.state_dict()) == list(textbook.state_dict())
    textbook.load_state_dict(ours.state_dict())

    torch.manual_seed(1)
    fresh = BiRecurrent(5, 7, cell).state_dict()
    torch.manual_seed(1)
    torch.testing.assert_close(fresh, dict(TEXTBOOK[cell](5, 7, bidirectional=True).state_dict()))


# Items keep to themselves


def test_an_item_is_the_same_alone_and_in_any_order(cell, way):
    ours, _ = layers(cell)
    x = torch.randn(6, 9, 5)
    y = ours(x, LENGTHS)
    for b, n in enumerate(LENGTHS):
        alone = ours(x[b : b + 1, :n], LENGTHS[b : b + 1])
        torch.testing.assert_close(y[b : b + 1, :n], alone, **ROUNDING)
    order = torch.randperm(6)
    torch.testing.assert_close(ours(x[order], LENGTHS[order]), y[order], **ROUNDING)


def test_reversal_in_time_swaps_the_directions(cell, way):
    ours, _ = layers(cell)
    swapped = BiRecurrent(5, 7, cell)
    state = ours.state_dict()
    swapped.load_state_dict(
        {
            k: state[k.removesuffix("_reverse") if k.endswith("_reverse") else f"{k}_reverse"]
            for k in state
        }
    )
    x = torch.randn(2, 6, 5)
    y = ours(x, torch.tensor([6, 6]))
    there = swapped(x.flip(1), torch.tensor([6, 6])).flip(1)
    torch.testing.assert_close(y, torch.cat([there[..., 7:], there[..., :7]], dim=2), **ROUNDING)


def test_padding_is_zero_and_never_read(cell, way):
    ours, _ = layers(cell)
    x, beyond = torch.randn(6, 9, 5), padding(LENGTHS, 9)
    clean = x.masked_fill(beyond[..., None], 0).requires_grad_()
    broken = x.masked_fill(beyond[..., None], torch.nan).requires_grad_()
    outputs = ours(clean, LENGTHS), ours(broken, LENGTHS)
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    assert not outputs[0][beyond].any() and outputs[0][~beyond].all()

    weights = list(ours.parameters())
    above = torch.randn_like(outputs[0]).masked_fill(beyond[..., None], torch.nan)
    clean_grads = torch.autograd.grad(outputs[0], [clean, *weights], above)
    broken_grads = torch.autograd.grad(outputs[1], [broken, *weights], above)
    torch.testing.assert_close(clean_grads, broken_grads, rtol=0, atol=0)
    assert not clean_grads[0][beyond].any()


@pytest.mark.parametrize("shape", [(3, 9), (3, 0), (0, 9)], ids=str)
def test_items_without_points_are_zero_and_harmless(cell, shape):
    ours, _ = layers(cell)
    x = torch.randn(*shape, 5, requires_grad=True)
    y = ours(x, torch.zeros(shape[0], dtype=torch.long))
    y.sum().backward()
    assert y.shape == (*shape, 14) and not y.any() and not x.grad.any()

    # among others
    x = torch.randn(3, 9, 5)
    y = ours(x, torch.tensor([4, 0, 9]))
    assert not y[1].any()
    torch.testing.assert_close(y[[0, 2]], ours(x[[0, 2]], torch.tensor([4, 9])), **ROUNDING)


# Use


def test_stacked_layers_learn_which_end_is_nearer():
    """Along a sequence of zeros only the states know how far the ends are."""
    torch.set_default_dtype(torch.float32)
    first, second, head = BiRecurrent(1, 16), BiRecurrent(32, 16), nn.Linear(32, 1)
    parameters = [p for m in (first, second, head) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    x, n = torch.zeros(16, 12, 1), torch.arange(12)
    losses = []
    for _ in range(60):
        lengths = torch.randint(2, 13, (16,))
        valid = n < lengths[:, None]
        target = torch.where(2 * n < lengths[:, None], 1.0, -1.0)
        y = head(second(first(x, lengths), lengths))[..., 0]
        loss = ((y - target)[valid] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9 and losses[-1] < 0.3


@pytest.mark.parametrize("lengths", [LENGTHS, torch.full((6,), 9)], ids=str)
def test_autocast_keeps_full_precision_inside(cell, lengths):
    torch.set_default_dtype(torch.float32)
    ours = BiRecurrent(5, 7, cell)
    x = torch.randn(6, 9, 5)
    full = ours(x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x, lengths), full)
        torch.testing.assert_close(ours(x.bfloat16(), lengths), full, rtol=0, atol=0.05)
        ours(x.bfloat16(), lengths).sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("lengths", [LENGTHS, torch.full((6,), 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_weights_of_any_precision_go_under_autocast(cell, lengths, dtype):
    ours = BiRecurrent(5, 7, cell).to(dtype)
    x = torch.randn(6, 9, 5, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(x, lengths)
    y.sum().backward()
    exact = copy.deepcopy(ours).double()(x.double(), lengths)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=0.03)
    assert all(p.grad.isfinite().all() for p in ours.parameters())


def test_sampling_before_training_does_not_matter(cell):
    """What a batch's layout keeps for the next call serves both."""
    ours, _ = layers(cell)
    x = torch.randn(6, 9, 5, requires_grad=True)
    lengths = torch.tensor([2, 8, 5, 9, 7, 6])
    with torch.inference_mode():
        y = ours(x, lengths)
    again = ours(x, lengths)
    again.sum().backward()
    torch.testing.assert_close(y, again, **ROUNDING)
    assert x.grad[0, :2].all() and not x.grad[0, 2:].any()

    lengths[0] = 3  # the layout goes by the values
    assert ours(x, lengths)[0, 2].all()


def test_a_second_derivative_is_refused():
    ours, _ = layers("gru")
    x = torch.randn(6, 9, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x, LENGTHS).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_wrong_inputs_are_named():
    ours, _ = layers("gru")
    with pytest.raises(ValueError, match=r"not \(\*, \*, 5\)"):
        ours(torch.zeros(6, 9, 4), LENGTHS)
    with pytest.raises(ValueError, match=r"lengths is \(5,\).*not \(6\)"):
        ours(torch.zeros(6, 9, 5), LENGTHS[:5])
    with pytest.raises(ValueError, match=r"longest_length is 9; give a number in \[0, 8\]"):
        ours(torch.zeros(6, 8, 5), LENGTHS)
    with pytest.raises(ValueError, match="'rnn'"):
        BiRecurrent(5, 7, "rnn")

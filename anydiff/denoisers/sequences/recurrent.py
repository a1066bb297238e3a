r"""One bidirectional recurrent layer for sequences of different lengths, exact and quick to train.

The states of an item are the same alone and in a batch: the backward direction starts at the item's
own last point, and padding is never read. The weights have the names and shapes of nn.GRU's or nn.LSTM's.

On a CPU the rows of a batch are sorted by time, longest item first, so that step k is one block of
the items that have a k-th point (the k-th from the end for the backward direction). Both directions
step together, and what does not depend on the state is computed outside the loop: the projections of
the inputs before it; in the gradient, the factors of the chain rule before it and the gradients of
the weights after it. A step is one matrix product for each direction and a few passes over data in
the cache. On other devices PyTorch's own kernels run on padded sequences, reversed within their
lengths, without waiting for the device; on a CPU they run where an LSTM's items are equally long, which
they are quicker for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from anydiff.checks import check_choice, check_range, check_shape

__all__ = ["BiRecurrent"]

NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")

Tensors = Sequence[Tensor]

aten = torch.ops.aten


@dataclass(frozen=True)
class Steps:
    """The valid points of a batch sorted by time, S rows, and their positions in (B, N)."""

    counts: list[int]  # rows of each step, not increasing
    ahead: Tensor  # (S,) the point in B · N of a row in the forward direction
    behind: Tensor  # (S,) the same in the backward direction
    turned: Tensor  # (S,) the row whose `behind` is the point `ahead`
    previous: Tensor  # (S,) the state before a row's; the first B are the initial ones
    outputs: Tensor  # (2 B N,) the half state of each half output; an initial one, 0, for padding

    @classmethod
    @lru_cache(maxsize=2)  # by value: the layers of a stack and the steps of a sampler share it
    def of(cls, sizes: tuple[int, ...], N: int) -> Steps:
        B = len(sizes)
        lengths, order = torch.tensor(sizes, dtype=torch.long).sort(descending=True, stable=True)
        step, column = (torch.arange(N)[:, None] < lengths).nonzero().unbind(1)
        S = len(step)

        counts = torch.bincount(step, minlength=N)
        starts = counts.cumsum(0) - counts
        reverse = lengths[column] - 1 - step
        ahead, behind = order[column] * N + step, order[column] * N + reverse
        turned = starts[reverse] + column
        previous = torch.where(step > 0, B + starts[step - 1] + column, column)

        outputs = torch.zeros(2 * B * N, dtype=torch.long)
        rows = torch.arange(B, B + S)
        outputs[2 * ahead] = 2 * rows
        outputs[2 * behind + 1] = 2 * rows + 1
        return cls([k for k in counts.tolist() if k], ahead, behind, turned, previous, outputs)

    def each(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The blocks of every step of tensors of S rows."""
        return zip(*(torch.split(x, self.counts) for x in tensors), strict=True)

    def backwards(self, *tensors: Tensor) -> Iterator[tuple[Tensors, Tensors]]:
        """The blocks of each step and of the step before it, if any, from the last to the first."""
        blocks = [(), *self.each(*tensors)]
        yield from zip(blocks[:0:-1], blocks[-2::-1], strict=True)


def add_product(out: Tensor, x: Tensor, weights: Tensors) -> None:
    """out[:, d] += x[:, d] @ weights[d] for both directions d."""
    for out_d, x_d, weight in zip(out.unbind(1), x.unbind(1), weights, strict=True):
        out_d.addmm_(x_d, weight)


def project(out: Tensor, inputs: Tensors, weights: Tensors, biases: Tensors) -> None:
    for d in range(2):
        torch.addmm(biases[d], inputs[d], weights[d].t(), out=out[:, d])


class GRU:
    """r, z = σ(i + W h),  n = tanh(i_n + r (W_n h + b)),  h' = n + z (h − n)."""

    @staticmethod
    def forward(inputs: Tensors, steps: Steps, h: Tensor, weights: Tensors) -> Tensors:
        """Fill the states h, (B + S, 2, H); returns what `backward` needs."""
        w_in, w, b_in, b = (list(weights[k::4]) for k in range(4))
        S, H = len(inputs[0]), h.shape[2]
        gates, n = h.new_empty(S, 2, 3 * H), h.new_empty(S, 2, H)  # gates: r, z, W_n h + b
        both = [(b_in[d] + b[d])[: 2 * H] for d in range(2)]
        project(gates[:, :, : 2 * H], inputs, [m[: 2 * H] for m in w_in], both)
        project(n, inputs, [m[2 * H :] for m in w_in], [m[2 * H :] for m in b_in])
        gates[:, :, 2 * H :] = torch.stack([m[2 * H :] for m in b])

        B = len(h) - S
        recurrent = [m.t() for m in w]
        r, m = gates[:, :, :H], gates[:, :, 2 * H :]
        rz, z = gates[:, :, : 2 * H], gates[:, :, H : 2 * H]
        h_k = h[:B]
        for gates_k, rz_k, r_k, z_k, m_k, n_k, out in steps.each(gates, rz, r, z, m, n, h[B:]):
            h_k = h_k[: len(out)]
            add_product(gates_k, h_k, recurrent)
            rz_k.sigmoid_()
            n_k.addcmul_(r_k, m_k).tanh_()
            h_k = torch.lerp(n_k, h_k, z_k, out=out)
        return gates, n

    @staticmethod
    def backward(
        grad: Tensor, steps: Steps, h: Tensor, saved: Tensors, w: Tensors
    ) -> tuple[Tensor, list[Tensor]]:
        """The gradients of W h + b, and of the inputs' projection in parts; overwrites `grad`."""
        gates, n = saved
        S, _, H = grad.shape
        h = h[len(h) - S :]
        r, z, m = torch.split(gates, H, dim=2)
        delta, delta_n = torch.empty_like(gates), torch.empty_like(n)
        delta_r, delta_z, delta_m = torch.split(delta, H, dim=2)

        # dh'/d(gate), to be multiplied by the gradient of h' once it is known
        rest = 1 - z
        aten.tanh_backward.grad_input(rest, n, grad_input=delta_n)
        torch.sub(h, n, out=delta_z).mul_(rest)  # h' − n = z (h − n)
        torch.mul(delta_n, r, out=delta_m)
        torch.mul(delta_n, m, out=rest)
        aten.sigmoid_backward.grad_input(rest, r, grad_input=delta_r)

        for block, before in steps.backwards(grad, z, delta, delta.view(S, 2, 3, H)):
            grad_k, z_k, delta_k, r_z_m = block
            r_z_m.mul_(grad_k[:, :, None])
            if before:
                grad_j = before[0][: len(grad_k)]
                grad_j.addcmul_(grad_k, z_k)
                add_product(grad_j, delta_k, w)
        delta_n.mul_(grad)
        return delta, [delta[:, :, : 2 * H], delta_n]


class LSTM:
    """i, f, o = σ(i + W h),  g = tanh(i + W h),  c' = f c + i g,  h' = o tanh(c')."""

    @staticmethod
    def forward(inputs: Tensors, steps: Steps, h: Tensor, weights: Tensors) -> Tensors:
        w_in, w, b_in, b = (list(weights[k::4]) for k in range(4))
        S, H = len(inputs[0]), h.shape[2]
        B = len(h) - S
        gates, c, tanh_c = h.new_empty(S, 2, 4 * H), torch.empty_like(h), h.new_empty(S, 2, H)
        project(gates, inputs, w_in, [b_in[d] + b[d] for d in range(2)])
        c[:B] = 0

        recurrent = [m.t() for m in w]
        i, f, g, o = torch.split(gates, H, dim=2)
        h_k, c_k = h[:B], c[:B]
        for gates_k, i_f_k, i_k, f_k, g_k, o_k, c_out, tanh_k, out in steps.each(
            gates, gates[:, :, : 2 * H], i, f, g, o, c[B:], tanh_c, h[B:]
        ):
            add_product(gates_k, h_k[: len(out)], recurrent)
            i_f_k.sigmoid_()
            g_k.tanh_()
            o_k.sigmoid_()
            c_k = torch.mul(f_k, c_k[: len(out)], out=c_out).addcmul_(i_k, g_k)
            torch.tanh(c_k, out=tanh_k)
            h_k = torch.mul(o_k, tanh_k, out=out)
        return gates, c, tanh_c

    @staticmethod
    def backward(
        grad: Tensor, steps: Steps, h: Tensor, saved: Tensors, w: Tensors
    ) -> tuple[Tensor, list[Tensor]]:
        gates, c, tanh_c = saved
        H = grad.shape[2]
        i, f, g, o = torch.split(gates, H, dim=2)
        delta, grad_c, slope = torch.empty_like(gates), torch.zeros_like(grad), torch.empty_like(o)
        delta_i, delta_f, delta_g, delta_o = torch.split(delta, H, dim=2)

        # dc'/d(gate), dh'/do and dh'/dc', to be multiplied by the gradients of c' and h'
        c_before = c.index_select(0, steps.previous)
        aten.sigmoid_backward.grad_input(g, i, grad_input=delta_i)
        aten.sigmoid_backward.grad_input(c_before, f, grad_input=delta_f)
        aten.tanh_backward.grad_input(i, g, grad_input=delta_g)
        aten.sigmoid_backward.grad_input(tanh_c, o, grad_input=delta_o)
        aten.tanh_backward.grad_input(o, tanh_c, grad_input=slope)

        i_f_g = delta.view(-1, 2, 4, H)[:, :, :3]
        for block, before in steps.backwards(grad, grad_c, f, slope, delta, i_f_g, delta_o):
            grad_k, grad_c_k, f_k, slope_k, delta_k, i_f_g_k, o_k = block
            grad_c_k.addcmul_(grad_k, slope_k)
            i_f_g_k.mul_(grad_c_k[:, :, None])
            o_k.mul_(grad_k)
            if before:
                grad_j, grad_c_j = (x[: len(grad_k)] for x in before[:2])
                torch.mul(grad_c_k, f_k, out=grad_c_j)
                add_product(grad_j, delta_k, w)
        return delta, [delta]


CELLS: dict[str, Any] = {"gru": GRU, "lstm": LSTM}


class Recurrence(Function):
    """Both directions of a layer on the valid points of (B, N, inputs) -> (B, N, 2 hidden)."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, steps: Steps, cell: str, *weights: Tensor) -> Tensor:
        B, N, _ = x.shape
        S, H = len(steps.ahead), weights[1].shape[1]
        points = x.flatten(0, 1)
        inputs = [points.index_select(0, index) for index in (steps.ahead, steps.behind)]

        h = x.new_empty(B + S, 2, H)
        h[:B] = 0
        saved = CELLS[cell].forward(inputs, steps, h, weights)

        ctx.steps, ctx.cell, ctx.shape = steps, cell, x.shape
        ctx.save_for_backward(h, *inputs, *weights, *saved)
        return h.view(-1, H).index_select(0, steps.outputs).view(B, N, 2 * H)

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, *rest = ctx.saved_tensors
        inputs, weights, saved = rest[:2], rest[2:10], rest[10:]
        steps, shape, H = ctx.steps, ctx.shape, h.shape[2]

        halves = torch.stack([2 * steps.ahead, 2 * steps.behind + 1], dim=1).flatten()
        grad = grad_y.reshape(-1, H).index_select(0, halves).view(-1, 2, H)
        delta, parts = CELLS[ctx.cell].backward(grad, steps, h, saved, weights[1::4])

        before = h.index_select(0, steps.previous)
        grad_b, grad_b_in = delta.sum(0), torch.cat([part.sum(0) for part in parts], dim=1)
        grad_weights: list[Tensor] = []
        for d in range(2):
            grad_in = torch.cat([part[:, d].t() @ inputs[d] for part in parts])
            grad_weights += [grad_in, delta[:, d].t() @ before[:, d], grad_b_in[d], grad_b[d]]
        if not ctx.needs_input_grad[0]:
            return None, None, None, *grad_weights

        grads = []
        for d, w_in in enumerate(weights[::4]):
            blocks = w_in.split([part.shape[2] for part in parts])
            grad_d = parts[0][:, d] @ blocks[0]
            for part, block in zip(parts[1:], blocks[1:], strict=True):
                grad_d.addmm_(part[:, d], block)
            grads.append(grad_d)
        grad_x = h.new_zeros(shape[0] * shape[1], shape[2])
        grad_x[steps.ahead] = grads[0].add_(grads[1].index_select(0, steps.turned))
        return grad_x.view(shape), None, None, *grad_weights


class BiRecurrent(nn.Module):
    """A bidirectional layer, the same function as nn.GRU or nn.LSTM on packed sequences.

    State dicts are interchangeable with ``nn.GRU(inputs, hidden, bidirectional=True)``. The initial
    states are zero. It can be differentiated once, and not by torch.func.

    Arguments:
        inputs: Columns of the input.
        hidden: Width of the state of each direction.
        cell: "gru" or "lstm".

    Raises:
        ValueError: If the cell is another.

    References:
        Learning Phrase Representations using RNN Encoder–Decoder (Cho et al., 2014): GRU.
        https://arxiv.org/abs/1406.1078

        Long Short-Term Memory (Hochreiter & Schmidhuber, 1997).
    """

    def __init__(self, inputs: int, hidden: int, cell: Literal["gru", "lstm"] = "gru") -> None:
        super().__init__()
        check_choice(CELLS, cell=cell)
        self.inputs, self.hidden, self.cell = inputs, hidden, cell
        layer = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](inputs, hidden, bidirectional=True)
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.hidden}, cell={self.cell!r}"

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The states of both directions side by side, (B, N, 2 hidden); zero at the padding.

        Arguments:
            x: (B, N, inputs). Its values at the padding are ignored, NaN included.
            lengths: (B,), the number of valid points of each item, 0 to N. It is read on the host only
                if x is on the CPU.

        Raises:
            ValueError: If the lengths do not fit x, or x does not fit the layer.
        """
        check_shape((None, None, self.inputs), "the layer was built for these inputs", x=x)
        check_shape(x.shape[:1], "give one for each item of x", lengths=lengths)
        if lengths.is_floating_point():
            raise ValueError(f"lengths are of {lengths.dtype}; give integers.")
        if x.device.type != "cpu":
            return self._padded(x, lengths.to(x.device))
        sizes, N = tuple(lengths.tolist()), x.shape[1]
        if sizes:
            check_range(f"[0, {N}]", shortest_length=min(sizes), longest_length=max(sizes))
        weights = [*self._weights(""), *self._weights("_reverse")]
        if self.cell == "lstm" and N and set(sizes) == {N}:
            if torch.is_autocast_enabled("cpu"):  # in full precision inside, as the recurrence is
                x, *weights = (v if v.dtype == torch.float64 else v.float() for v in (x, *weights))
            with torch.autocast("cpu", enabled=False):
                return self._kernel(x, weights)
        y: Tensor = Recurrence.apply(x, Steps.of(sizes, N), self.cell, *weights)  # type: ignore[no-untyped-call]
        return y

    def _weights(self, suffix: str) -> list[Tensor]:
        return [getattr(self, name + suffix) for name in NAMES]

    def _padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        """PyTorch's kernels, on the sequences and on those reversed within their lengths."""
        N = x.shape[1]
        position = torch.arange(N, device=x.device)
        valid = position < lengths[:, None]
        reverse = torch.where(valid, lengths[:, None] - 1 - position, position)[..., None]

        x = x.masked_fill(~valid[..., None], 0)
        ahead = self._kernel(x, self._weights(""))
        behind = self._kernel(x.take_along_dim(reverse, 1), self._weights("_reverse"))
        y = torch.cat([ahead, behind.take_along_dim(reverse, 1)], dim=2)
        return y.masked_fill(~valid[..., None], 0)

    def _kernel(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        """PyTorch's layer, of one direction or of both, as there are weights."""
        directions = len(weights) // len(NAMES)
        h = x.new_zeros(directions, len(x), self.hidden)
        # with biases, one layer, no dropout, batch first
        arguments = (weights, True, 1, 0.0, self.training, directions == 2, True)
        if self.cell == "gru":
            return torch._VF.gru(x, h, *arguments)[0]
        return torch._VF.lstm(x, (h, h), *arguments)[0]

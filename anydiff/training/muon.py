r"""The Muon optimizer: orthogonalised steps for weight matrices, for training in few steps.

The momentum M of a weight matrix is replaced by the nearest orthogonal matrix, :math:`U V^\top` of its
singular value decomposition, which four steps of a polynomial approximate. The kernel of a
convolution is a matrix with one row per output channel. Vectors and thin matrices, which gain little
from this, are optimised by Adam.

PyTorch has ``torch.optim.Muon``. It iterates in bfloat16, which many processors do not support, and takes
matrices only, one at a time, so that the other parameters need a second optimizer. This one takes all
parameters, works in the precision of the weights (in float32 if that is half precision: in bfloat16
momentum would stand still), and iterates on the products M Mᵀ, of all matrices with one shorter side
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Muon", "orthogonalize"]

# a, b, c of odd quintics a σ + b σ³ + c σ⁵: the first brings [0.003, 1] as close to 1 as a quintic can,
# and each of the others what the one before it leaves, [0.025, 1.975], [0.101, 1.899], [0.351, 1.649]
QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0438, -3.0117, 0.5695),
    (3.5103, -2.6301, 0.5261),
    (2.4959, -1.8392, 0.4374),
)


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    r"""Approximately the orthogonal factors :math:`U V^\top` of matrices.

    Singular values from 0.003 to 1 of the eighth root of the sum of their eighth powers, which is the
    largest or little more, come to lie between 0.8 and 1.2; smaller ones grow 300 times. A matrix whose
    norm is far below 1e-7 counts as 0.

    Arguments:
        matrices: Each (R, C), of any sizes.

    Returns:
        The factors, shaped like them.

    References:
        The Polar Express (Amsel et al., 2025): the best quintic for each step.
        https://arxiv.org/abs/2505.16932
    """
    wide: list[Tensor] = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    # in half precision, small eigenvalues of the Gram matrix may become negative, and then grow
    wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in wide]
    norms = torch._foreach_norm(wide)
    torch._foreach_add_(norms, 1e-7)
    # too small to grow in so few iterations, such as the momentum of a unit that is never active;
    # products of these would be denormal, which a processor takes a hundred times as long for
    wide = [F.hardshrink(x, 1e-9) for x in torch._foreach_div(wide, norms)]

    alike: dict[Any, list[int]] = {}
    for k, x in enumerate(wide):
        alike.setdefault((len(x), x.dtype, x.device), []).append(k)
    for which in alike.values():
        roots = _inverse_roots(torch.stack([wide[k] @ wide[k].mT for k in which]))
        for k, root in zip(which, roots.unbind(), strict=True):
            wide[k] = root @ wide[k]
    return [
        (x.mT if x.shape != m.shape else x).to(m.dtype) for x, m in zip(wide, matrices, strict=True)
    ]


def _inverse_roots(gram: Tensor) -> Tensor:
    """Matrices q (n, R, R) with q x nearly orthogonal, for the Gram matrices x xᵀ of matrices x."""
    square = gram @ gram
    # the largest eigenvalue or little more, as the fourth root of the sum of fourth powers; the sum is
    # 1, or less of what is to count as nothing, which must not grow by this
    lacking = 1 - gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    bound = (square.norm(dim=(-2, -1), keepdim=True) + lacking.square()).sqrt()
    gram, square = gram / bound, square / bound.square()
    # x <- p(x xᵀ) x in each step; the p commute with x xᵀ, so the small matrix q collects their product
    q: Tensor = bound.rsqrt()
    for k, (a, b, c) in enumerate(QUINTICS):
        p = (c * square).add_(gram, alpha=b)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        q = p @ q if k else p * q
        if k < len(QUINTICS) - 1:
            gram = p @ gram @ p
            square = gram @ gram
    return q


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolution kernels, Adam for the other parameters.

    Arguments:
        parameters: All parameters of a model.
        lr: The learning rate of the matrices; the root mean square of a step is about 0.2 lr.
        adam_lr: The learning rate of the other parameters; lr / 4 if None.
        momentum: The momentum of the matrices.
        betas, eps: The parameters of Adam.
        smallest: A parameter is optimised as a matrix if both of its axes are at least this long; axes
            after the second are flattened into it. With inf, all are optimised by Adam.

    References:
        Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024).
        https://kellerjordan.github.io/posts/muon/

        Muon is Scalable for LLM Training (Liu et al., 2025), on the size of the step.
        https://arxiv.org/abs/2502.16982
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.008,
        adam_lr: float | None = None,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        smallest: float = 32,
    ) -> None:
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim >= 2 and min(len(p), p[:1].numel()) >= smallest]
        chosen = {id(p) for p in matrices}
        others = [p for p in parameters if id(p) not in chosen]
        groups = [
            {"params": matrices, "lr": lr, "matrices": True},
            {"params": others, "lr": lr / 4 if adam_lr is None else adam_lr, "matrices": False},
        ]
        defaults = {"momentum": momentum, "betas": betas, "eps": eps}
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._orthogonal if group["matrices"] else self._adam)(group, parameters)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        # torch has rounded the state to the precision of the weights
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, p in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.to(p.device, copy=True)

    def _orthogonal(self, group: dict[str, Any], parameters: list[Parameter]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = _zeros(p)
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in parameters]
        grads = _gradients(parameters, momenta)
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov's
        steps = orthogonalize([_whole(x).flatten(1) for x in ahead])
        # an orthogonal matrix has entries of 1 / sqrt(longer side)
        torch._foreach_mul_(steps, [-group["lr"] * 0.2 * max(x.shape) ** 0.5 for x in steps])
        changes = [_part(x.reshape(p.shape), p) for x, p in zip(steps, parameters, strict=True)]
        torch._foreach_add_(list[Tensor](parameters), changes)

    def _adam(self, group: dict[str, Any], parameters: list[Parameter]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(step=0, mean=_zeros(p), square=_zeros(p))
            self.state[p]["step"] += 1
        states = [self.state[p] for p in parameters]
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        grads = _gradients(parameters, means)
        beta1, beta2 = group["betas"]
        corrections = [(1 - beta1 ** s["step"], (1 - beta2 ** s["step"]) ** 0.5) for s in states]

        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(squares)
        torch._foreach_div_(scale, [second for _, second in corrections])
        torch._foreach_add_(scale, group["eps"])
        sizes = [-group["lr"] / first for first, _ in corrections]
        torch._foreach_addcdiv_(list[Tensor](parameters), means, scale, sizes)


def _gradients(parameters: list[Parameter], like: list[Tensor]) -> list[Tensor]:
    """The gradients, in the precision of what is kept of each."""
    return [p.grad.to(m.dtype) for p, m in zip(parameters, like, strict=True)]  # type: ignore[union-attr]


def _whole(x: Tensor) -> Tensor:
    """A matrix of which each process may have a part (FSDP)."""
    gather = getattr(x, "full_tensor", None)
    return x if gather is None else gather()


def _part(x: Tensor, like: Any) -> Tensor:
    """The part of a matrix that this process has of that parameter."""
    if not hasattr(like, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor

    # all have computed it alike
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def _zeros(p: Parameter) -> Tensor:
    return torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))

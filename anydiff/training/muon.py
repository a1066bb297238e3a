r"""The Muon optimizer: orthogonalised steps for weight matrices, for training in few steps.

The momentum M of a weight matrix is replaced by the nearest orthogonal matrix, :math:`U V^\top` of its
singular value decomposition, which a few Newton–Schulz iterations approximate. The kernel of a
convolution is a matrix with one row per output channel. Vectors and thin matrices, which gain little
from this, are optimised by Adam.

PyTorch has ``torch.optim.Muon``. It iterates in bfloat16, which many processors do not support, and takes
matrices only, one at a time, so that the other parameters need a second optimizer. This one takes all
parameters, works in the precision of the weights (in float32 if that is half precision: in bfloat16
momentum would stand still), and processes all matrices of one shape together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Muon", "orthogonalize"]


def orthogonalize(m: Tensor, iterations: int = 5) -> Tensor:
    r"""Approximately the orthogonal factor :math:`U V^\top` of matrices (..., R, C).

    The singular values of the result lie between about 0.7 and 1.2. The coefficients of the quintic are
    those of Jordan et al., chosen so that small singular values grow fast.

    Arguments:
        m: The matrices, (..., R, C).
        iterations: The number of Newton–Schulz iterations.

    Returns:
        The factors, shaped like m.
    """
    tall = m.shape[-2] > m.shape[-1]
    # in half precision, small eigenvalues of the Gram matrix may become negative, and then grow
    x: Tensor = (m.mT if tall else m).to(torch.promote_types(m.dtype, torch.float32))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # too small to grow in so few iterations, such as the momentum of a unit that is never active;
    # products of these would be denormal, which a processor takes a hundred times as long for
    x = x.masked_fill(x.abs() < 1e-9, 0)
    # x <- p(x xᵀ) x in each step; the p commute with x xᵀ, so the small matrix q collects their product
    gram = x @ x.mT
    q: Tensor | None = None
    for k in range(iterations):
        p = 2.0315 * gram @ gram - 4.7750 * gram
        p.diagonal(dim1=-2, dim2=-1).add_(3.4445)
        q = p if q is None else p @ q
        if k < iterations - 1:
            gram = p @ gram @ p
    x = (x if q is None else q @ x).to(m.dtype)
    return x.mT if tall else x


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
        matrices = [p for p in parameters if p.ndim >= 2 and min(len(p), p[0].numel()) >= smallest]
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
        by_shape: dict[tuple[int, ...], list[tuple[Parameter, Tensor]]] = {}
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum"] = _zeros(p)
            momentum: Tensor = state["momentum"]
            grad = p.grad.to(momentum.dtype)  # type: ignore[union-attr]
            momentum.lerp_(grad, 1 - group["momentum"])
            ahead = grad.lerp(momentum, group["momentum"])  # Nesterov's
            by_shape.setdefault((len(p), p[0].numel()), []).append((p, ahead.flatten(1)))

        for shape, pairs in by_shape.items():
            steps = orthogonalize(torch.stack([ahead for _, ahead in pairs]))
            # an orthogonal matrix has entries of 1 / sqrt(longer side)
            size = -group["lr"] * 0.2 * max(shape) ** 0.5
            parts = [
                step.view(p.shape) for (p, _), step in zip(pairs, steps.unbind(0), strict=True)
            ]
            torch._foreach_add_([p for p, _ in pairs], parts, alpha=size)

    def _adam(self, group: dict[str, Any], parameters: list[Parameter]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(step=0, mean=_zeros(p), square=_zeros(p))
            self.state[p]["step"] += 1
        states = [self.state[p] for p in parameters]
        means, squares = [s["mean"] for s in states], [s["square"] for s in states]
        grads = [p.grad.to(m.dtype) for p, m in zip(parameters, means, strict=True)]  # type: ignore[union-attr]
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


def _zeros(p: Parameter) -> Tensor:
    return torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))

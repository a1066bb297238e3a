r"""What a network predicts, and how x0 and eps follow from its output.

With :math:`x_t = \alpha x_0 + \sigma \epsilon`, every prediction target is a pair of coefficients,

.. math:: y = a\, x_0 + b\, \epsilon,

so that x0 and eps follow from any output y by solving one 2 x 2 system:

.. math::
    \Delta = \alpha b - \sigma a, \qquad
    \hat x_0 = (b\, x_t - \sigma\, y) / \Delta, \qquad
    \hat \epsilon = (\alpha\, y - a\, x_t) / \Delta.

A :class:`Predictor` is a network bound to the space and the conditions of a batch, which returns a
:class:`Prediction`; or several of these, combined by guidance. Samplers, guidance, editing and
likelihoods use a model only through this interface.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from anydiff.checks import (
    check_choice,
    check_floating,
    check_kind,
    check_range,
    check_shape,
    frozen,
)
from anydiff.precision import at_least_float32, weights_dtype
from anydiff.schedules import Level, Schedule
from anydiff.schedules.schedule import check_times, once
from anydiff.spaces import DENSE, Dense, Space

__all__ = [
    "TARGETS", "Network", "OwnRun", "Preconditioned", "Prediction", "Predictor", "Target", "as_target",
    "check_predictor", "check_undistilled", "given_times", "item_times", "modules_in", "takes_space",
    "wrapped",
]  # fmt: skip


@frozen()
class Target:
    """What a network is trained to predict, y = a x0 + b eps: two coefficients at each level.

    Arguments:
        name: Its name, for the argument `prediction` and in checkpoints.
        pair: level -> (a, b).
    """

    name: str
    pair: Callable[[Level], tuple[Any, Any]]

    def coefficients(self, at: Level) -> tuple[Any, Any]:
        """(a, b) at a level: floats or (B,), like the level."""
        return self.pair(at)

    def input_scale(self, at: Level) -> Any:
        """The factor by which x_t is multiplied before it is passed to the network."""
        return 1.0


@frozen(sigma_data="(0, inf)")
class Preconditioned(Target):
    r"""The network F of Karras et al., with inputs and targets of unit variance at every noise level.

    .. math::
        \hat x_0 = c_{skip}\, x_t + c_{out}\, F(c_{in}\, x_t), \qquad
        c_{skip} = \frac{\alpha \sigma_d^2}{\alpha^2 \sigma_d^2 + \sigma^2}, \quad
        c_{out} = \frac{\sigma \sigma_d}{\sqrt{\alpha^2 \sigma_d^2 + \sigma^2}}, \quad
        c_{in} = \frac{1}{\sqrt{\alpha^2 \sigma_d^2 + \sigma^2}}

    for any alpha; with alpha = 1 these are the published formulas. For data of unit variance and a
    variance-preserving schedule F is −v.

    Arguments:
        sigma_data: The standard deviation of the data.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        table 1. https://arxiv.org/abs/2206.00364
    """

    name: str = field(default="karras", init=False)
    pair: Callable[[Level], tuple[Any, Any]] = field(default=None, init=False)  # type: ignore[assignment]
    sigma_data: float = 0.5

    def coefficients(self, at: Level) -> tuple[Any, Any]:
        # (1 - c_skip alpha) / c_out and -c_skip sigma / c_out, simplified: as written here, the first
        # suffers from cancellation near the data and the second divides by sigma
        c_in = self.input_scale(at)
        return at.sigma * c_in / self.sigma_data, -at.alpha * self.sigma_data * c_in

    def input_scale(self, at: Level) -> Any:
        return (at.alpha**2 * self.sigma_data**2 + at.sigma**2) ** -0.5


# functions with names, and not lambdas, so that a model can be pickled
def _eps(at: Level) -> tuple[Any, Any]:
    return 0.0, 1.0


def _x0(at: Level) -> tuple[Any, Any]:
    return 1.0, 0.0


def _v(at: Level) -> tuple[Any, Any]:
    """Progressive Distillation (Salimans & Ho, 2022), appendix D. https://arxiv.org/abs/2202.00512"""
    return -at.sigma, at.alpha


def _score(at: Level) -> tuple[Any, Any]:
    """Generative Modeling by Estimating Gradients (Song & Ermon, 2019). https://arxiv.org/abs/1907.05600"""
    return 0.0, -1 / at.sigma


def _velocity(at: Level) -> tuple[Any, Any]:
    """Flow Matching (Lipman et al., 2023), of any path. https://arxiv.org/abs/2210.02747"""
    alpha_rate, sigma_rate = at.rates
    return alpha_rate, sigma_rate


_PAIRS = {"eps": _eps, "x0": _x0, "v": _v, "score": _score, "velocity": _velocity}

TARGETS: dict[str, Target] = {name: Target(name, pair) for name, pair in _PAIRS.items()}
TARGETS["karras"] = Preconditioned()


def as_target(prediction: str | Target, schedule: Schedule | None = None) -> Target:
    """A target by its name, checked against a schedule if one is given.

    Arguments:
        prediction: A name, one of `TARGETS`, or a target.
        schedule: The schedule at whose noisy end, t = 1, the target has to determine x0; None skips this.

    Raises:
        ValueError: If the name is unknown, or the target does not determine x0 where the schedule ends.
    """
    check_kind(str | Target, f"one of {', '.join(map(repr, TARGETS))}", prediction=prediction)
    if isinstance(prediction, str):
        check_choice(TARGETS, prediction=prediction)
        prediction = TARGETS[prediction]
    if schedule is None:
        return prediction

    at = schedule.levels(torch.ones(1))[0]
    a, b = (float(c) for c in prediction.coefficients(at))
    size = (a * a + b * b) ** 0.5 * (at.alpha**2 + at.sigma**2) ** 0.5
    if not abs(at.alpha * b - at.sigma * a) > 1e-6 * size:
        others = ", ".join(repr(n) for n in ("v", "x0", "velocity") if n != prediction.name)
        raise ValueError(
            f"prediction {prediction.name!r} does not determine x0 where {schedule} ends, at alpha = "
            f"{at.alpha:.3g}; use one of {others}, or a schedule that ends above pure noise."
        )
    return prediction


def _combine(c: Tensor | float, x: Tensor, d: Tensor | float, y: Tensor) -> Tensor:
    """c x + d y, in the fewest operations, in the dtype of x."""
    if isinstance(c, Tensor) or isinstance(d, Tensor):
        return (c * x + d * y).to(x.dtype)  # tensor coefficients are of at least float32
    if c == 0:
        return y if d == 1 else d * y
    if d == 0:
        return x if c == 1 else c * x
    return (c * x).add_(y, alpha=d)


@dataclass(frozen=True, eq=False)
class Prediction:
    """A network's output y at x_t with its coefficients, which determine x0, eps, v and the score.

    alpha, sigma, a and b are floats, or tensors that broadcast with x_t. Each quantity is computed only
    when it is accessed.

    Arguments:
        x_t: The noisy state.
        y: The output of the network, shaped like x_t.
        a, b: The coefficients of the output, y = a x0 + b eps.
        alpha, sigma: The coefficients of the state, x_t = alpha x0 + sigma eps.
        extra: The second output of a network with a learned variance, shaped like x_t; else None.
    """

    x_t: Tensor
    y: Tensor
    a: Any
    b: Any
    alpha: Any
    sigma: Any
    extra: Tensor | None = None
    """The network's second output, shaped like x_t: a learned variance."""

    def at(self, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """The predicted state at another noise level, alpha x0 + sigma eps.

        Arguments:
            alpha: The coefficient of x0; a float, or a tensor that broadcasts with x_t.
            sigma: The coefficient of eps, likewise.

        Raises:
            ValueError: If the output does not determine both x0 and eps.
        """
        det = self.alpha * self.b - self.sigma * self.a
        if not isinstance(det, Tensor) and det == 0:
            raise ValueError(
                f"the output does not determine x0 and eps at alpha = {self.alpha:.3g}; predict 'v'."
            )
        c = (alpha * self.b - sigma * self.a) / det
        d = (self.alpha * sigma - self.sigma * alpha) / det
        return _combine(c, self.x_t, d, self.y)

    def shifted(self, score: Tensor) -> Prediction:
        """The prediction at the same x_t whose score is ``self.score + score``, as guidance needs it.

        Where alpha is 0, x_t holds no information about the data, and the prediction is not changed.

        Arguments:
            score: The term to add to the score, shaped like x_t.
        """
        move = (self.sigma / self.alpha) * (self.alpha * self.b - self.sigma * self.a)
        if isinstance(move, Tensor):
            move = torch.where(torch.as_tensor(self.alpha > 0), move, 0.0)
        return replace(self, y=(self.y - move * score).to(self.y.dtype))

    def with_x0(self, x0: Tensor) -> Prediction:
        """The prediction at the same x_t whose x0 is the given one; eps follows from both.

        Where sigma is 0, x_t is the data itself, and the prediction is not changed.

        Arguments:
            x0: The new x0, shaped like x_t.
        """
        if not isinstance(self.sigma, Tensor) and self.sigma == 0:
            return self
        move = (self.alpha * self.b - self.sigma * self.a) / self.sigma
        return replace(self, y=(self.y - move * (x0 - self.x0)).to(self.y.dtype))

    @once
    def x0(self) -> Tensor:
        """The predicted data, shaped like x_t."""
        return self.at(1.0, 0.0)

    @once
    def eps(self) -> Tensor:
        """The predicted noise, shaped like x_t."""
        return self.at(0.0, 1.0)

    @once
    def v(self) -> Tensor:
        """alpha eps - sigma x0, shaped like x_t."""
        return self.at(-self.sigma, self.alpha)

    @once
    def score(self) -> Tensor:
        """The gradient of log p(x_t), -eps / sigma, shaped like x_t."""
        return self.at(0.0, -1 / self.sigma)


class OwnRun(Protocol):
    """The run that a distilled model is for, as :class:`anydiff.losses.Rows` describes it."""

    def check(self, t: Tensor | float) -> None:
        """Raise an error if t is no time at which the model can be asked.

        Arguments:
            t: Times in [0, 1].
        """

    def chosen(self, sampler: Any, steps: Any, start: float) -> tuple[Any, Any, float]:
        """The sampler, the times and the start of a run that is asked for.

        Arguments:
            sampler: The sampler that was asked for; None is the run's own.
            steps: The number of steps or the times that were asked for; None are the run's own.
            start: The first time of the run.
        """


def _no_copies(n: int) -> None:
    """Of a predictor that cannot be copied."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model bound to a batch: the interface for samplers, guidance, editing and likelihoods.

    ``diffusion.predictor(space, **cond)`` makes one from a model; guidance combines several into one.

    Arguments:
        answer: (x_t, level) -> Prediction. The level holds floats when a sampler calls it, and one value
            for each item, (B,), otherwise.
        schedule: The schedule of the levels.
        space: The batch's space.
        models: The modules that it calls. Sampling puts them in eval mode, and takes the dtype and the
            device of the noise from their parameters.
        copies: n -> the predictor of n copies of the batch, concatenated in ``space.copies(n)``; or
            None if there is no such predictor.
        run: The only run that the model is for, if it was distilled: its times and its sampler. None for
            a model of all times.
    """

    answer: Callable[[Tensor, Level], Prediction]
    schedule: Schedule
    space: Space
    models: tuple[nn.Module, ...] = ()
    copies: Callable[[int], Predictor | None] = _no_copies
    run: OwnRun | None = None

    def predict(self, x_t: Tensor, t: Level | Tensor | float) -> Prediction:
        """The prediction at x_t.

        Arguments:
            x_t: The noisy state, in the space.
            t: The time in [0, 1], (B,) or one for all; or a level of the schedule. A level of floats, as
                a sampler plans it, needs no operation on the device.

        Raises:
            ValueError: If x_t or the times are not such, or if a distilled model is asked at a time for
                which it was not trained.
        """
        if not isinstance(t, Level):
            check_floating(x_t=x_t)
            t = self.schedule._at(given_times(x_t, t, self.space))
        if self.run is not None:
            self.run.check(t.t)
        return self.answer(x_t, t)

    def given(self, **cond: Any) -> Predictor:
        """The same with further conditions of its network.

        Arguments:
            cond: Conditions, by name.

        Raises:
            ValueError: If it is one of several networks, as guidance makes it.
        """
        if not isinstance(self.answer, Network):
            raise ValueError(
                "the predictor is guided, so that it has no one network to give conditions to; give them "
                "to the predictors that it is made of."
            )
        answer = replace(self.answer, cond={**self.answer.cond, **cond})
        return replace(self, answer=answer, copies=_no_copies)

    @property
    def like(self) -> Tensor:
        """An empty tensor on the device of the models, of the dtype of most of their weights."""
        return like_of(self.models)


def like_of(models: Sequence[nn.Module]) -> Tensor:
    """An empty tensor on the device of some modules, of the dtype of most of their weights.

    Arguments:
        models: The modules.
    """
    parameters = (p for model in models for p in model.parameters())
    device = next(parameters, torch.empty(0)).device
    return torch.empty(0, dtype=weights_dtype(*models), device=device)


def check_predictor(**predictors: Predictor) -> None:
    """Raise an error unless all arguments are predictors.

    Arguments:
        predictors: The predictors, by the names of the arguments.

    Raises:
        ValueError: If one is something else, as the diffusion that makes predictors.
    """
    check_kind(
        Predictor, "a predictor, as diffusion.predictor(space, **cond) makes it", **predictors
    )


def check_undistilled(predictor: Predictor) -> None:
    """Raise an error if a model was distilled, where one of all times is needed.

    Arguments:
        predictor: The predictor.

    Raises:
        ValueError: If it is for one run alone.
    """
    if predictor.run is not None:
        raise ValueError(
            "the model is distilled: it knows one run to the data, and neither the way back nor a "
            "density; ask its teacher."
        )


@dataclass(frozen=True, eq=False)
class Network:
    """The function (x_t, level) -> Prediction of one denoiser, bound to a batch.

    The denoiser gets x_t in the dtype of its weights and t in at least float32; its output is returned in
    the dtype of x_t, since the state of a run is more precise than a network in half precision.

    Arguments:
        denoiser: ``(x_t, t, **cond) -> y``, where t is (B,) and y is shaped like x_t; or -> (y, extra),
            see :class:`Prediction`.
        target: What y predicts.
        space: The batch's space, passed as ``space`` to a denoiser that takes it.
        cond: Conditions, passed to the denoiser by their names.
        takes: space -> whether to pass it to the denoiser; if None, :func:`takes_space` decides.

    Raises:
        ValueError: If the denoiser takes no space and the space is not :class:`~anydiff.spaces.Dense`.
    """

    denoiser: Callable[..., Tensor | tuple[Tensor, Tensor | None]]
    target: Target
    space: Space
    cond: Mapping[str, Any] = field(default_factory=dict)
    takes: Callable[[Space], bool] | None = None
    given: Mapping[str, Any] = field(init=False, repr=False)
    dtype: torch.dtype | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", weights_dtype(*modules_in(self.denoiser)))
        told = (self.takes or takes_space(self.denoiser))(self.space)
        object.__setattr__(self, "given", {**self.cond, "space": self.space} if told else self.cond)
        if not (told or isinstance(self.space, Dense)):
            raise ValueError(
                f"the batch is in {type(self.space).__name__} and the denoiser does not take its space, "
                "which defines the items; give its forward a parameter `space`, used or not."
            )

    def __call__(self, x_t: Tensor, at: Level) -> Prediction:
        a, b, alpha, sigma = self.coefficients(x_t, at)
        scale = self._expand(self.target.input_scale(at), x_t, at)
        seen = x_t if isinstance(scale, float) and scale == 1 else scale * x_t
        if self.dtype not in (None, seen.dtype):
            seen = seen.to(self.dtype)
        t = item_times(seen, at.t, self.space)

        kept = (x_t, at.t, *self.cond.values())
        before = _versions(kept)
        y = self.denoiser(seen, t, **self.given)
        if (after := _versions(kept)) != before:
            changed = zip(("x_t", "t", *self.cond), before, after, strict=True)
            names = ", ".join(name for name, then, now in changed if then != now)
            raise ValueError(
                f"the denoiser changes {names} in place, which is still in use; let it change a copy."
            )

        y, extra = y if isinstance(y, tuple) and len(y) == 2 else (y, None)
        for out in (y,) if extra is None else (y, extra):
            if not isinstance(out, Tensor) or out.shape != x_t.shape:
                what = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
                raise ValueError(
                    f"x_t is {tuple(x_t.shape)} and the denoiser gives {what}; let it give the same "
                    "shape, or a pair of such: the prediction and a learned variance. FromDiffusers "
                    "wraps the networks of diffusers."
                )
        if y.dtype != x_t.dtype:
            y, extra = y.to(x_t.dtype), None if extra is None else extra.to(x_t.dtype)
        return Prediction(x_t, self.space.project(y), a, b, alpha, sigma, extra)

    def coefficients(self, x_t: Tensor, at: Level) -> tuple[Any, Any, Any, Any]:
        """a, b, alpha and sigma: floats, or tensors that broadcast with x_t, like the level.

        Arguments:
            x_t: A state.
            at: The level.

        Raises:
            ValueError: If the target is not defined at the level.
        """
        try:
            a, b = self.target.coefficients(at)
        except ZeroDivisionError:
            a = b = math.nan
        if not isinstance(at.t, Tensor) and (math.isnan(a) or math.isnan(b)):
            raise ValueError(
                f"prediction {self.target.name!r} is not defined at t = {at.t:.3g}; predict 'v'."
            )
        a, b, alpha, sigma = (self._expand(c, x_t, at) for c in (a, b, at.alpha, at.sigma))
        return a, b, alpha, sigma

    def _expand(self, c: Any, x_t: Tensor, at: Level) -> Any:
        return self.space.expand(c, x_t) if isinstance(at.t, Tensor) else c


def takes_space(denoiser: Callable[..., Any]) -> Callable[[Space], bool]:
    """Decide by a denoiser's signature which spaces to pass to it: space -> bool.

    A denoiser with a parameter ``space`` gets every space. If it takes ``**kwargs`` instead, it gets
    every space except :class:`~anydiff.spaces.Dense`, which has no structure to tell, and that too if a
    module that it holds gets it. What is inside the wrappers of PyTorch and a ``functools.partial``
    decides for them. Traced and scripted modules take tensors only.

    Arguments:
        denoiser: A module, or a function with the same arguments.
    """
    inner = denoiser.func if isinstance(denoiser, partial) else wrapped(denoiser)
    if getattr(denoiser, "__func__", None) is nn.Module.__call__:  # network.__call__ is the network
        inner = denoiser.__self__  # type: ignore[attr-defined]
    if inner is not None:
        return takes_space(inner)
    function = denoiser.forward if isinstance(denoiser, nn.Module) else denoiser
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled code has none
        return _never
    if "space" in parameters:
        return _always
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return _never
    inside = denoiser.children() if isinstance(denoiser, nn.Module) else modules_in(denoiser)
    return _always if any(takes_space(m)(DENSE) for m in inside) else _structured


def _always(space: Space) -> bool:
    return True


def _never(space: Space) -> bool:
    return False


def _structured(space: Space) -> bool:
    return not isinstance(space, Dense)


def wrapped(module: Any) -> nn.Module | None:
    """The module inside a wrapper of PyTorch, which computes the same; None for everything else.

    Other modules with a part called `module` may do something else with it.

    Arguments:
        module: A compiled, parallel or averaged module, or anything else.
    """
    if isinstance(module, nn.DataParallel | DistributedDataParallel | AveragedModel):
        return module.module
    for name in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        if isinstance(inner := getattr(module, name, None), nn.Module):
            return inner
    return None


def modules_in(denoiser: Any) -> list[nn.Module]:
    """A module itself, or the modules that another callable holds: a partial, a method, an object.

    Arguments:
        denoiser: The callable.
    """
    if isinstance(denoiser, nn.Module):
        return [denoiser]
    if isinstance(denoiser, partial):
        return modules_in(denoiser.func)
    held = (getattr(denoiser, "__self__", None), *getattr(denoiser, "__dict__", {}).values())
    known: Any = nn.Module | partial | MethodType  # a method: of a decorated function
    return [m for h in held if isinstance(h, known) for m in modules_in(h)]


def _versions(values: Iterable[Any]) -> list[int]:
    """How often each tensor was changed in place; inference tensors and compilers do not count it."""
    if torch.compiler.is_compiling():
        return []
    return [x._version if isinstance(x, Tensor) and not x.is_inference() else 0 for x in values]


def given_times(x: Tensor, t: Tensor | float, space: Space) -> Tensor:
    """The times that a caller gives, checked, as :func:`item_times`.

    The values of a tensor are checked on a CPU only: reading them from a device would wait for it.

    Arguments:
        x: A state, which gives the device and the dtype.
        t: Times in [0, 1], (B,), or one for all.
        space: The batch's space.

    Raises:
        ValueError: If a time lies outside, or if there is not one for each item.
    """
    if not isinstance(t, Tensor):
        check_range("[0, 1]", t=t)
        return item_times(x, t, space)
    hint = "times in [0, 1], one for each item or one for all"
    if t.ndim:
        check_shape((space.items(x),), f"give {hint}", t=t)
    return item_times(x, check_times(hint, t, slack=0), space)


def item_times(x_t: Tensor, t: Tensor | float, space: Space) -> Tensor:
    """One time for each item, (B,), of at least float32, which resolves the steps of a long chain.

    Arguments:
        x_t: A state, which gives the device and the dtype.
        t: (B,), or one for all.
        space: The batch's space.
    """
    dtype = at_least_float32(x_t)
    if isinstance(t, Tensor) and t.ndim:
        return t.to(x_t.device, dtype)
    items = space.items(x_t)
    if isinstance(t, Tensor):
        return t.to(x_t.device, dtype).expand(items).contiguous()
    return torch.full((items,), t, dtype=dtype, device=x_t.device)

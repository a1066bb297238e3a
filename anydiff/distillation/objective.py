"""The objective of a student, and the student of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, shown
from anydiff.diffusion import GaussianDiffusion
from anydiff.distillation.targets import check_fit
from anydiff.losses.few_steps import Rows
from anydiff.losses.times import Times
from anydiff.losses.weightings import TruncatedSNR
from anydiff.predictions import OwnRun, Predictor, check_predictor
from anydiff.samplers.loop import evaluating
from anydiff.spaces import DENSE, Random, Space
from anydiff.spaces.draws import undrawn

__all__ = ["Distillation", "student"]

Target = Callable[..., Predictor]
"""(x0, space, **cond) -> the predictor that names x0*, bound to the batch."""


class Distillation(nn.Module):
    """The training of a student towards a target, with the signature of :meth:`GaussianDiffusion.loss`.

    Data, times and noise are drawn as the student's own loss draws them. The target names the x0 that the
    student is to answer at x_t, without gradients and with its models, but the student, in eval mode.
    Only the student is a part of this module: what the target calls is neither trained, nor averaged, nor
    saved. It is moved to the device of the data. A copy of this module has the same target, which may ask
    the student that was copied: build another one to train the copy.

    Arguments:
        student: The model to train, without `drop` and `augment`; :func:`student` makes one.
        target: (x0, space, \\*\\*cond) -> the predictor that names x0*, bound to the batch.

    Raises:
        ValueError: If an argument is not of its kind, or if the student drops or noises conditions, which
            its target would see whole.
    """

    def __init__(self, student: GaussianDiffusion, target: Target) -> None:
        super().__init__()
        check_kind(
            GaussianDiffusion, "a diffusion, as student(teacher, rows) makes it", student=student
        )
        check_kind(Callable, "a function (x0, space, **cond) -> predictor", target=target)
        for name in ("drop", "augment"):
            if getattr(student, name):
                raise ValueError(
                    f"the student has {name} = {getattr(student, name)}, and its target sees all "
                    f"conditions; set {name} to None."
                )
        self.student = student
        self._target = _Apart([target])

    def forward(self, x0: Tensor, *args: Any, **options: Any) -> Tensor:
        """The same as :meth:`loss`: what data parallel and compiled modules call."""
        return self.loss(x0, *args, **options)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | float | None = None,
        *,
        space: Space = DENSE,
        noise: Tensor | None = None,
        generator: Random = None,
        **cond: Any,
    ) -> Tensor:
        """The student's loss of each item towards the target, (B,).

        Arguments:
            x0: Data, which are projected onto the space first.
            t: Times in [0, 1], (B,), or one for all. Drawn from the student's `times` if None.
            space: The batch's space.
            noise: The eps to use, in the space, of the shape and dtype of x0. Drawn if None.
            generator: The source of noise and times. With one generator per item, t has to be given.
            cond: Conditions, passed to the target and to the student by their names.

        Raises:
            ValueError: As :meth:`GaussianDiffusion.loss`, or if the target is no predictor, or has
                another schedule than the student, was made for another space than the batch's, or is for
                other times than those that are drawn.
        """
        student, drawn = self.student, t is None
        x0, t, eps = student.noised(x0, t, space, noise, generator)
        at = student.schedule._at(student.error.times(t))
        alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
        target = self._target[0](x0, space, **cond)
        check_predictor(target=target)
        check_fit(student.schedule, space, target=target)
        if drawn and target.run is not None:  # on a device, the times themselves are not read
            _check_rows(student, target.run)
        with torch.no_grad(), _teaching(target, student, x0.device):
            p = target.predict(alpha * x0 + sigma * eps, at)
            # at the data there is nothing to learn, and eps does not follow from x0
            # detached too: without gradients, forward derivatives still pass
            pairs = ((p.x0.detach(), x0), (p.eps.detach(), eps))
            x0, eps = (torch.where(sigma > 0, new, old) for new, old in pairs)
        loss = student.loss(x0, t, space=space, noise=eps, generator=generator, **cond)
        return student.times.reweigh(t, loss) if drawn else loss


def student(teacher: GaussianDiffusion, times: Times | None = None) -> GaussianDiffusion:
    """A student of a teacher: a copy of it that learns at times of its own, with the weight max(SNR, 1).

    It drops no conditions, and has no learned variance; a learned schedule is kept as it is. A copy of a
    teacher whose weights are all frozen learns all the same.

    Arguments:
        teacher: The model to copy.
        times: The :class:`~anydiff.losses.Rows` of the run that it learns; or another distribution of
            training times, as for a consistency model.

    Raises:
        ValueError: If an argument is not of its kind.
    """
    check_kind(GaussianDiffusion, "a diffusion", teacher=teacher)
    copy = deepcopy(teacher)
    if not any(p.requires_grad for p in copy.parameters()):
        copy.requires_grad_(True)
    if isinstance(copy.schedule, nn.Module):
        copy.schedule.requires_grad_(False)
    return GaussianDiffusion(copy.denoiser, copy.schedule, copy.target, TruncatedSNR(), times)


def _check_rows(student: GaussianDiffusion, run: OwnRun) -> None:
    """An error unless the student's times are some of the target's."""
    if not isinstance(student.times, Rows):
        raise ValueError(
            f"the student learns at {shown(student.times)}, and its target knows the times of one run "
            "alone; give it these, student(teacher, Rows(times[::n]))."
        )
    for t in student.times.times[:-1]:
        run.check(t)


class _Apart(list[Any]):
    """A list that is no part of the module that holds it, and is not copied with it."""

    def __deepcopy__(self, memo: Any) -> _Apart:
        return self


@contextmanager
def _teaching(target: Predictor, student: nn.Module, device: torch.device) -> Iterator[None]:
    """The target's models in eval mode and on the device, but the student.

    What layers such as dropout draw is drawn again afterwards, so that a student that is a part of its
    target has the same dropout in both.
    """
    teachers = tuple(m for m in target.models if m is not student)
    for model in teachers:
        if any(p.device != device for p in model.parameters()):
            model.to(device)
    with undrawn(device), evaluating(teachers):
        yield

"""The Lightning module that trains an objective.

Noise and times are drawn from a generator that is seeded by the step, so that a run that was killed and
resumed takes the same steps as one that was not. The learning rate rises over the first steps and falls
to zero over the run, measured in minutes, epochs or steps, whichever ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import cos, inf, pi
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anydiff.extras import extra
from anydiff.spaces import Random, Space, child
from anydiff.spaces.draws import undrawn
from anydiff.training.callbacks import done
from anydiff.training.muon import Muon

with extra("train"):
    from pytorch_lightning import LightningModule

__all__ = ["DiffusionModule", "Objective", "adam"]

Unpack = Callable[[Any], tuple[Tensor, Space, dict[str, Any]]]


def adam(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """AdamW without weight decay, whose moments are in float32 at least.

    Arguments:
        parameters: What to optimise.
        lr: The learning rate.
    """
    parameters, betas = list(parameters), (0.9, 0.99)
    if any(
        p.dtype.itemsize < 4 for p in parameters
    ):  # torch's moments have the dtype of the weights
        return Muon(parameters, adam_lr=lr, betas=betas, smallest=inf)
    return torch.optim.AdamW(parameters, lr, betas=betas, weight_decay=0)


class Objective(Protocol):
    """What can be trained: a module with a loss per item, such as :class:`anydiff.GaussianDiffusion`."""

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        *,
        space: Space,
        noise: Tensor | None = None,
        generator: Random = None,
        **cond: Any,
    ) -> Tensor:
        """The loss of each item, (B,).

        Arguments:
            x0: Data, in the space.
            t: Times, (B,); drawn if None.
            space: The batch's space.
            noise: The noise to use, shaped like x0; drawn if None.
            generator: The source of times and noise.
            cond: Conditions, by name.
        """

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters to optimise."""


class DiffusionModule(LightningModule):
    """The training of an objective, as a Lightning module.

    Arguments:
        objective: What to train, an ``nn.Module``.
        unpack: batch -> (x0, space, cond); defined by the kind of data. It may draw from torch's own
            generators, which are seeded by the step.
        lr: The peak learning rate.
        warmup: The number of steps over which it rises from 0.
        decay: Whether it falls to zero over the run, along a cosine.
        seed: The seed of the noise and the times in training.
        optimizer: (parameters, lr) -> Optimizer. AdamW without weight decay if None.

    Raises:
        TypeError: If the objective is not an ``nn.Module``.
    """

    def __init__(
        self,
        objective: Objective,
        unpack: Unpack,
        *,
        lr: float = 1e-3,
        warmup: int = 100,
        decay: bool = True,
        seed: int = 0,
        optimizer: Callable[[Any, float], Optimizer] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(objective, nn.Module):
            raise TypeError(
                f"the objective is a {type(objective).__name__}, which is not an nn.Module: its "
                "parameters would be neither moved nor saved; make it one."
            )
        self.objective = objective
        self.unpack = unpack
        self.lr, self.warmup, self.decay, self.seed = lr, warmup, decay, seed
        self.optimizer = optimizer

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(child(self.seed, *key, self.global_rank))

    def _unpacked(self, batch: Any, *key: int) -> tuple[Tensor, Space, dict[str, Any]]:
        """What `unpack` makes of a batch; what it draws by chance, such as known parts, has a seed."""
        with self._seeded(3, *key):
            return self.unpack(batch)

    @contextmanager
    def _seeded(self, *key: int) -> Iterator[None]:
        """A context in which torch's own generators have a seed, and go on afterwards as before."""
        seed = child(self.seed, *key, self.global_rank)
        with undrawn(self.device) as own:
            for generator in own:
                generator.manual_seed(seed)
            yield

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        # seeded by the batch too, since gradients of several batches may be accumulated in one step
        key = (self.global_step, batch_idx)
        x0, space, cond = self._unpacked(batch, 0, *key)
        with self._seeded(2, *key):  # what layers such as dropout draw from
            loss = self.objective.loss(x0, space=space, generator=self._generator(0, *key), **cond)
        self.log("loss", loss.mean(), batch_size=len(loss))
        return self._mean(loss)

    def _mean(self, loss: Tensor) -> Tensor:
        """The mean over the items of all processes, as the mean of what they return."""
        if self.trainer.world_size == 1:
            return loss.mean()
        own = torch.tensor(float(len(loss)), device=loss.device)
        mean = self.trainer.strategy.reduce(own.clone(), reduce_op="mean")  # in place
        assert isinstance(mean, Tensor)
        return loss.mean() * (own / mean)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint is of this network.

        Arguments:
            checkpoint: What is about to be loaded.

        Raises:
            ValueError: If it is of another one.
        """
        here = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        there = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        for name in here | there:
            if (a := here.get(name)) != (b := there.get(name)):
                raise ValueError(
                    f"the checkpoint has {b or 'nothing'} where the network has {a or 'nothing'} "
                    f"({name}); build the network as it was, or train in another folder."
                )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        # the same noise in every validation, so that its losses are comparable
        x0, space, cond = self._unpacked(batch, 1, batch_idx)
        loss = self.objective.loss(x0, space=space, generator=self._generator(1, batch_idx), **cond)
        self.log("val_loss", loss.mean(), batch_size=len(loss), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return self._scheduled((self.optimizer or adam)(self.objective.parameters(), self.lr))

    def _scheduled(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimiser with the schedule of its learning rate, as Lightning takes both."""

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(self.warmup, 1))
            if not self.decay:
                return rise
            # at step 0 Lightning has not restored the loaders yet, so their length must not be read
            over = 0.0 if step == 0 else min(1.0, done(self.trainer))
            return rise * 0.5 * (1 + cos(pi * over))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

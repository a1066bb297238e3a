"""The Lightning module of a generator and its critic: two optimisers, in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import AdamW, Optimizer

from anydiff.extras import extra
from anydiff.training.module import DiffusionModule, Unpack

with extra("train"):
    from pytorch_lightning.strategies import DDPStrategy

__all__ = ["AdversarialModule"]


class AdversarialModule(DiffusionModule):
    """The training of an objective with a critic, such as :class:`anydiff.adversarial.DenoisingGAN`.

    In each step the critic learns from a batch, and then the diffusion. Seeds, averages and resumption
    are those of :class:`~anydiff.training.module.DiffusionModule`. `max_steps` of a trainer counts the
    steps of both; `clip`, which is None here by default, is of the gradients of each. On several devices
    give ``strategy="ddp_find_unused_parameters_true"``.

    Arguments:
        objective: With the modules `diffusion` and `critic`, and the losses `loss` and `critic_loss`.
        unpack: batch -> (x0, space, cond).
        lr: The peak learning rate of the diffusion.
        critic_lr: That of the critic; the same if None.
        optimizer: (parameters, lr) -> Optimizer, of both; Adam with the momentum .5 if None.
        critic_optimizer: Of the critic, if it is another one.
        options: As of :class:`~anydiff.training.module.DiffusionModule`.
    """

    def __init__(
        self,
        objective: Any,
        unpack: Unpack,
        *,
        lr: float = 5e-4,
        critic_lr: float | None = None,
        optimizer: Callable[[Any, float], Optimizer] | None = None,
        critic_optimizer: Callable[[Any, float], Optimizer] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(objective, unpack, lr=lr, optimizer=optimizer or quick, **options)
        self.automatic_optimization = False
        self.clip: float | None = None  # of the run
        self.critic_lr = lr if critic_lr is None else critic_lr
        self.critic_optimizer = critic_optimizer or optimizer or quick

    def setup(self, stage: str) -> None:
        super().setup(stage)
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get(
            "find_unused_parameters"
        ):
            raise ValueError(
                "a diffusion and its critic learn in turn, and each leaves out the parameters of the "
                "other; give strategy='ddp_find_unused_parameters_true'."
            )

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        objective: Any = self.objective
        key = (self.global_step, batch_idx)
        x0, space, cond = self._unpacked(batch, 0, *key)
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        losses = {"critic_loss": objective.critic_loss, "loss": objective.loss}
        for k, (name, loss_of) in enumerate(losses.items()):
            self.toggle_optimizer(optimizers[k])
            with self._seeded(2, k, *key):
                loss = loss_of(x0, space=space, generator=self._generator(0, k, *key), **cond)
            optimizers[k].zero_grad()
            self.manual_backward(self._mean(loss))
            if self.clip:
                self.clip_gradients(optimizers[k], self.clip, "norm")
            optimizers[k].step()
            self.untoggle_optimizer(optimizers[k])
            self.log(name, loss.mean(), batch_size=len(loss))
        for scheduler in schedulers:  # both at one time of the run
            scheduler.step()

    def configure_optimizers(self) -> Any:
        objective: Any = self.objective
        parts = (
            (objective.critic, self.critic_lr, self.critic_optimizer),
            (objective.diffusion, self.lr, self.optimizer or quick),
        )
        return [self._scheduled(make(module.parameters(), lr)) for module, lr, make in parts]


def quick(parameters: Any, lr: float) -> Optimizer:
    """Adam with little momentum, as the two losses chase each other.

    Arguments:
        parameters: What to optimise.
        lr: The learning rate.
    """
    return AdamW(parameters, lr, betas=(0.5, 0.9), weight_decay=0)

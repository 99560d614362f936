"""Training plan: Adam, cosine learning-rate schedule, metrics and a check for divergence, on scvi-tools' plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan


def adam(
    module: torch.nn.Module, n_steps: int, lr: float, weight_decay: float, *, fused: bool = False
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.CosineAnnealingLR]:
    """Return Adam over the trainable parameters, and its cosine schedule, see :class:`CosineTrainingPlan`."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=n_steps, eta_min=0.01 * lr)


class CosineTrainingPlan(TrainingPlan):
    """scvi-tools' plan with plain Adam, a cosine learning-rate schedule and a constant weight of the KL divergence.

    Parameters
    ----------
    module
        The module to train.
    n_steps
        Steps of the whole training.
    lr
        Learning rate at the start; it decays to 1 % of it over the training.
    weight_decay
        L2 penalty.
    kl_weight
        Weight of the KL divergence from the prior.
    resumed
        States of optimiser and schedule to resume from, see :class:`.Checkpoints`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        n_steps: int,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        kl_weight: float = 1.0,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            eps=1e-8,
            n_epochs_kl_warmup=None,
            max_kl_weight=kl_weight,
        )
        self.n_steps = n_steps
        self.resumed = resumed

    def configure_optimizers(self) -> dict[str, Any]:
        """Return Adam over the trainable parameters and a cosine schedule over all steps."""
        fused = self.trainer.precision == "32-true"  # in mixed precision Lightning could not clip gradients
        optimizer, schedule = adam(self.module, self.n_steps, self.lr, self.weight_decay, fused=fused)
        if self.resumed is not None:
            optimizer.load_state_dict(self.resumed["optimizer"])
            schedule.load_state_dict(self.resumed["schedule"])
            self.resumed = None
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Let every process mask its own spots and sample its own latent states."""
        if self.trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of a step; raise a FloatingPointError if it is not finite."""
        output = self._step(batch, self.train_metrics, "train")
        if not torch.isfinite(output.loss):
            msg = (
                f"The training diverged at epoch {self.current_epoch}: {' and '.join(_not_finite(output))} not finite. "
                f"Lower the learning rate (`lr={self.lr / 10:g}`), clip gradients harder (`gradient_clip_val=1`), or "
                "check the input for extreme values."
            )
            raise FloatingPointError(msg)
        return output.loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Score the held-out molecules."""
        self._step(batch, self.val_metrics, "validation")

    def _step(self, batch: dict[str, torch.Tensor], metrics: Any, mode: str) -> LossOutput:
        """Loss and its log; the names of the metrics are those of scvi-tools."""
        _, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        name = "train_loss" if mode == "train" else "validation_loss"
        log = partial(
            self.log,
            on_step=False,
            on_epoch=True,
            # Lightning cannot infer it from a dictionary of tensors of different lengths
            batch_size=output.n_obs_minibatch,
            sync_dist=self.use_sync_dist,
        )
        log(name, output.loss, prog_bar=True)
        # scvi-tools would log these in inference mode, where gloo cannot add them up over the processes
        for term, value in output.extra_metrics.items():
            log(f"{term}_{mode}", value)
        self.compute_and_log_metrics(replace(output, extra_metrics={}), metrics, mode)
        return output


_TERMS = {
    "reconstruction_loss": "the reconstruction of the spots",
    "kl_local": "the KL divergence of the latent states from their prior",
    "graph_loss": "the reconstruction of the spot graph",
    "image_loss": "the image regulariser",
}


def _not_finite(output: LossOutput) -> list[str]:
    """Terms of a loss that are not finite."""
    values = {**output.reconstruction_loss, **output.kl_local, **output.extra_metrics}
    return [_TERMS[name] for name, value in values.items() if not torch.isfinite(value).all()] or ["their sum"]

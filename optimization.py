"""One step of training: the schedule, the optimizer, the update.

Schedules are functions of the step alone. Nothing here waits for the device: losses stay tensors.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dataset import Step
from encoder import VisionEncoder
from gradients import Gradients
from model import CaptionModel


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to 1, then half a cosine to 0 (Loshchilov & Hutter, 2017)."""

    total_steps: int
    warmup_steps: int

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by in step 0, 1, ..."""
        warmup = min(self.warmup_steps, self.total_steps // 10)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        share = (step - warmup) / max(self.total_steps - warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


@dataclass(frozen=True)
class StepResult:
    """What a step leaves to be logged, still on the device."""

    loss_sum: Tensor
    """Sum of the loss over this process's tokens."""
    gradient_norm: Tensor
    """Norm of the gradient of the mean loss, before clipping."""
    num_tokens: int
    """Tokens of all processes."""
    captions: int
    """Captions of all processes."""


def build_optimizer(
    model: CaptionModel,
    encoder: VisionEncoder,
    *,
    learning_rate: float,
    encoder_learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors and positions do not; the encoder has its own rate.

    Each group keeps its peak rate as `peak_lr`; `set_learning_rate` scales it.
    """
    groups = []
    for module, rate in ((model, learning_rate), (encoder, encoder_learning_rate)):
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        decays = [p for name, p in named if p.dim() >= 2 and not name.endswith("positions")]
        others = [p for name, p in named if p.dim() < 2 or name.endswith("positions")]
        for parameters, decay in ((decays, weight_decay), (others, 0.0)):
            if parameters:
                groups.append(
                    {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
                )
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set each group to `factor` of its peak; returns the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


def train_step(
    gradients: Gradients, optimizer: torch.optim.Optimizer, step: Step, *, clip_norm: float
) -> StepResult:
    """The gradient of a step, clipped, and one update. Raises `BatchTooLargeError`."""
    loss_sum = gradients.add(step)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradient_norm = nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum, gradient_norm, step.num_tokens, step.captions)

"""One step of training: the schedule, the optimizer, the update.

Schedules are functions of the step alone. Nothing here waits for the device: losses stay tensors.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captioning.training.sharding import clip_gradients
from dataset import Step
from encoder import VisionEncoder
from gradients import Gradients
from model import CaptionModel


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to 1, then half a cosine to 0 (Loshchilov & Hutter, 2017)."""

    total_steps: int
    warmup_steps: int
    start_step: int = 0
    """Before it the factor is 0."""

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by in step 0, 1, ..."""
        if step < self.start_step:
            return 0.0
        total, step = self.total_steps - self.start_step, step - self.start_step
        warmup = min(self.warmup_steps, total // 10)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        share = (step - warmup) / max(total - warmup, 1)
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
    encoder_layer_decay: float = 1.0,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors and positions do not; the encoder has its own rate.

    Each block of the encoder has `encoder_layer_decay` times the rate of the one after it. Each
    group keeps its peak rate as `peak_lr`; `set_learning_rate` scales it.
    """
    groups = []
    for is_encoder, rate, named in (
        (False, learning_rate, dict(model.named_parameters())),
        *_encoder_parts(encoder, encoder_learning_rate, encoder_layer_decay),
    ):
        trained = [(name, p) for name, p in named.items() if p.requires_grad]
        decays = [p for name, p in trained if p.dim() >= 2 and not name.endswith("positions")]
        others = [p for name, p in trained if p.dim() < 2 or name.endswith("positions")]
        for parameters, decay in ((decays, weight_decay), (others, 0.0)):
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "lr": rate,
                        "peak_lr": rate,
                        "weight_decay": decay,
                        "is_encoder": is_encoder,
                    }
                )
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)


def _encoder_parts(
    encoder: VisionEncoder, rate: float, layer_decay: float
) -> list[tuple[bool, float, dict[str, nn.Parameter]]]:
    """The encoder's parameters by their peak rate, the last blocks first."""
    depths = encoder.depths() if layer_decay != 1 else {}
    parts: dict[int, dict[str, nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        parts.setdefault(depths.get(parameter, 0), {})[name] = parameter
    return [(True, rate * layer_decay**depth, parts[depth]) for depth in sorted(parts)]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, factor: float, encoder_factor: float | None = None
) -> float:
    """Set each group to `factor` of its peak, those of the encoder to `encoder_factor` (the same
    by default); returns the first group's rate."""
    for group in optimizer.param_groups:
        is_other = group["is_encoder"] and encoder_factor is not None
        group["lr"] = group["peak_lr"] * (encoder_factor if is_other else factor)
    return float(optimizer.param_groups[0]["lr"])


def train_step(
    gradients: Gradients, optimizer: torch.optim.Optimizer, step: Step, *, clip_norm: float
) -> StepResult:
    """The gradient of a step, clipped, and one update. Raises `BatchTooLargeError`."""
    loss_sum = gradients.add(step)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradient_norm = clip_gradients(parameters, clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum, gradient_norm, step.num_tokens, step.captions)

"""One step of training: the schedule, the optimizer, the loss, the update.

Schedules are functions of the step alone. Nothing here waits for the device: losses stay tensors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning import encode
from dataset import Batch
from encoder import VisionEncoder
from model import CaptionModel
from runtime import Runtime
from tokenizer import CaptionTokenizer

LossFunction = Callable[[CaptionModel, Tensor, Batch, float], Tensor]


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
    """Sum of the loss over the step's tokens."""
    gradient_norm: Tensor
    """Norm of the gradient of the mean loss, before clipping."""
    num_tokens: int
    captions: int


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


def caption_loss(
    model: CaptionModel, features: Tensor, batch: Batch, label_smoothing: float
) -> Tensor:
    """Cross-entropy summed over the true tokens of a batch (Szegedy et al., 2016, smoothed)."""
    logits = model(features, batch.inputs, batch.positions, batch.packing)  # (N, V)
    return F.cross_entropy(
        logits.float(),
        batch.targets,
        ignore_index=CaptionTokenizer.pad_id,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def train_step(
    model: CaptionModel,
    encoder: VisionEncoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    runtime: Runtime,
    *,
    label_smoothing: float,
    clip_norm: float,
    loss_function: LossFunction = caption_loss,
) -> StepResult:
    """Gradients of all `batches`, averaged over all their tokens, and one update."""
    num_tokens = sum(batch.num_tokens for batch in batches)
    loss_sum = torch.zeros((), device=runtime.device)
    for waiting in batches:
        batch = waiting.to(runtime.device)
        with runtime.autocast():
            features = encode(batch.content, encoder)
            loss = loss_function(model, features, batch, label_smoothing)
        torch.autograd.backward(loss / num_tokens)
        loss_sum += loss.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradient_norm = nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum, gradient_norm, num_tokens, sum(b.captions for b in batches))

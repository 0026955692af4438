"""How weights change: schedule, optimizer, loss, gradient, update.

Schedules are functions of the step alone. The gradient of a step is that of its loss per true
token, over all micro-batches and all processes: each process adds up the gradients of its own
batches, then `DistributedDataParallel` averages over the processes (FSDP does it for an encoder in
parts). The loss is divided by the tokens of the whole step, which every process knows from the
plan, so that neither the number of processes nor how a step is cut changes the gradient. A process
that runs out of memory says so before the others wait for its gradient; all then give the step up,
with nothing changed. Nothing here waits for the device: losses stay tensors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.system.runtime import Runtime
from captioning.training.sharding import clip_gradients, is_part, is_sharded
from captioning.training.weight_average import WeightAverage
from captioning.vision.blocks import depths
from dataset import Batch, Step
from encoder import VisionEncoder, encode
from model import CaptionModel
from tokenizer import CaptionTokenizer

LossFunction = Callable[[CaptionModel, Tensor, Batch, float], Tensor]


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
    """AdamW; what `is_matrix` decays, nothing else does; the encoder has its own rate.

    Each block of the encoder has `encoder_layer_decay` times the rate of the one after it. Each
    group keeps its peak rate as `peak_lr`; `set_learning_rate` scales it.
    """
    groups = []
    for is_encoder, rate, named in (
        (False, learning_rate, dict(model.named_parameters())),
        *_encoder_parts(encoder, encoder_learning_rate, encoder_layer_decay),
    ):
        trained = [(name, p) for name, p in named.items() if p.requires_grad]
        decays = [p for name, p in trained if is_matrix(name, p)]
        others = [p for name, p in trained if not is_matrix(name, p)]
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


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a linear map, a convolution or a vocabulary.

    Vectors are not, nor are tables that are added to tokens: positions, a class token, a bias for
    each distance.
    """
    is_weight = name == "weight" or name.endswith(".weight")
    return is_weight and parameter.dim() >= 2 and "position_embedding" not in name


def _encoder_parts(
    encoder: VisionEncoder, rate: float, layer_decay: float
) -> list[tuple[bool, float, dict[str, nn.Parameter]]]:
    """The encoder's parameters by their peak rate, the last blocks first."""
    block_depths = depths(encoder.tower) if layer_decay != 1 else {}
    parts: dict[int, dict[str, nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        parts.setdefault(block_depths.get(parameter, 0), {})[name] = parameter
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


class BatchTooLargeError(Exception):
    """A batch did not fit into the memory of one of the processes; raised in all of them."""

    def __init__(self, num_captions: int) -> None:
        super().__init__(num_captions)
        self.num_captions = num_captions
        """Captions of that batch."""


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


class ZeroLoss(nn.Module):
    """A loss of 0 in which parameters have part, so that a backward pass visits each gradient."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._visited = nn.ParameterList(parameters)

    def forward(self) -> Tensor:
        """0, with a graph."""
        return torch.stack([parameter.sum() for parameter in self._visited]).sum() * 0


class Gradients:
    """Makes the gradients of steps."""

    def __init__(
        self,
        model: CaptionModel,
        encoder: VisionEncoder,
        runtime: Runtime,
        *,
        label_smoothing: float,
        loss_function: LossFunction = caption_loss,
    ) -> None:
        """For what `model` and `encoder` train at present."""
        self._model, self._encoder, self._runtime = model, encoder, runtime
        self._label_smoothing, self._loss_function = label_smoothing, loss_function
        self._is_sharded = is_sharded(encoder)
        self._statistics = _running_statistics(encoder)
        self._replicated = [
            parameter
            for module in (model, encoder)
            for parameter in module.parameters()
            if parameter.requires_grad and not is_part(parameter)
        ]
        self._zero = runtime.replica(ZeroLoss(self._replicated))
        # DDP takes the order of its buckets from its first pass: here always the same, so that
        # sums are rounded alike in a run that was resumed and in one that was not.
        self._average()
        self.drop()

    def add(self, step: Step) -> Tensor:
        """Leave the gradients of a step in the parameters; returns this process's sum of losses.

        Raises `BatchTooLargeError` in all processes, the gradients dropped, if memory ran out.
        """
        before = [statistic.clone() for statistic in self._statistics]
        loss_sum = torch.zeros((), device=self._runtime.device)
        failed = 0
        for batch, weight in self._passes(step):
            try:
                batch = batch.to(self._runtime.device)
                with self._runtime.autocast():
                    features = encode(batch.content, self._encoder)
                    loss = self._loss_function(self._model, features, batch, self._label_smoothing)
                # The average divides by the number of processes.
                share = weight * self._runtime.world_size
                torch.autograd.backward(loss * share / step.num_tokens)
                loss_sum += loss.detach() * weight
            except torch.OutOfMemoryError:
                if self._is_sharded:  # the others are amid the same pass
                    raise
                failed = batch.num_captions
                break
        if failed := self._runtime.max_over_processes(failed):
            self.drop()
            for statistic, old in zip(self._statistics, before, strict=True):
                statistic.copy_(old)
            torch.cuda.empty_cache()
            raise BatchTooLargeError(failed)
        self._average()
        return loss_sum

    def drop(self) -> None:
        """Forget the gradients."""
        for module in (self._model, self._encoder):
            module.zero_grad(set_to_none=True)

    def _passes(self, step: Step) -> list[tuple[Batch, float]]:
        """The batches and what each counts; of a sharded encoder, each pass is one of all."""
        passes = [(batch, step.weight) for batch in step.batches]
        if self._is_sharded:
            missing = self._runtime.max_over_processes(len(passes)) - len(passes)
            passes += [(step.batches[0], 0.0)] * missing
        return passes

    def _average(self) -> None:
        """Average gradients, and what BatchNorm has seen, over the processes."""
        if self._runtime.is_alone:
            return
        resting = [parameter for parameter in self._replicated if parameter.grad is None]
        torch.autograd.backward(self._zero())
        for parameter in resting:  # an encoder that is not trained yet
            parameter.grad = None
        self._runtime.average(self._statistics)


def _running_statistics(encoder: nn.Module) -> list[Tensor]:
    """Means and variances that the BatchNorm of a trained encoder keeps."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [
        statistic
        for module in encoder.modules()
        if isinstance(module, norms) and module.weight is not None and module.weight.requires_grad
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]


@dataclass(frozen=True)
class StepResult:
    """What a step leaves to be logged, still on the device."""

    loss_sum: Tensor
    """Sum of the loss over this process's tokens."""
    gradient_norm: Tensor
    """Norm of the gradient of the mean loss, before clipping."""
    num_tokens: int
    """Tokens of all processes."""
    num_captions: int
    """Captions of all processes."""


@dataclass(frozen=True)
class Optimization:
    """What changes the weights of a run."""

    optimizer: torch.optim.Optimizer
    gradients: Gradients
    schedule: Schedule
    encoder_schedule: Schedule
    average: WeightAverage | None = None
    """Moves after the weights; it is what is validated and kept as `best`."""

    def set_rates(self, step: int) -> float:
        """Give each group of the optimizer its learning rate of a step; returns the first's."""
        factors = self.schedule.factor(step), self.encoder_schedule.factor(step)
        return set_learning_rate(self.optimizer, *factors)


def train_step(
    gradients: Gradients, optimizer: torch.optim.Optimizer, step: Step, *, clip_norm: float
) -> StepResult:
    """The gradient of a step, clipped, and one update. Raises `BatchTooLargeError`."""
    loss_sum = gradients.add(step)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradient_norm = clip_gradients(parameters, clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss_sum, gradient_norm, step.num_tokens, step.num_captions)

"""The gradient of a step: its loss per true token, over all micro-batches and all processes.

Each process adds up the gradients of its own batches, then `DistributedDataParallel` averages over
the processes (FSDP does it for an encoder in parts). The loss is divided by the tokens of the whole
step, which every process knows from the plan, so that neither the number of processes nor how a
step is cut changes the gradient. A process that runs out of memory says so before the others wait
for its gradient; all then give the step up, with nothing changed.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.system.runtime import Runtime
from captioning.training.sharding import is_part, is_sharded
from dataset import Batch, Step
from encoder import VisionEncoder
from model import CaptionModel
from pipeline import encode
from tokenizer import CaptionTokenizer

LossFunction = Callable[[CaptionModel, Tensor, Batch, float], Tensor]


class BatchTooLargeError(Exception):
    """A batch did not fit into the memory of one of the processes; raised in all of them."""

    def __init__(self, captions: int) -> None:
        super().__init__(captions)
        self.captions = captions
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
                loss_sum += self._backward(batch, weight, step.num_tokens)
            except torch.OutOfMemoryError:
                if self._is_sharded:  # the others are amid the same pass
                    raise
                failed = batch.captions
                break
        if failed := self._runtime.most(failed):
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
            missing = self._runtime.most(len(passes)) - len(passes)
            passes += [(step.batches[0], 0.0)] * missing
        return passes

    def _backward(self, batch: Batch, weight: float, num_tokens: int) -> Tensor:
        batch = batch.to(self._runtime.device)
        with self._runtime.autocast():
            features = encode(batch.content, self._encoder)
            loss = self._loss_function(self._model, features, batch, self._label_smoothing)
        # The average divides by the number of processes.
        torch.autograd.backward(loss * (weight * self._runtime.world_size) / num_tokens)
        return loss.detach() * weight

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

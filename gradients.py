"""The gradient of a step: its loss per true token, over all micro-batches and all processes.

Each process adds up the gradients of its own batches, then `DistributedDataParallel` averages over
the processes. The loss is divided by the tokens of the whole step, which every process knows from
the plan, so that neither the number of processes nor how a step is cut changes the gradient. A
process that runs out of memory says so before the others wait for its gradient; all then give the
step up, with nothing changed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning import encode
from dataset import Batch, Step
from encoder import VisionEncoder
from model import CaptionModel
from runtime import Runtime
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


class StepLoss(nn.Module):
    """The loss of a batch as one module of all that is trained."""

    def __init__(
        self,
        model: CaptionModel,
        encoder: VisionEncoder,
        label_smoothing: float,
        loss_function: LossFunction,
    ) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder
        self._label_smoothing, self._loss_function = label_smoothing, loss_function

    def forward(self, batch: Batch | None) -> Tensor:
        """Summed over the batch's tokens; of no batch a 0 in which all parameters have part."""
        if batch is None:
            return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0
        features = encode(batch.content, self.encoder)
        return self._loss_function(self.model, features, batch, self._label_smoothing)


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
        self._runtime = runtime
        self._loss = StepLoss(model, encoder, label_smoothing, loss_function)
        self._statistics = _running_statistics(encoder)
        self._replica = runtime.replica(self._loss)
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
        for batch in step.batches:
            try:
                loss_sum += self._backward(batch, step)
            except torch.OutOfMemoryError:
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
        self._loss.zero_grad(set_to_none=True)

    def _backward(self, batch: Batch, step: Step) -> Tensor:
        batch = batch.to(self._runtime.device)
        with self._runtime.autocast():
            loss: Tensor = self._loss(batch)
        # DDP divides by the number of processes.
        scale = step.weight * self._runtime.world_size
        torch.autograd.backward(loss * scale / step.num_tokens)
        return loss.detach() * step.weight

    def _average(self) -> None:
        """Average gradients, and what BatchNorm has seen, over the processes."""
        if self._replica is not self._loss:
            torch.autograd.backward(self._replica(None))
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

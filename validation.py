"""How good the model is on held-out pictures: loss per true token, and scores of its captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captioning import CaptionPipeline, TextCaption, each_batch, encode, in_batches
from dataset import CaptionDataset, PictureRows
from decoding import SearchOptions
from gradients import caption_loss
from metrics import score_captions
from records import Record
from run_events import Sample


@dataclass(frozen=True)
class ValidationResult:
    """The result of one validation."""

    metrics: dict[str, float]
    """`validation_loss`, per token without label smoothing, and the caption metrics."""
    samples: tuple[Sample, ...]
    """The pictures that were captioned, in the order of the split."""


@torch.inference_mode()
def validation_loss(
    pipeline: CaptionPipeline, captions: CaptionDataset, pictures: PictureRows, *, batch_size: int
) -> float:
    """Cross-entropy per true token over the whole split, in nats."""
    runtime = pipeline.runtime
    plan = captions.plan(batch_size)
    groups = len(plan.pictures)
    first = groups * runtime.rank // runtime.world_size
    stop = groups * (runtime.rank + 1) // runtime.world_size

    def sums(part: range) -> Tensor:
        """The loss and the tokens of some groups of this process's share."""
        own = slice(first + part.start, first + part.stop)
        batch = captions.collate_fn(plan, own, pictures).to(runtime.device)
        with runtime.autocast():
            features = encode(batch.content, pipeline.encoder)
            loss = caption_loss(pipeline.model, features, batch, label_smoothing=0.0)
        return torch.tensor([loss.item(), batch.num_tokens], dtype=torch.float64)

    total = torch.zeros(2, dtype=torch.float64)
    most = int(np.diff(plan.step_starts).max(initial=1))
    for part in each_batch(stop - first, sums, batch_size=most):
        total += part
    loss_sum, num_tokens = runtime.sum_over_processes(total.to(runtime.device)).tolist()
    return float(loss_sum / num_tokens)


def caption_records(
    pipeline: CaptionPipeline,
    records: Sequence[Record],
    pictures: PictureRows,
    options: SearchOptions,
) -> list[TextCaption]:
    """The best caption of each record; the processes share the work, each gets all results."""
    mine = pipeline.runtime.shared(list(range(len(records))))

    def caption(batch: range) -> list[TextCaption]:
        numbers = [mine[i] for i in batch]
        features = pipeline.features(pictures.rows(torch.tensor(numbers)))
        found = pipeline.captions(features, options, picture_numbers=numbers)
        return [captions[0] for captions in found]

    return pipeline.runtime.gather(in_batches(len(mine), caption))


def validate(
    pipeline: CaptionPipeline,
    captions: CaptionDataset,
    records: Sequence[Record],
    pictures: PictureRows,
    *,
    batch_size: int,
    num_images: int,
    options: SearchOptions,
) -> ValidationResult:
    """Loss over the split, scores over its first `num_images` pictures (-1 = all, 0 = none)."""
    pipeline.model.eval()
    pipeline.encoder.eval()
    try:
        loss = validation_loss(pipeline, captions, pictures, batch_size=batch_size)
        chosen = records if num_images < 0 else records[:num_images]
        if not chosen:
            return ValidationResult({"validation_loss": loss}, ())
        found = caption_records(pipeline, chosen, pictures, options)
    finally:
        pipeline.model.train()
        pipeline.encoder.train()
    samples = tuple(
        Sample(record.image, caption.text, record.captions)
        for record, caption in zip(chosen, found, strict=True)
    )
    scores = score_captions(
        {str(sample.image): sample.caption for sample in samples},
        {str(sample.image): sample.references for sample in samples},
    )
    return ValidationResult({"validation_loss": loss} | scores.corpus, samples)

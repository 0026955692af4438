"""How good the model is on held-out pictures: loss per true token, and scores of its captions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from captioning.decoding import SearchOptions
from captioning.metrics.coco import score_captions
from captioning.sources.records import CaptionedPicture
from captioning.store.rows import PictureRows
from captioning.system.errors import UserError
from dataset import CaptionDataset, Split
from encoder import encode
from optimization import caption_loss
from pipeline import CaptionPipeline, each_shared_batch


@dataclass(frozen=True)
class ValidationResult:
    """The result of one validation."""

    metrics: dict[str, float]
    """`validation_loss`, per token without label smoothing, and the caption metrics."""
    samples: tuple[CaptionedPicture, ...]
    """The pictures that were captioned, in the order of the split."""
    tokenizer: str = ""
    """Which tokens the scores count (`captioning.metrics.tokenizers`); "" where there are none."""


@torch.inference_mode()
def validation_loss(
    pipeline: CaptionPipeline,
    captions: CaptionDataset,
    pictures: PictureRows,
    *,
    batch_size: int,
    check_stop: Callable[[], None] = lambda: None,
) -> float:
    """Cross-entropy per true token over the whole split, in nats; the processes share the work."""
    runtime = pipeline.runtime
    plan = captions.plan(batch_size)

    def sums(groups: Sequence[int]) -> list[tuple[float, int]]:
        """The loss and the tokens of some groups."""
        batch = captions.collate_fn(plan, np.array(groups), pictures).to(runtime.device)
        with runtime.autocast():
            features = encode(batch.content, pipeline.encoder)
            loss = caption_loss(pipeline.model, features, batch, label_smoothing=0.0)
        return [(loss.item(), batch.num_tokens)]

    max_groups = int(np.diff(plan.step_starts).max(initial=1))
    batches = each_shared_batch(
        runtime, len(plan.pictures), sums, batch_size=max_groups, check_stop=check_stop
    )
    parts = [part for batch in batches for part in batch]
    return sum(loss for loss, _ in parts) / sum(tokens for _, tokens in parts)


def validate(
    pipeline: CaptionPipeline,
    split: Split,
    *,
    batch_size: int,
    num_images: int,
    options: SearchOptions,
    check_stop: Callable[[], None] = lambda: None,
) -> ValidationResult:
    """Loss over the split, scores over its first `num_images` pictures (-1 = all, 0 = none); one
    picture, or pictures of equal references, have no CIDEr.

    `check_stop` is called now and then, and may raise `Stopped`.
    """
    with pipeline.evaluating():
        loss = validation_loss(
            pipeline, split.captions, split.pictures, batch_size=batch_size, check_stop=check_stop
        )
        if not math.isfinite(loss):
            raise UserError(
                "the validation loss is not a finite number: the weights are broken, or features "
                "of a validation picture are. Go on from the last checkpoint with a lower "
                "--LEARNING_RATE, or with --PRECISION fp32."
            )
        chosen = split.records if num_images < 0 else split.records[:num_images]
        if not chosen:
            return ValidationResult({"validation_loss": loss}, ())
        batches = pipeline.best_captions(
            len(chosen),
            lambda numbers: pipeline.features(split.pictures.rows(torch.tensor(numbers))),
            options,
            check_stop=check_stop,
        )
        found = [caption for batch in batches for caption in batch]
    samples = tuple(
        CaptionedPicture(record.image, caption.text, record.captions)
        for record, caption in zip(chosen, found, strict=True)
    )
    scores = score_captions(
        {str(sample.image): sample.caption for sample in samples},
        {str(sample.image): sample.references for sample in samples},
    )
    metrics = {"validation_loss": loss} | scores.corpus
    if not scores.has_cider:
        del metrics["CIDEr"]
    return ValidationResult(metrics, samples, scores.tokenizer)

"""Does speed cost quality? Validation loss by storage of features, and ours against the plain path.

    python benchmarks/quality.py --images photos --captions captions.txt --json benchmark.json

A small decoder is trained on the frozen features of a small random encoder, with several seeds:
features kept in float32, float16 and bfloat16; and in float32 the plain way, each caption on its
own and padded, instead of packed with its picture's other captions. What a change does to the loss
is to be seen beside what another seed does to it. Writes nothing but the JSON file asked for.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import Tensor, nn

from captioning.sources.caption_files import read_captions
from captioning.sources.images import load_image
from captioning.sources.records import Record
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from config import Config
from dataset import Batch, CaptionDataset, StepDataset, iterate_steps
from encoder import VisionEncoder
from model import CaptionModel
from optimization import (
    CrossEntropy,
    Gradients,
    Schedule,
    build_optimizer,
    caption_loss,
    set_learning_rate,
    train_step,
)
from pipeline import CaptionPipeline
from tokenizer import CaptionTokenizer, train_tokenizer
from validation import validation_loss

ENCODER = "random:presets/encoders/resnet-small"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on."""

    images: str
    """Folder of pictures."""
    captions: str
    """Their captions, in any format that prepare_dataset.py reads."""
    epochs: int = 4
    """Epochs of each training."""
    seeds: int = 3
    """Seeds of each kind."""
    json: str = ""
    """File for the numbers as JSON."""


class Rows:
    """Features in memory, as they would be read from a store of `dtype`."""

    def __init__(self, features: Tensor, dtype: torch.dtype) -> None:
        self._features = features.to(dtype)

    def rows(self, indices: Tensor) -> Tensor:
        """(B, P, F) of row numbers."""
        return self._features[indices]


def as_plain(batch: Batch) -> Batch:
    """The same captions, each with its own copy of its picture, padded to the longest."""
    packing = batch.packing
    assert packing.slots is not None
    grid = torch.zeros(3, packing.rows * packing.length, dtype=torch.long)
    grid[2] = torch.arange(packing.length).repeat(packing.rows)
    grid[0, packing.slots], grid[1, packing.slots] = batch.inputs, batch.targets
    copies = packing.rows // len(batch.picture_rows)
    return Batch(
        picture_rows=batch.picture_rows.repeat_interleave(copies),
        content=batch.content.repeat_interleave(copies, 0),
        inputs=grid[0],
        targets=grid[1],
        positions=grid[2],
        packing=Packing(packing.rows, packing.length),
        num_captions=batch.num_captions,
    )


def plain_step(
    model: CaptionModel, optimizer: torch.optim.Optimizer, batches: list[Batch], true_tokens: int
) -> float:
    """One update on padded captions; returns the loss summed over true tokens."""
    loss = torch.zeros(())
    for batch in map(as_plain, batches):
        loss = loss + caption_loss(model, batch.content.float(), batch, 0.0)
    torch.autograd.backward(loss / true_tokens)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def train(
    seed: int,
    splits: dict[str, tuple[CaptionDataset, Tensor]],
    dtype: torch.dtype,
    tokenizer: CaptionTokenizer,
    epochs: int,
    *,
    is_plain: bool = False,
) -> dict[str, Any]:
    """Train once; the training loss of each epoch and the validation loss, per token."""
    config = Config(
        PROJECTION_DIM=128,
        DECODER_EMBED_DIM=128,
        DECODER_LAYERS=2,
        DECODER_HEADS=4,
        DECODER_FF_DIM=256,
        BATCH_SIZE=64,
        LEARNING_RATE=1e-3,
    )
    captions, features = splits["train"]
    torch.manual_seed(seed)
    model = CaptionModel.from_config(
        config,
        patches=features.shape[1],
        feature_dim=features.shape[2],
        vocab_size=len(tokenizer),
    )
    encoder: Any = nn.Identity()
    runtime = Runtime(torch.device("cpu"))
    optimizer = build_optimizer(
        model,
        encoder,
        learning_rate=config.LEARNING_RATE,
        encoder_learning_rate=0.0,
        weight_decay=config.WEIGHT_DECAY,
        betas=(config.ADAM_BETA1, config.ADAM_BETA2),
        eps=config.ADAM_EPS,
    )
    gradients = Gradients(model, encoder, runtime, CrossEntropy(0.0))
    rows = Rows(features, dtype)
    plans = [captions.plan(config.BATCH_SIZE, seed=seed, epoch=epoch) for epoch in range(epochs)]
    schedule = Schedule(sum(map(len, plans)), 100)
    curve, step = [], 0
    for plan in plans:
        loss_sum, tokens = 0.0, 0
        for part in iterate_steps(StepDataset(captions, plan, rows)):
            set_learning_rate(optimizer, schedule.factor(step))
            runtime.seed_step(seed, step)
            if is_plain:
                loss_sum += plain_step(model, optimizer, part.batches, part.num_tokens)
            else:
                result = train_step(gradients, optimizer, part, clip_norm=1.0)
                loss_sum += result.loss_sum.item()
            tokens += part.num_tokens
            step += 1
        curve.append(loss_sum / tokens)
    pipeline = CaptionPipeline(encoder, model.eval(), tokenizer, runtime, config.MAX_SEQ_LEN)
    held_out, held_features = splits["validation"]
    loss = validation_loss(pipeline, held_out, Rows(held_features, dtype), batch_size=256)
    return {"training_loss": curve, "validation_loss": loss}


@torch.inference_mode()
def encode(images: Sequence[Path]) -> Tensor:
    """(N, P, F) float32 features of pictures."""
    encoder = VisionEncoder.from_pretrained(ENCODER)
    parts = [
        encoder(torch.stack([encoder.preprocess(load_image(one)) for one in images[i : i + 64]]))
        for i in range(0, len(images), 64)
    ]
    return torch.cat(parts).clone()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    pictures = read_captions(options.captions)
    records = [
        Record(Path(options.images) / one.file_name, tuple(one.captions)) for one in pictures
    ]
    cut = len(records) * 4 // 5
    tokenizer = train_tokenizer((c for r in records[:cut] for c in r.captions), 2000)
    splits = {
        name: (CaptionDataset(part, tokenizer, 64), encode([record.image for record in part]))
        for name, part in (("train", records[:cut]), ("validation", records[cut:]))
    }
    kinds: dict[str, tuple[torch.dtype, bool]] = {
        "float32": (torch.float32, False),
        "float16": (torch.float16, False),
        "bfloat16": (torch.bfloat16, False),
        "float32, plain path": (torch.float32, True),
    }
    found: dict[str, list[dict[str, Any]]] = {
        kind: [
            train(seed, splits, dtype, tokenizer, options.epochs, is_plain=is_plain)
            for seed in range(options.seeds)
        ]
        for kind, (dtype, is_plain) in kinds.items()
    }
    base = [run["validation_loss"] for run in found["float32"]]
    results: dict[str, Any] = {"spread_over_seeds": statistics.stdev(base), "runs": found}
    print(f"{'':22}{'validation loss of each seed':32}{'mean change, same seed':>24}")
    for kind, runs in found.items():
        losses = [run["validation_loss"] for run in runs]
        change = statistics.mean(abs(a - b) for a, b in zip(losses, base, strict=True))
        results[kind] = {"validation_loss": losses, "mean_absolute_change": change}
        shown = "  ".join(f"{loss:.4f}" for loss in losses)
        print(f"{kind:22}{shown:32}{change:24.5f}")
    print(f"standard deviation over seeds: {results['spread_over_seeds']:.5f}")
    for kind in ("float32", "float32, plain path"):
        curve = "  ".join(f"{loss:.4f}" for loss in found[kind][0]["training_loss"])
        print(f"training loss by epoch, seed 0, {kind}: {curve}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)

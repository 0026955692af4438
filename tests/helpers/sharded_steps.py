"""A few steps with an encoder that is whole in each process, and with one in parts; by torchrun.

    torchrun --nproc-per-node 2 -m tests.helpers.sharded_steps FOLDER

FOLDER holds small data and a tiny CLIP; writes there, for each way to train, the weights after the
steps of both, and their losses.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from captioning.sources.records import read_records
from captioning.store.rows import LivePictures
from captioning.store.views import TrainingPictures
from captioning.system.runtime import Runtime
from captioning.training.sharding import clip_gradients, full_tensor, is_part, shard
from captioning.vision.blocks import blocks_of
from config import Config, parse_config
from dataset import CaptionDataset, PreparedSteps
from encoder import VisionEncoder
from model import CaptionModel
from optimization import CrossEntropy, Gradients, build_optimizer
from tests.helpers.small_runs import arguments
from tokenizer import train_tokenizer

WAYS: dict[str, dict[str, object]] = {
    "fp32": {},
    "checkpointing": {"GRADIENT_CHECKPOINTING": True},
    "bf16": {"PRECISION": "bf16"},
    "both": {"GRADIENT_CHECKPOINTING": True, "PRECISION": "bf16"},
    "last block": {"ENCODER_TRAINED_BLOCKS": 1},
}
STEPS = 4


def steps_of(config: Config, runtime: Runtime) -> dict[str, Tensor]:
    """Losses and weights after some steps."""
    records = read_records(config.dataset_dir / "train")
    texts = [text for record in records for text in record.captions]
    tokenizer = train_tokenizer(texts, config.VOCAB_SIZE)
    encoder = VisionEncoder.from_settings(config)
    encoder.prepare_training(config)
    computed = []
    part = next(blocks_of(encoder)[-1].children())
    part.register_forward_hook(lambda *_: computed.append(1))
    torch.manual_seed(0)
    model = CaptionModel.from_config(
        config,
        patches=encoder.num_tokens,
        feature_dim=encoder.feature_dim,
        vocab_size=len(tokenizer),
    )
    if config.SHARDING == "on":
        shard(encoder, runtime)
        assert any(is_part(parameter) for parameter in encoder.parameters())
    optimizer = build_optimizer(
        model,
        encoder,
        learning_rate=1e-3,
        encoder_learning_rate=1e-3,
        encoder_layer_decay=1.0,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    pictures = LivePictures([record.image for record in records], encoder.preprocessor)
    captions = CaptionDataset(records, tokenizer, config.MAX_SEQ_LEN)
    steps = PreparedSteps(records, captions, TrainingPictures(pictures), runtime, 20, seed=1)
    encoder.train()
    model.train()
    gradients = Gradients(model, encoder, runtime, CrossEntropy(0.1))
    losses = []
    for step, _ in zip(steps.iterate(0, micro_batch_size=7), range(STEPS), strict=False):
        losses.append(runtime.sum_over_processes(gradients.add(step)) / step.num_tokens)
        clip_gradients([*model.parameters(), *encoder.parameters()], 1.0)
        optimizer.step()
        gradients.drop()
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    weights |= {
        f"encoder.{name}": full_tensor(tensor) for name, tensor in encoder.state_dict().items()
    }
    counted = {"losses": torch.stack(losses), "computed": torch.tensor(len(computed))}
    return counted | {
        name: tensor.detach().clone().contiguous() for name, tensor in weights.items()
    }


def main(folder: Path) -> None:
    """Take the steps in each way, whole and in parts."""
    for way, changes in WAYS.items():
        settings = {"ENCODER_TRAINED_BLOCKS": -1, "DECODER_DROPOUT": 0, "VOCAB_SIZE": 300}
        config = parse_config(arguments(folder, **{**settings, **changes}))
        runtime = Runtime.create("cpu", config.PRECISION)
        for sharding in ("off", "on"):
            found = steps_of(replace(config, SHARDING=sharding), runtime)
            if runtime.is_main:
                save_file(found, folder / f"{way} {sharding}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

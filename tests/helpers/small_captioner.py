"""A checkpoint of a small captioner that has learnt six captions of drawn scenes, more or less."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from captioning.gpt2.architecture import GPT2Architecture
from captioning.scenes import draw_scene, make_scene
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from checkpoint import save_checkpoint
from config import Config
from model import CaptionModel
from pipeline import CaptionPipeline
from tests.helpers.small_runs import write_encoder

SMALL = Config(
    DATASET="demo",
    RUN_NAME="run",
    PROJECTION_DIM=16,
    DECODER_EMBED_DIM=16,
    DECODER_LAYERS=2,
    DECODER_HEADS=2,
    DECODER_FF_DIM=32,
    DECODER_DROPOUT=0.0,
    MEMORY_LAYERS=1,
    VOCAB_SIZE=300,
    MAX_SEQ_LEN=12,
    BEAM_SIZE=3,
    LENGTH_PENALTY=0.7,
)
SCENES = [draw_scene(make_scene(3, number)) for number in range(6)]
CAPTIONS = [
    "a red ball",
    "two blue boxes stand on the grass",
    "the sun",
    "a tree beside a house",
    "a boat on the sea at night",
    "a red kite over a green hill",
]


def save_captioner(
    place: Path, card: str = "# run\n", *, gpt2: GPT2Architecture | None = None, **changes: Any
) -> Path:
    """`best` of a run under `place`, which has learnt the captions of `SCENES` more or less; with
    a decoder of GPT-2's architecture, if one is given."""
    places = {"ENCODER_MODEL_NAME": str(write_encoder(place)), "OUTPUT_DIR": str(place / "runs")}
    config = replace(SMALL, **{**places, **changes})
    pipeline = CaptionPipeline.from_settings(config, Runtime.create("cpu", "fp32"), CAPTIONS)
    if gpt2 is not None:
        model = CaptionModel.from_config(
            config,
            patches=pipeline.encoder.num_tokens,
            feature_dim=pipeline.encoder.feature_dim,
            vocab_size=len(pipeline.tokenizer),
            gpt2=gpt2,
        )
        pipeline = replace(pipeline, model=model)
    learn(pipeline)
    folder = config.run_dir / "best"
    save_checkpoint(folder, pipeline, config, metrics={"CIDEr": 0.5}, card=card)
    return folder


def learn(pipeline: CaptionPipeline, steps: int = 50) -> None:
    """A little, so that chances are neither all alike nor all one."""
    pixels = torch.stack([pipeline.encoder.preprocess(scene) for scene in SCENES])
    features = pipeline.features(pixels).clone()
    rows = pipeline.tokenizer.encode_all(CAPTIONS, pipeline.max_length)
    longest = max(map(len, rows)) - 1
    pad = pipeline.tokenizer.pad_id
    padded = torch.tensor([row + [pad] * (longest + 1 - len(row)) for row in rows])
    positions = torch.arange(longest).repeat(len(rows))
    optimizer = torch.optim.Adam(pipeline.model.parameters(), lr=0.015)
    for _ in range(steps):
        inputs = padded[:, :-1].flatten()
        logits = pipeline.model(features, inputs, positions, Packing(len(rows), longest))
        loss = F.cross_entropy(logits, padded[:, 1:].flatten(), ignore_index=pad)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    pipeline.model.eval()

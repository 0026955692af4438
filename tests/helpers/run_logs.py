"""What a run tells its log: facts, figures of a step, scores and samples of a validation."""

from pathlib import Path
from typing import Any

from PIL import Image

from captioning.sources.records import CaptionedPicture
from captioning.tracking.events import RunFacts
from config import Config

FACTS = RunFacts(
    device="cpu, 2 threads, fp32",
    trained_parameters=29_400_000,
    frozen_parameters=87_500_000,
    train_pictures=6000,
    train_captions=30_000,
    validation_pictures=1000,
    scored_tokens="",
    vocabulary=6512,
    steps_per_epoch=100,
    epochs=12,
)
MEASURED = {
    "loss": 2.5,
    "learning_rate": 4e-4,
    "gradient_norm": 0.75,
    "pairs_per_second": 9120.5,
    "waiting_share": 0.015,
    "memory_bytes": 3.5e9,
}
SCORES = {"validation_loss": 2.25, "BLEU-1": 0.61, "BLEU-4": 0.21, "ROUGE-L": 0.44, "CIDEr": 0.55}


def config(folder: Path, **values: Any) -> Config:
    """Settings of `a-run`, which writes below `folder`."""
    settings = {"RUN_NAME": "a-run", "NUM_EPOCHS": 12, "WANDB_MODE": "disabled"} | values
    return Config(OUTPUT_DIR=str(folder), **settings)


def make_samples(folder: Path) -> list[CaptionedPicture]:
    """Three pictures of one colour, of different sizes, with their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for i, size in enumerate(((40, 30), (30, 40), (50, 50))):
        path = folder / f"picture-{i}.png"
        Image.new("RGB", size, (80 * i, 40, 200)).save(path)
        samples.append(CaptionedPicture(path, f"caption {i} of it", (f"what people say of {i}",)))
    return samples

"""Small data, encoders and settings, on which a whole training run takes a second or two."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import train
from captioning.scenes import write_scenes
from tests.helpers.tiny_encoders import FAMILIES

SETTINGS = {
    "DATASET": "small",
    "RUN_NAME": "run",
    "DEVICE": "cpu",
    "WANDB_MODE": "disabled",
    "NUM_WORKERS": "0",
    "PROJECTION_DIM": "16",
    "DECODER_EMBED_DIM": "16",
    "DECODER_LAYERS": "2",
    "DECODER_HEADS": "2",
    "DECODER_FF_DIM": "32",
    "DECODER_DROPOUT": "0.1",
    "VOCAB_SIZE": "320",
    "MAX_SEQ_LEN": "40",
    "BATCH_SIZE": "20",
    "NUM_EPOCHS": "2",
    "LEARNING_RATE": "1e-3",
    "LOG_INTERVAL": "2",
    "VALIDATION_IMAGES": "3",
    "SAVE_INTERVAL": "0",
}

NOT_EXACT = ("pairs_per_second", "waiting_share", "memory_bytes", "time", "seconds", "elapsed")
"""Entries of metrics.jsonl that tell of time and place, which no two runs share."""


def write_data(folder: Path, count: int = 40) -> Path:
    """A small prepared data set of drawn scenes under `folder`; returns DATA_DIR."""
    write_scenes(folder / "data" / "small", seed=0, count=count, size=32)
    return folder / "data"


def write_encoder(folder: Path, family: str = "clip") -> Path:
    """A tiny random checkpoint of a family, saved whole as the Hub has it."""
    path = folder / f"tiny-{family}"
    if not path.exists():
        FAMILIES[family].save(path)
    return path


def arguments(folder: Path, **changes: object) -> list[str]:
    """The command line of a small run whose data and encoder lie under `folder`, without settings
    that are None."""
    places = {
        "DATA_DIR": folder / "data",
        "OUTPUT_DIR": folder / "checkpoints",
        "ENCODER_MODEL_NAME": folder / "tiny-clip",
    }
    settings = {**SETTINGS, **places, **changes}
    given = {name: value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def run(folder: Path, **changes: object) -> Path:
    """Train; returns the run's folder."""
    assert train.main(arguments(folder, **changes)) == 0
    settings = {**SETTINGS, "OUTPUT_DIR": folder / "checkpoints", **changes}
    return Path(str(settings["OUTPUT_DIR"])) / str(settings["RUN_NAME"])


def weights_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, those for going on included."""
    found: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= {f"{path.name}:{key}": tensor for key, tensor in load_file(path).items()}
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Names of tensors that are not equal bit for bit in two checkpoints."""
    first, second = weights_of(one), weights_of(other)
    return sorted(first.keys() ^ second.keys()) + [
        name for name in first if name in second and not first[name].equal(second[name])
    ]


def lines_of(path: Path, without: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file, without the named entries."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: line[key] for key in line if key not in without} for line in lines]

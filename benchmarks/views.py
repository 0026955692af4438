"""What do several views of a picture bring to cached features? Scores by number of views and seed.

    python benchmarks/views.py --data data/demo --checkpoint checkpoints/demo/best --json views.json

The encoder of a checkpoint is frozen and a small decoder is trained on its features, as `train.py`
does it: of the pictures as they are, of 8 views that crop, mirror and colour give, and of 8 views
without crops. All kinds have the same pictures, steps and seeds. For each the best CIDEr and the
least loss of the validations are noted, with mean and standard deviation over seeds. A JSON file
that is there is gone on with, kind by kind.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import train
from captioning.sources.records import Record, read_records, write_records
from captioning.system.errors import run_command
from captioning.system.files import write_json
from captioning.system.options import parse_options
from checkpoint import load_encoder, read_checkpoint

KINDS = {
    "plain": ["--FEATURE_VIEWS", "1"],
    "8 views": ["--FEATURE_VIEWS", "8", "--AUGMENTATION", "crop,flip,colour"],
    "8, no crops": ["--FEATURE_VIEWS", "8", "--AUGMENTATION", "flip,colour"],
}
SETTINGS = (
    "--DATASET few --RUN_NAME run --PROJECTION_DIM 128 --DECODER_EMBED_DIM 128 --DECODER_LAYERS 2 "
    "--DECODER_HEADS 4 --DECODER_FF_DIM 256 --VOCAB_SIZE 1000 --BATCH_SIZE 64 --LEARNING_RATE 2e-3 "
    "--WARMUP_STEPS 50 --VALIDATION_IMAGES -1 --BEAM_SIZE 1 --SAVE_INTERVAL 0 "
    "--WANDB_MODE disabled --NUM_WORKERS 0 --DEVICE cpu"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on."""

    data: str
    """Prepared data set: a folder with train and validation."""
    checkpoint: str
    """Checkpoint folder whose encoder is frozen."""
    pictures: int = 400
    """Training pictures that are used."""
    validation: int = 150
    """Validation pictures that are used."""
    epochs: int = 10
    """Epochs of each training."""
    seeds: int = 3
    """Seeds of each kind."""
    json: str = ""
    """File for the numbers as JSON; what it holds already is not trained again."""


def few(data: Path, folder: Path, counts: dict[str, int]) -> None:
    """A data set of the first pictures of another."""
    for split, count in counts.items():
        records = read_records(data / split)[:count]
        (folder / split).mkdir(parents=True)
        found = []
        for record in records:
            place = folder / split / record.image.name
            place.symlink_to(record.image.resolve())
            found.append(Record(place, record.captions))
        write_records(folder / split, found)


def save_encoder(checkpoint: Path, folder: Path) -> None:
    """The encoder of a checkpoint as `save_pretrained` leaves one."""
    encoder = load_encoder(read_checkpoint(checkpoint))
    tower: Any = encoder.tower
    tower.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", encoder.preprocessor.settings())


def train_once(place: Path, kind: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train; the best of the validations."""
    output = place / "checkpoints" / f"{kind}-{seed}"
    words = [*SETTINGS.split(), *KINDS[kind], "--DATA_DIR", str(place / "data")]
    words += ["--OUTPUT_DIR", str(output), "--ENCODER_MODEL_NAME", str(place / "encoder")]
    began = time.monotonic()
    train.main([*words, "--RANDOM_SEED", str(seed), "--NUM_EPOCHS", str(epochs)])
    lines = (output / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    validations = [line for line in map(json.loads, lines) if "validation_loss" in line]
    return {
        "CIDEr": max(line["CIDEr"] for line in validations),
        "loss": min(line["validation_loss"] for line in validations),
        "last CIDEr": validations[-1]["CIDEr"],
        "last loss": validations[-1]["validation_loss"],
        "seconds": time.monotonic() - began,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, a line a kind."""
    lines = [f"{'':16}{'CIDEr':>16}{'loss':>16}{'last CIDEr':>16}{'last loss':>16}"]
    for kind, seeds in results.items():
        cells = []
        for name in ("CIDEr", "loss", "last CIDEr", "last loss"):
            values = [one[name] for one in seeds.values()]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):9.3f} ±{spread:5.3f}")
        lines.append(f"{kind:16}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train each kind with each seed and print the table."""
    options = parse_options(
        Options,
        sys.argv[1:] if argv is None else argv,
        description=str(__doc__).split("\n\n", 1)[0],
    )
    path = Path(options.json) if options.json else None
    results: dict[str, dict[str, Any]] = {}
    if path and path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        counts = {"train": options.pictures, "validation": options.validation}
        few(Path(options.data), place / "data" / "few", counts)
        save_encoder(Path(options.checkpoint), place / "encoder")
        for seed in range(options.seeds):
            for kind in KINDS:
                done = results.setdefault(kind, {})
                if str(seed) not in done:
                    done[str(seed)] = train_once(place, kind, seed, options.epochs)
                    if path:
                        write_json(path, {"options": vars(options), "results": results})
    print(table(results))
    return 0


if __name__ == "__main__":
    run_command(main)

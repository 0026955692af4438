"""What the corrections are good for: how many count, and the commands that learn from them."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.app.album import Album
from captioning.app.corrections import COUNTED

CORRECTIONS = "corrections.jsonl"
"""The captions file of what was corrected, in the folder."""
FEW = 20
"""With fewer corrections than these, not much can be learnt."""
STEPS, FEWEST_EPOCHS = 200, 5
"""Of a training on corrections: updates, and passes at least."""
FOR_FEW: Mapping[str, Any] = {"BATCH_SIZE": 32, "WARMUP_STEPS": 20, "BEST_METRIC": "loss"}
"""Settings for few captions: CIDEr of a handful of validation pictures is chance."""


@dataclass(frozen=True)
class Beginning:
    """The model that is to learn, as the command names it."""

    checkpoint: str
    settings: Mapping[str, object]
    """How it was trained, where that holds for what is learnt on too; rates lowered already."""
    old_data: str = ""
    """Its prepared data set, where that lies on this machine."""
    data_dir: str = "data"
    """Where prepared data sets are made."""


def commands(album: Album, beginning: Beginning, count: int) -> dict[str, str]:
    """What to type to learn from `count` corrections: from them alone, or with the old data; and
    to look again with what has learnt."""
    name = re.sub(r"\W+", "-", album.folder.resolve().name).strip("-") or "pictures"
    dataset, run = f"{name}-corrected", f"{name}-corrected-{count}"
    source: list[str | Path] = ["--DATASET", dataset, "--IMAGE_DIR", album.folder]
    source += ["--CAPTIONS_FILE", album.corrections.path]
    usual = ["--RUN_NAME", run, "--INIT_CHECKPOINT_PATH", beginning.checkpoint]
    for name, value in {**beginning.settings, **FOR_FEW}.items():
        usual += [f"--{name}", str(value)]
    epochs = max(FEWEST_EPOCHS, -(-STEPS // max(1, -(-count // FOR_FEW["BATCH_SIZE"]))))
    long = ["--NUM_EPOCHS", str(epochs), "--VALIDATION_INTERVAL", str(max(1, epochs // 10))]
    found = {"alone": _typed("python", "train.py", *source, *usual, *long)}
    if beginning.old_data:
        stream = f"{Path(beginning.data_dir) / dataset} = 1; {beginning.old_data} = 1"
        mixed = ["--DATASET", dataset, "--STREAM", stream, "--STREAM_STEPS_PER_EPOCH"]
        mixed += [str(STEPS // 10), "--NUM_EPOCHS", "10"]
        if not beginning.settings.get("ENCODER_TRAINED_BLOCKS"):
            mixed += ["--FEATURE_CACHE", "1GB"]
        prepare = _typed("python", "prepare_dataset.py", *source)
        found["mixed"] = f"{prepare}\n{_typed('python', 'train.py', *mixed, *usual)}"
    best = Path("checkpoints") / run / "best"
    again: list[str | Path] = ["--folder", album.folder]
    if album.corrections.path != album.folder / CORRECTIONS:
        again += ["--corrections", album.corrections.path]
    return {**found, "next": _typed("python", "app.py", "--checkpoint", best, *again)}


def summary(album: Album, beginning: Beginning) -> dict[str, Any]:
    """What the page says of learning. Writes the captions file."""
    album.corrections.write(album.number_of.__contains__)
    counts = album.counts()
    count = sum(counts[status] for status in COUNTED)
    return {
        "counts": counts,
        "count": count,
        "few": count < FEW,
        "file": str(album.corrections.path),
        "journal": str(album.corrections.journal_path),
        "commands": commands(album, beginning, count),
    }


def _typed(*words: str | Path) -> str:
    return shlex.join(str(word) for word in words)


def drafts_path(corrections: Path, fingerprint: str) -> Path:
    """Where drafts of a model are kept: hidden, beside the corrections."""
    return corrections.with_name(f".{corrections.stem}.drafts-{fingerprint[:12]}.jsonl")

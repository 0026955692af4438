"""What the corrections are good for: how many count, and the commands that learn from them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.app.album import Album
from captioning.app.corrections import COUNTED

CORRECTIONS = "corrections.jsonl"
"""The captions file of what was corrected, in the folder."""
FEW = 20
"""With fewer corrections than these, not much can be learnt."""
STEPS, FEWEST_EPOCHS, SLOWER = 200, 5, 4
"""Of a training on corrections: updates, passes at least, and by how much its rate is lower."""


@dataclass(frozen=True)
class Beginning:
    """The model that is to learn, as the command names it."""

    checkpoint: str
    learning_rate: float
    """That it was trained with; what is learnt on is learnt more slowly."""
    old_data: str = ""
    """Its prepared data set, where that lies on this machine."""
    data_dir: str = "data"
    """Where prepared data sets are made."""
    batch_size: int = 256
    """Captions of a step, where nobody says otherwise."""


def commands(album: Album, beginning: Beginning, count: int) -> dict[str, str]:
    """What to type to learn from `count` corrections: from them alone, or with the old data; and
    to look again with what has learnt."""
    name = re.sub(r"\W+", "-", album.folder.resolve().name).strip("-") or "pictures"
    dataset, run = f"{name}-corrected", f"{name}-corrected-{count}"
    source: list[str | Path] = ["--DATASET", dataset, "--IMAGE_DIR", album.folder]
    source += ["--CAPTIONS_FILE", album.corrections.path]
    usual = ["--RUN_NAME", run, "--INIT_CHECKPOINT_PATH", beginning.checkpoint]
    usual += ["--LEARNING_RATE", f"{beginning.learning_rate / SLOWER:.2g}", "--WARMUP_STEPS", "20"]
    steps = -(-count // beginning.batch_size) or 1  # of an epoch
    epochs = max(FEWEST_EPOCHS, -(-STEPS // steps))
    long = ["--NUM_EPOCHS", str(epochs), "--VALIDATION_INTERVAL", str(max(1, epochs // 10))]
    found = {"alone": _typed("python", "train.py", *source, *usual, *long)}
    if beginning.old_data:
        stream = f"{Path(beginning.data_dir) / dataset} = 1; {beginning.old_data} = 1"
        mixed = ["--DATASET", dataset, "--STREAM", stream, "--STREAM_STEPS_PER_EPOCH"]
        mixed += [str(STEPS // 10), "--NUM_EPOCHS", "10", "--FEATURE_CACHE", "1GB"]
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

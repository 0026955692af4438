"""What the program gives, to the last bit: recorded before a change of the code and compared after.

    python tests/reference/reference.py inputs PLACE           data, encoder, shards; once
    python tests/reference/reference.py record PLACE OUT.json  run everything, keep what came out
    python tests/reference/reference.py compare A.json B.json  what differs; exit code 1 if any does

Run it from the root of the code that is to be recorded. Bits differ from machine to machine, so
both records are made on one. What is kept: hashes of every weight file, logs without their clocks,
numbers, printed text, every `--help`.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NOT_EXACT = ("pairs_per_second", "waiting_share", "memory_bytes", "time", "seconds", "elapsed")
SETTINGS = (
    "--DATASET small --DEVICE cpu --WANDB_MODE disabled --NUM_WORKERS 0 --PROJECTION_DIM 16 "
    "--DECODER_EMBED_DIM 16 --DECODER_LAYERS 2 --DECODER_HEADS 2 --DECODER_FF_DIM 32 "
    "--VOCAB_SIZE 320 --MAX_SEQ_LEN 40 --BATCH_SIZE 20 --NUM_EPOCHS 2 --LEARNING_RATE 1e-3 "
    "--LOG_INTERVAL 2 --VALIDATION_IMAGES 3 --ENCODER_MODEL_NAME encoder --OUTPUT_DIR runs"
).split()
RUNS = {
    "cached": "",
    "unsmoothed": "--LABEL_SMOOTHING 0 --MICRO_BATCH_SIZE 8 --CAPTIONS_PER_STEP 2",
    "averaged": "--EMA_DECAY 0.9 --FEATURE_VIEWS 3 --AUGMENTATION crop,flip",
    "trained": "--ENCODER_TRAINED_BLOCKS 2 --ENCODER_LAYER_DECAY 0.8 --AUGMENTATION flip,colour",
    "late": "--ENCODER_TRAINED_BLOCKS 1 --ENCODER_START_EPOCH 1 --ENCODER_LEARNING_RATE 1e-3",
    "stream": "--STREAM a/*.tar=3;b/*.parquet=1 --STREAM_STEPS_PER_EPOCH 4",
}
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "100",
    "PATH": os.path.dirname(sys.executable),  # without Java, whose scores take minutes
}
COMMANDS = ("prepare_dataset", "tokenizer", "features", "train", "generate", "evaluate", "compare")
PLAN = """
DATASET = "small"
[compare]
SEEDS = [1, 2]
[models.narrow]
DECODER_FF_DIM = 16
[models.wide]
DECODER_FF_DIM = 48
"""


def make_inputs(place: Path) -> None:
    """Data, an encoder and shards, the same for every record."""
    sys.path.insert(0, os.getcwd())
    from tests.helpers.small_runs import write_data, write_encoder
    from tests.helpers.streams import write_parquet, write_shards

    write_data(place)
    write_encoder(place).rename(place / "encoder")
    write_shards(place / "a")
    for shard in range(3):
        write_parquet(place / "b" / f"{shard}.parquet", range(500 + shard * 9, 509 + shard * 9))
    (place / "plan.toml").write_text(PLAN)


class Record:
    """Runs commands in a copy of the inputs and keeps what they give."""

    def __init__(self, place: Path) -> None:
        self.code, self.work = Path.cwd(), place.with_name(f"{place.name}-work")
        self.found: dict[str, Any] = {}
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(place, self.work)

    def run(self, name: str, script: str, *words: str, processes: int = 1) -> None:
        """Run a command; its text and exit code are kept under a name."""
        together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        start = together if processes > 1 else []
        done = subprocess.run(
            [sys.executable, *start, str(self.code / script), *words],
            cwd=self.work,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        self.found[f"printed {name}"] = [_timeless(done.stdout), done.returncode]
        if done.returncode:
            print(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}", file=sys.stderr)

    def keep_run(self, folder: str) -> None:
        """Keep a run's weights, states and logs."""
        for path in sorted((self.work / folder).glob("*/*.safetensors")):
            name = f"weights {path.relative_to(self.work)}"
            self.found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((self.work / folder).rglob("*.json*")):
            if path.name in ("metrics.jsonl", "samples.jsonl", "metrics.json", "tokenizer.json"):
                lines = path.read_text().splitlines() if path.suffix == ".jsonl" else None
                values = [json.loads(line) for line in lines or [path.read_text()]]
                self.found[f"log {path.relative_to(self.work)}"] = [_exact(one) for one in values]


def record(place: Path, out: Path) -> None:
    """Run everything and write what came out."""
    kept = Record(place)
    for command in COMMANDS:
        kept.run(f"help {command}", f"{command}.py", "--help")
    for name, changes in RUNS.items():
        kept.run(name, "train.py", *_settings(f"--RUN_NAME {name} {changes}"))
    kept.run("two", "train.py", *_settings("--RUN_NAME two"), processes=2)
    kept.run("demo", "train.py", *_demo())
    again = "--RUN_NAME cached --RESUME_CHECKPOINT_PATH auto --NUM_EPOCHS 3"
    kept.run("resumed", "train.py", *_settings(again))
    shown = ("--image", "data/small/test", "--device", "cpu")
    for name in ("cached/best", "trained/last", "stream/best"):
        checkpoint = ("--checkpoint", f"runs/{name}")
        kept.run(f"generate {name}", "generate.py", *checkpoint, *shown)
    sample = "--method sample --num-captions 3 --top-p 0.9 --seed 3 --json".split()
    kept.run("sample", "generate.py", "--checkpoint", "runs/cached/best", *shown, *sample)
    diverse = "--method diverse --num-captions 3 --beam-size 6 --groups 3 --json".split()
    kept.run("diverse", "generate.py", "--checkpoint", "runs/cached/best", *shown, *diverse)
    draw = "--limit 1 --attention words.png --force red --forbid the".split()
    kept.run("attention", "generate.py", "--checkpoint", "runs/demo/best", *shown, *draw)
    kept.found["picture"] = hashlib.sha256((kept.work / "words.png").read_bytes()).hexdigest()
    for name, limit in (("cached", 0), ("demo", 40)):
        words = ("--checkpoint", f"runs/{name}/best", "--limit", str(limit), "--device", "cpu")
        kept.run(f"evaluate {name}", "evaluate.py", *words)
    both = ("--checkpoint", "runs/cached/best", "runs/two/best", "--output", "both")
    kept.run("evaluate both", "evaluate.py", *both, "--device", "cpu")
    few = [word for word in SETTINGS if word not in ("--DATASET", "small")]
    kept.run("compare", "compare.py", "--config", "plan.toml", *few)
    for folder in ("runs", "both"):
        for path in sorted((kept.work / folder).glob("*")):
            kept.keep_run(str(path.relative_to(kept.work)))
    kept.keep_run("both")
    out.write_text(json.dumps(kept.found, indent=1, sort_keys=True, ensure_ascii=False))


def _settings(changes: str) -> list[str]:
    """The flags of a small run with some of them changed."""
    words = changes.split()
    flags = dict(zip(SETTINGS[::2], SETTINGS[1::2], strict=True))
    flags |= dict(zip(words[::2], words[1::2], strict=True))
    return [word for pair in flags.items() for word in pair]


def _demo() -> Sequence[str]:
    names = ("DATA_DIR", "data"), ("OUTPUT_DIR", "runs"), ("NUM_EPOCHS", "1"), ("DEVICE", "cpu")
    flags = [word for name, value in names for word in (f"--{name}", value)]
    preset = str(Path.cwd() / "presets" / "demo.toml")
    encoder = f"random:{Path.cwd() / 'presets' / 'encoders' / 'resnet-small'}"
    return ["--config", preset, *flags, "--ENCODER_MODEL_NAME", encoder, "--WANDB_MODE", "disabled"]


def _exact(value: Any) -> Any:
    """JSON without what tells of time and place."""
    if isinstance(value, dict):
        gone = (*NOT_EXACT, "provenance", "settings", "hardware")
        return {key: _exact(one) for key, one in value.items() if key not in gone}
    return [_exact(one) for one in value] if isinstance(value, list) else value


def _timeless(text: str) -> str:
    """Printed text without times, rates and dates."""
    text = re.sub(r"[\d,]+ pairs/s", "# pairs/s", text)
    text = re.sub(r"\d+:\d\d(:\d\d)?", "#", text)
    text = re.sub(r"\d\d\d\d-\d\d-\d\d", "#", text)
    text = re.sub(r"about \d+ minutes to go|nearly done", "# to go", text)
    text = re.sub(r"[\d.]+ (s|minutes|hours|kWh|Wh)\b", r"# \1", text)
    text = re.sub(r" +", " ", text)
    return text.replace(os.getcwd(), "ROOT")


def compare(first: Path, second: Path) -> int:
    """Print what differs between two records; returns how many entries do."""
    one, other = json.loads(first.read_text()), json.loads(second.read_text())
    different = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    for key in different:
        print(f"differs: {key}\n  {str(one.get(key))[:600]}\n  {str(other.get(key))[:600]}")
    print(f"{len(one)} entries, {len(different)} differ")
    return len(different)


if __name__ == "__main__":
    action, *paths = sys.argv[1:]
    if action == "inputs":
        make_inputs(Path(paths[0]).resolve())
    elif action == "record":
        record(Path(paths[0]).resolve(), Path(paths[1]).resolve())
    else:
        sys.exit(min(compare(Path(paths[0]), Path(paths[1])), 1))

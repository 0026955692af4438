"""The ladder on real photographs: from a plain recipe to the best one, one lever a rung.

    python benchmarks/photos.py --data data/flickr8k --encoder FOLDER --output ladder
    python benchmarks/photos.py ... --rungs "plain" "memory layers" --seeds 1 2 3

Each rung is a training by `train.py`, from nothing or on from the model of the rung that it stands
on, or another search with that model; `evaluate.py` scores its `best` on the validation split. The
table gives mean and standard deviation over seeds. What `output` holds already is not done
again, and a training that was cut off goes on.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import evaluate
import train
from benchmarks.flags import last_of_each
from captioning.system.errors import UserError, run_command
from captioning.system.files import write_json
from captioning.system.options import parse_options

PLAIN = (
    "--PROJECTION_DIM 256 --DECODER_EMBED_DIM 256 --DECODER_LAYERS 3 --DECODER_HEADS 4 "
    "--DECODER_FF_DIM 1024 --DECODER_DROPOUT 0.1 --VOCAB_SIZE 5000 --BATCH_SIZE 64 "
    "--LEARNING_RATE 8e-4 --WARMUP_STEPS 150 --NUM_EPOCHS 4 --VALIDATION_IMAGES -1 "
    "--SAVE_INTERVAL 5m --WANDB_MODE disabled --NUM_WORKERS 0"
)
SHOWN = ("CIDEr", "BLEU-4", "ROUGE-L", "METEOR")


@dataclass(frozen=True)
class Rung:
    """One change of what another rung does."""

    on: str = ""
    """The rung that it stands on."""
    training: str = ""
    """Flags of `train.py` that it adds; none for another search alone."""
    search: str = ""
    """Flags of `evaluate.py` in the place of those of the rung that it stands on."""
    goes_on: bool = False
    """Whether its training begins with that rung's model, and not from nothing."""


NEIGHBOURS = "--beam-size 10 --choose neighbours"
SELF_CRITICAL = "--NUM_EPOCHS 0 --SCST_EPOCHS 2 --BATCH_SIZE 250 --WARMUP_STEPS 20"
OF_BEAMS = f"{SELF_CRITICAL} --SCST_LEARNING_RATE 1e-4 --SCST_SEARCH beam --SCST_EPOCHS 1"
RUNGS = {
    "plain": Rung(),
    "neighbours": Rung("plain", search=NEIGHBOURS),
    "5 beams": Rung("plain", search="--beam-size 5"),
    "plain sums": Rung("plain", search="--beam-size 5 --length-penalty 0"),
    "memory layers": Rung("plain", "--MEMORY_LAYERS 3"),
    "pooled": Rung("plain", "--ENCODER_POOLING 2"),
    "pooled, memory layers": Rung("pooled", "--MEMORY_LAYERS 3"),
    "layer -2": Rung("plain", "--ENCODER_LAYERS -2"),
    "mirrored": Rung("plain", "--FEATURE_VIEWS 2 --AUGMENTATION flip"),
    "2 captions a step": Rung("plain", "--CAPTIONS_PER_STEP 2"),
    "pooled, 2 captions a step": Rung("pooled", "--CAPTIONS_PER_STEP 2"),
    "1 caption a step": Rung("plain", "--CAPTIONS_PER_STEP 1"),
    "smoothing 0": Rung("plain", "--LABEL_SMOOTHING 0"),
    "dropout 0.3": Rung("plain", "--DECODER_DROPOUT 0.3"),
    "half the rate": Rung("plain", "--LEARNING_RATE 4e-4"),
    "twice the rate": Rung("plain", "--LEARNING_RATE 1.6e-3"),
    "warm-up of 10 steps": Rung("plain", "--WARMUP_STEPS 10"),
    "6 layers": Rung("plain", "--DECODER_LAYERS 6"),
    "512 wide": Rung(
        "plain",
        "--PROJECTION_DIM 512 --DECODER_EMBED_DIM 512 --DECODER_FF_DIM 2048 --DECODER_HEADS 8",
    ),
    "vocabulary 2000": Rung("plain", "--VOCAB_SIZE 2000"),
    "average of weights": Rung("plain", "--EMA_DECAY 0.999"),
    "8 epochs": Rung("plain", "--NUM_EPOCHS 8 --DECODER_DROPOUT 0.2 --WARMUP_STEPS 200"),
    "8 epochs, neighbours": Rung("8 epochs", search=NEIGHBOURS),
    "8 epochs, self-critical": Rung("8 epochs", OF_BEAMS, goes_on=True),
    "8 epochs, self-critical, neighbours": Rung("8 epochs, self-critical", search=NEIGHBOURS),
    "self-critical": Rung("plain", f"{SELF_CRITICAL} --SCST_LEARNING_RATE 5e-5", goes_on=True),
    "self-critical, beams": Rung("plain", OF_BEAMS, goes_on=True),
    "self-critical, neighbours": Rung("self-critical, beams", search=NEIGHBOURS),
    "pooled, 2 captions, neighbours": Rung("pooled, 2 captions a step", search=NEIGHBOURS),
    "pooled, 2 captions, self-critical": Rung("pooled, 2 captions a step", OF_BEAMS, goes_on=True),
    "with cross-entropy": Rung("plain", f"{OF_BEAMS} --SCST_CROSS_ENTROPY 0.5", goes_on=True),
    "two blocks trained": Rung(
        "plain",
        "--NUM_EPOCHS 3 --ENCODER_TRAINED_BLOCKS 2 --ENCODER_LEARNING_RATE 5e-5 "
        "--LEARNING_RATE 3e-4 --AUGMENTATION flip",
        goes_on=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on, and which rungs."""

    data: str
    """Prepared data set: a folder with train and validation."""
    encoder: str
    """Encoder of the Hub or a folder."""
    output: str = "ladder"
    """Folder for the runs and their numbers."""
    rungs: tuple[str, ...] = ()
    """Names of rungs (default: all)."""
    seeds: tuple[str, ...] = ("1",)
    """Seeds of each."""
    settings: str = ""
    """Further flags of `train.py` for all rungs: --settings="--NUM_EPOCHS 4"."""
    java: bool = True
    """Compute METEOR where Java is."""


@dataclass
class Ladder:
    """Runs and their numbers under a folder."""

    options: Options

    def climb(self, name: str, seed: str) -> dict[str, Any]:
        """The numbers of a rung with a seed, made if they are not there."""
        path = Path(self.options.output) / f"{name} {seed}.json"
        if not path.exists():
            best = self._train(name, seed)
            write_json(path, self._score(name, best))
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _train(self, name: str, seed: str) -> Path:
        """The best checkpoint of the training that a rung needs."""
        while RUNGS[name].on and not RUNGS[name].training:
            name = RUNGS[name].on
        data, output = Path(self.options.data), Path(self.options.output) / "runs"
        words = [*PLAIN.split(), *self.options.settings.split(), *training_flags(name)]
        words += ["--DATASET", data.name, "--DATA_DIR", str(data.parent)]
        words += ["--ENCODER_MODEL_NAME", self.options.encoder, "--OUTPUT_DIR", str(output)]
        words += ["--RUN_NAME", f"{name} {seed}", "--RANDOM_SEED", seed]
        if RUNGS[name].goes_on:
            words += ["--INIT_CHECKPOINT_PATH", str(self._train(RUNGS[name].on, seed))]
        folder = output / f"{name} {seed}"
        if not (folder / "done").exists():
            if train.main([*last_of_each(words), "--RESUME_CHECKPOINT_PATH", "auto"]):
                raise UserError(f"{folder} did not come to its end; begin again to go on.")
            (folder / "done").touch()
        return folder / "best"

    def _score(self, name: str, best: Path) -> dict[str, Any]:
        scores = best / name
        words = ["--checkpoint", str(best), "--split", "validation", "--output", str(scores)]
        words += ["--data-dir", str(Path(self.options.data).parent), *search_flags(name)]
        evaluate.main([*words, *(() if self.options.java else ("--no-java",))])
        found = json.loads((scores / "metrics.json").read_text(encoding="utf-8"))
        lines = (best.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        validations = [line for line in map(json.loads, lines) if "validation_loss" in line]
        captions = (scores / "captions.jsonl").read_text(encoding="utf-8").splitlines()
        words_of_each = [len(json.loads(line)["caption"].split()) for line in captions]
        return {
            **{metric: found[metric] for metric in SHOWN},
            "interval": found["intervals_95"]["CIDEr"],
            "words": statistics.mean(words_of_each),
            "minutes": validations[-1]["seconds"] / 60,
        }


def training_flags(name: str) -> list[str]:
    """What a rung and all that it stands on add to the plain recipe."""
    rung = RUNGS[name]
    return [*(training_flags(rung.on) if rung.on else ()), *rung.training.split()]


def search_flags(name: str) -> list[str]:
    """How a rung searches."""
    rung = RUNGS[name]
    return rung.search.split() if rung.search or not rung.on else search_flags(rung.on)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a rung: mean and standard deviation over seeds."""
    columns = (*SHOWN, "words", "minutes")
    lines = [f"{'':20}{'seeds':>6}" + "".join(f"{name:>16}" for name in columns)]
    for name, runs in found.items():
        cells = []
        for column in columns:
            values = [run[column] for run in runs if run[column] is not None]
            spread = f" ±{statistics.stdev(values):6.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "-")
        lines.append(f"{name:20}{len(runs):6}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Climb the rungs and print the table."""
    options = parse_options(
        Options,
        sys.argv[1:] if argv is None else argv,
        description=str(__doc__).split("\n\n", 1)[0],
    )
    if unknown := [name for name in options.rungs if name not in RUNGS]:
        raise UserError(f"{unknown[0]!r} is no rung; there are: {', '.join(RUNGS)}.")
    ladder = Ladder(options)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name in options.rungs or RUNGS:
            found.setdefault(name, []).append(ladder.climb(name, seed))
            print(f"\n{table(found)}\n", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)

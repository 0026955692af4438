"""What each way to train the encoder costs: time of a step, and memory beyond weights.

    python benchmarks/encoder_training.py --json benchmark.json

CLIP-B/32's architecture with random weights and the default decoder, on pixels that are ready. Each
way takes its steps in a process of its own, the ways in turn, and is compared with the frozen
encoder of the same turn; medians are reported. Memory is the most that was held while steps were
taken, less what was held before the first: gradients, moments and activations.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers

from benchmarks.training import make_optimizer
from captioning.sources.records import Record
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime
from config import Config
from dataset import CaptionDataset, Step, StepDataset
from encoder import VisionEncoder
from model import CaptionModel
from optimization import CrossEntropy, Gradients
from tokenizer import train_tokenizer

WAYS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "last 2 blocks": {"ENCODER_TRAINED_BLOCKS": 2},
    "LoRA, rank 16": {"ENCODER_TRAINED_BLOCKS": -1, "ENCODER_LORA_RANK": 16},
    "all": {"ENCODER_TRAINED_BLOCKS": -1},
    "all, checkpointing": {"ENCODER_TRAINED_BLOCKS": -1, "GRADIENT_CHECKPOINTING": True},
}
CAPTION = "two dogs run over a field of green grass beside a small lake"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    pictures: int = 32
    """Pictures of a step, each with two captions."""
    steps: int = 3
    """Steps that are timed, after one that is not."""
    repeats: int = 3
    """How often each way takes its steps; medians are reported."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    json: str = ""
    """File for the numbers as JSON."""
    way: str = ""
    """Measure this way alone, in this process."""


class Pixels:
    """The same noise for every picture."""

    def __init__(self, size: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        self._noise = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, 3, H, W)."""
        return self._noise.expand(len(indices), -1, -1, -1)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    if options.way:
        print(json.dumps(measure(options)))
        return 0
    rounds = [{way: in_a_process(options, way) for way in WAYS} for _ in range(options.repeats)]
    result = {
        way: {
            "seconds a step": statistics.median(one[way]["seconds"] for one in rounds),
            "times frozen": statistics.median(
                one[way]["seconds"] / one["frozen"]["seconds"] for one in rounds
            ),
            "MB": statistics.median(one[way]["bytes"] / 1e6 for one in rounds),
            "trained": rounds[0][way]["trained"],
        }
        for way in WAYS
    }
    print(f"{'':24}{'s a step':>12}{'x frozen':>12}{'MB':>12}{'trained':>14}")
    for way, row in result.items():
        seconds, ratio, size, trained = row.values()
        print(f"{way:24}{seconds:12.2f}{ratio:12.2f}{size:12,.0f}{trained:14,}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def in_a_process(options: Options, way: str) -> dict[str, Any]:
    """What `measure` gives, in a process that has done nothing else."""
    words = ["--pictures", options.pictures, "--steps", options.steps, "--device", options.device]
    command = [sys.executable, __file__, *map(str, words), "--way", way]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    return found


def measure(options: Options) -> dict[str, Any]:
    """Median seconds of a step, bytes beyond those held before, trained parameters."""
    config, runtime = Config(**WAYS[options.way]), Runtime.create(options.device)
    processor = transformers.CLIPImageProcessorPil().to_dict()
    encoder = VisionEncoder.from_config(
        transformers.CLIPVisionConfig().to_dict(),
        processor,
        trained_blocks=config.ENCODER_TRAINED_BLOCKS,
    )
    encoder.prepare_training(config)
    records = [
        Record(Path(f"{number}.jpg"), (CAPTION, CAPTION)) for number in range(options.pictures)
    ]
    tokenizer = train_tokenizer([CAPTION], config.VOCAB_SIZE)
    model = CaptionModel.from_config(
        config,
        patches=encoder.num_tokens,
        feature_dim=encoder.feature_dim,
        vocab_size=config.VOCAB_SIZE,
    )
    encoder.to(runtime.device).train()
    model.to(runtime.device).train()
    optimizer = make_optimizer(model, replace(config, LEARNING_RATE=1e-4), encoder)
    captions = CaptionDataset(records, tokenizer, config.MAX_SEQ_LEN)
    plan = captions.plan(captions.num_captions)
    step = StepDataset(captions, plan, Pixels(encoder.preprocessor.size), 0)[0]
    assert isinstance(step, Step)
    gradients = Gradients(model, encoder, runtime, CrossEntropy(0.1))
    before, seconds = held_bytes(runtime), []
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        loss = gradients.add(step)
        optimizer.step()
        gradients.drop()
        float(loss)
        seconds.append(time.perf_counter() - start)
    modules = (*model.parameters(), *encoder.parameters())
    return {
        "seconds": statistics.median(seconds[1:]),
        "bytes": most_bytes(runtime) - before,
        "trained": sum(p.numel() for p in modules if p.requires_grad),
    }


def held_bytes(runtime: Runtime) -> int:
    """Memory that is held now: the device's, or this process's."""
    if runtime.device.type == "cuda":
        return torch.cuda.memory_allocated(runtime.device)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def most_bytes(runtime: Runtime) -> int:
    """The most that was ever held."""
    if runtime.device.type == "cuda":
        return runtime.memory_bytes()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    run_command(main)

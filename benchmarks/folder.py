"""Speed of captioning a folder beside the encoder alone, and its memory as pictures grow in number.

    python benchmarks/folder.py --json benchmark.json

Draws pictures to a temporary folder. In each repeat it measures, on the same pictures and with
ViT-Tiny's architecture, a decoder of the demo's size and random weights,

    encoder     pixels lie in memory: encoded in batches, and nothing else
    in turn     decoded, encoded and searched, one after another
    folder      `generate.py --write txt`, with a model that is loaded: the three overlap

and reports medians of the ratios within repeats. Captions are searched greedily and have twelve
tokens. Memory is the largest that a process had while so many pictures went by, small ones with a
small encoder; files beyond the first hundred are links to these.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers

import generate
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.scenes import write_scenes
from captioning.sources.named_pictures import find_named
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime
from captioning.writing.outputs import Part
from captioning.writing.work import Work
from config import Config
from encoder import VisionEncoder
from model import CaptionModel
from pipeline import CaptionPipeline
from tokenizer import train_tokenizer

DRAWN = 100
BATCH = 32
TOKENS = 12
SAID = ["a red ball lies on the grass in front of a house with a blue door."] * 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    pictures: int = 192
    """Pictures that are timed."""
    size: int = 448
    """Their width and height."""
    repeats: int = 5
    """How often to measure each side; medians are reported."""
    memory: str = "100,10000"
    """Numbers of pictures whose memory is compared ("" = none)."""
    json: str = ""
    """File for the numbers as JSON."""
    memory_of: str = ""
    """Caption this folder in this process, and print the most memory that it had, in MB."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    if options.memory_of:
        with tempfile.TemporaryDirectory() as place:
            write_captions(small_captioner(side=32), options.memory_of, place)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, object] = dict(speed(Path(folder), options))
        counts = [int(count) for count in options.memory.split(",") if count]
        result["memory_mb"] = {count: memory(Path(folder), count) for count in counts}
    for name, value in result.items():
        print(f"{name:24}{value}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def small_captioner(*, side: int = 224) -> Captioner:
    """A captioner of random weights: ViT-Tiny, or of pictures of 32 pixels two narrow layers."""
    tiny = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    shape = tiny if side == 224 else small
    encoder = VisionEncoder.from_config(
        transformers.ViTConfig(
            **shape, intermediate_size=4 * shape["hidden_size"], image_size=side
        ).to_dict(),
        transformers.ViTImageProcessorPil(size={"height": side, "width": side}).to_dict(),
        name="ViT",
    )
    tokenizer = train_tokenizer(SAID, 300)
    torch.manual_seed(0)
    config = Config(
        DECODER_LAYERS=2,
        DECODER_EMBED_DIM=128,
        DECODER_FF_DIM=512,
        DECODER_HEADS=4,
        PROJECTION_DIM=128,
        MAX_SEQ_LEN=TOKENS + 2,
    )
    model = CaptionModel.from_config(
        config,
        patches=encoder.num_tokens,
        feature_dim=encoder.feature_dim,
        vocab_size=len(tokenizer),
    )
    pipeline = CaptionPipeline(
        encoder.eval(), model.eval(), tokenizer, Runtime.create("cpu"), config.MAX_SEQ_LEN
    )
    return Captioner(pipeline, config)


def write_captions(captioner: Captioner, pictures: str, place: str) -> None:
    """Caption a folder's pictures as `generate.py --write txt` does, with a loaded model."""
    words = ["--image", pictures, "--method", "greedy", "--min-length", str(TOKENS)]
    options = parse_options(generate.GenerateOptions, words)
    work = Work.written(find_named([pictures]), "txt", place, Part(), overwrite=True)
    generate.caption_all(captioner, work, options)


def speed(folder: Path, options: Options) -> dict[str, float]:
    """Pictures a second of each side and the ratios between them, medians."""
    pictures = draw(folder / "timed", options.pictures, options.size)
    captioner, search = small_captioner(), SearchOptions(method="greedy")
    rules = replace(captioner.pipeline.rules(), min_length=TOKENS)
    pixels = torch.stack([captioner.pixels(one) for one in pictures])

    def encoder() -> None:
        for batch in torch.split(pixels, BATCH):
            captioner.pipeline.features(batch)

    def in_turn() -> None:
        captioner.captions(pictures, search, rules=rules, batch_size=BATCH)

    def whole() -> None:
        write_captions(captioner, str(folder / "timed"), str(folder / "captions"))

    sides = {"encoder": encoder, "in_turn": in_turn, "folder": whole}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(options.repeats + 1):
        for name, side in sides.items():
            seconds = timed(side)
            if repeat:  # the first warms up
                rates[name].append(len(pictures) / seconds)
    ratios = {
        f"folder_to_{name}": statistics.median(
            one / other for one, other in zip(rates["folder"], rates[name], strict=True)
        )
        for name in ("encoder", "in_turn")
    }
    return {name: statistics.median(found) for name, found in rates.items()} | ratios


def timed(work: Callable[[], None]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory(folder: Path, count: int) -> float:
    """The most memory of a process that captions so many small pictures, in MB."""
    place = folder / f"many-{count}"
    drawn = draw(folder / "small", DRAWN, 32)
    place.mkdir()
    for number in range(count):
        os.link(drawn[number % DRAWN], place / f"{number:08d}.jpg")
    words = [sys.executable, __file__, "--memory-of", str(place)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return round(float(done.stdout.split()[-1]))


def draw(folder: Path, count: int, size: int) -> list[Path]:
    """Drawn scenes, in order of name."""
    if not folder.exists():
        write_scenes(folder, seed=0, count=count, size=size)
    return sorted(folder.rglob("*.jpg"))[:count]


if __name__ == "__main__":
    run_command(main)

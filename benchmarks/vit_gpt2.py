"""A folder of pictures captioned by a ViT-GPT2: this project beside transformers, end to end.

    python benchmarks/vit_gpt2.py --pictures 500

Saves a ViT-GPT2 of random weights as transformers does (ViT-Tiny's architecture and a GPT-2 of 4
layers, 256 wide, 10,000 entries), draws pictures, and lets both sides open the same folder: ours by
`generate.py --write jsonl`, transformers' by its processor, `generate` and tokenizer in batches of
as many pictures. Both search with the beams and the fixed length that the folder says, so that they
make the same steps; the share of equal captions shows that they did. Each side runs in a process of
its own, which loads the model before the clock starts; medians of the rates, and of the ratios
within repeats. Memory is the largest that a process had.
"""

import itertools
import json
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers as hf
from PIL import Image

import generate
from captioner import Captioner
from captioning.scenes import write_scenes
from captioning.sources.named_pictures import find_named
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.rules import at_least
from captioning.writing.outputs import Part
from captioning.writing.work import Work
from tests.helpers.tiny_gpt2 import TheirCaptions, gpt2_tokenizer, save_vit_gpt2

BATCH = 32
SIDES = ("ours", "transformers")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    pictures: Annotated[int, at_least(1)] = 500
    """Pictures to caption."""
    size: int = 448
    """Their width and height."""
    beams: Annotated[int, at_least(1)] = 3
    """Beams of the search."""
    tokens: Annotated[int, at_least(1)] = 14
    """Tokens of each caption."""
    repeats: Annotated[int, at_least(1)] = 3
    """How often each side captions them."""
    width: int = 192
    """Of the encoder; below 100 all is the size of a toy."""
    side: Literal["", "ours", "transformers"] = ""
    """Caption in this process, and print what it took."""
    folder: str = ""
    """Where the model and the pictures lie."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    if options.side:
        print(json.dumps(caption(Path(options.folder), options.side)))
        return 0
    with tempfile.TemporaryDirectory() as place:
        save_model(Path(place), options)
        write_scenes(Path(place) / "pictures", seed=0, count=options.pictures, size=options.size)
        print(table(measure(Path(place), options)))
    return 0


def measure(place: Path, options: Options) -> dict[str, list[dict[str, Any]]]:
    """What each side took in each repeat."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            words = [sys.executable, __file__, "--side", side, "--folder", str(place)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a side."""
    ours, theirs = (found[side] for side in SIDES)
    equal = [a == b for a, b in zip(ours[0]["captions"], theirs[0]["captions"], strict=True)]
    lines = [f"{'':14}{'pictures/s':>12}{'memory, MB':>12}"]
    for side, runs in found.items():
        rate = statistics.median(len(run["captions"]) / run["seconds"] for run in runs)
        memory = statistics.median(run["memory_mb"] for run in runs)
        lines.append(f"{side:14}{rate:12.2f}{memory:12.0f}")
    ratio = statistics.median(
        b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)
    )
    lines.append(f"ours is {ratio:.2f} times as fast; {sum(equal)} of {len(equal)} captions equal")
    return "\n".join(lines)


def caption(place: Path, side: str) -> dict[str, Any]:
    """Caption the pictures in this process: captions in order of name, seconds, memory."""
    pictures = sorted((place / "pictures").rglob("*.jpg"))
    captions = by_ours if side == "ours" else by_transformers
    texts, seconds = captions(place, pictures)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"captions": texts, "seconds": seconds, "memory_mb": memory}


def by_ours(place: Path, pictures: Sequence[Path]) -> tuple[list[str], float]:
    """As `generate.py --write jsonl` does."""
    captioner = Captioner.from_pretrained(place / "model", device="cpu")
    options = parse_options(generate.GenerateOptions, ["--image", str(place / "pictures")])
    output = place / "ours.jsonl"
    began = time.perf_counter()
    work = Work.written(
        find_named([str(place / "pictures")]), "jsonl", str(output), Part(), overwrite=True
    )
    generate.caption_all(captioner, work, options)
    seconds = time.perf_counter() - began
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    said = {Path(row["image"]).name: row["captions"][0]["text"] for row in rows}
    return [said[path.name] for path in pictures], seconds


def by_transformers(place: Path, pictures: Sequence[Path]) -> tuple[list[str], float]:
    """As its documentation says."""
    captioner = TheirCaptions(place / "model")
    texts: list[str] = []
    began = time.perf_counter()
    for first in range(0, len(pictures), BATCH):
        texts += captioner.texts([Image.open(path) for path in pictures[first : first + BATCH]])
    return texts, time.perf_counter() - began


def save_model(place: Path, options: Options) -> None:
    """A ViT-GPT2 of random weights, saved as transformers does."""
    is_toy = options.width < 100
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    if not is_toy:
        shape = {"num_hidden_layers": 12, "num_attention_heads": 3, "image_size": 224}
    torch.manual_seed(0)
    tower = hf.ViTModel(
        hf.ViTConfig(
            hidden_size=options.width,
            intermediate_size=4 * options.width,
            initializer_range=0.2,
            **shape,
        )
    )
    entries = 600 if is_toy else 10_000
    letters = itertools.product(string.ascii_lowercase, repeat=3)
    words = ["".join(word) for word in itertools.islice(letters, entries)]
    length = options.tokens + 1  # with the start
    saved = save_vit_gpt2(
        place,
        encoder=tower,
        width=options.width if is_toy else 256,
        generation={"num_beams": options.beams, "min_length": length, "max_length": length},
        tokenizer=gpt2_tokenizer(texts=[" " + " ".join(words)] * 2, entries=entries - 1),
        n_layer=2 if is_toy else 4,
        n_head=2 if is_toy else 4,
        initializer_range=0.2,
    )
    saved.rename(place / "model")


if __name__ == "__main__":
    run_command(main)

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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import generate
from captioner import Captioner
from captioning.scenes import write_scenes
from captioning.sources.named_pictures import find_named
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.rules import at_least
from captioning.vision.loading import silenced
from captioning.writing.outputs import Part
from captioning.writing.work import Work

BATCH = 32
END = "<|endoftext|>"
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
        save_model(Path(place) / "model", options)
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
    return [said[path.name].strip() for path in pictures], seconds


@torch.inference_mode()
def by_transformers(place: Path, pictures: Sequence[Path]) -> tuple[list[str], float]:
    """As its documentation says."""
    with silenced():
        model = hf.VisionEncoderDecoderModel.from_pretrained(place / "model").eval()
        processor = hf.AutoImageProcessor.from_pretrained(place / "model", backend="pil")
        tokenizer = hf.AutoTokenizer.from_pretrained(place / "model")
    texts: list[str] = []
    began = time.perf_counter()
    for first in range(0, len(pictures), BATCH):
        opened = [Image.open(path) for path in pictures[first : first + BATCH]]
        pixels = processor(opened, return_tensors="pt")
        ids = model.generate(pixels["pixel_values"])
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [text.strip() for text in texts], time.perf_counter() - began


def save_model(path: Path, options: Options) -> None:
    """A ViT-GPT2 of random weights, saved as transformers does."""
    is_toy = options.width < 100
    tokenizer = words_tokenizer(600 if is_toy else 10_000)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    torch.manual_seed(0)
    tower = hf.ViTModel(
        hf.ViTConfig(
            hidden_size=options.width,
            num_hidden_layers=2 if is_toy else 12,
            num_attention_heads=2 if is_toy else 3,
            intermediate_size=4 * options.width,
            image_size=32 if is_toy else 224,
            initializer_range=0.2,
        )
    )
    language = hf.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=options.width if is_toy else 256,
        n_layer=2 if is_toy else 4,
        n_head=2 if is_toy else 4,
        n_positions=64,
        initializer_range=0.2,
        add_cross_attention=True,
        is_decoder=True,
        **ids,
    )
    with silenced():
        model = hf.VisionEncoderDecoderModel(encoder=tower, decoder=hf.GPT2LMHeadModel(language))
        length = options.tokens + 1  # with the start
        settings = ids | {"num_beams": options.beams, "min_length": length, "max_length": length}
        settings |= dict.fromkeys(("decoder_start_token_id", "pad_token_id"), ids["bos_token_id"])
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        side = tower.config.image_size
        hf.ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(path)


def words_tokenizer(entries: int) -> Any:
    """GPT-2's kind of tokenizer, of drawn words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries - 1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    letters = itertools.product(string.ascii_lowercase, repeat=3)
    words = ["".join(word) for word in itertools.islice(letters, entries)]
    core.train_from_iterator([" " + " ".join(words)] * 2, trainer)
    core.add_special_tokens([END])
    tokenizer = hf.GPT2TokenizerFast(tokenizer_object=core)
    tokenizer.pad_token = END
    return tokenizer


if __name__ == "__main__":
    run_command(main)

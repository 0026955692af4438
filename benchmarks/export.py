"""What an export keeps of a checkpoint: captions, scores, size and speed, in float32 and int8.

Writes nothing but the JSON file asked for; exports go to a temporary folder.

    python benchmarks/export.py --checkpoint checkpoints/demo/best --split data/demo/test

Every picture is captioned in turn by the checkpoint (torch), by `caption.py` of its export, and by
that of its int8 export, one picture at a time, so that all sides meet the same machine. Speed
counts from an opened picture to its caption. CIDEr is against the split's references, the interval
of the difference that of pictures drawn again.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image

import export
from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.export.checking import Said, pictures_to_check
from captioning.export.folder import program, quantise
from captioning.metrics import Interval, score_captions
from captioning.metrics.intervals import interval_of, resampled_scores
from captioning.sources.images import load_image
from captioning.sources.records import read_records
from captioning.system.errors import run_command
from captioning.system.options import parse_options

WARM_UP = 2
Say = Callable[[Image.Image], Said]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    checkpoint: str
    """Folder of a checkpoint."""
    split: str
    """Split of a prepared data set, such as data/demo/test."""
    limit: int = 0
    """Pictures at most (0 = all)."""
    beams: int = 0
    """Beams of the search (0 = as in training)."""
    pictures: str = ""
    """Folder of the pictures that the exports are made and checked with ("" = drawn scenes)."""
    threads: int = 1
    """Threads of each side."""
    json: str = ""
    """File for the numbers."""


@dataclass(frozen=True)
class Side:
    """What one side reached."""

    megabytes: float
    captions_per_second: float
    processor_seconds: float
    """A picture, median."""
    equal: float
    """Share of captions that are those of the checkpoint."""
    furthest: float
    """Largest difference of log-probabilities where captions are equal."""
    cider: float
    difference: Interval
    """Of CIDEr to the checkpoint's, 95 %."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export twice, caption, print."""
    options = parse_options(
        Options,
        sys.argv[1:] if argv is None else argv,
        description="What an export keeps of a checkpoint.",
    )
    torch.set_num_threads(options.threads)
    records = read_records(options.split)
    records = records[: options.limit] if options.limit else records
    with tempfile.TemporaryDirectory() as place:
        sides, sizes = _sides(options, Path(place))
        said, seconds, work = _caption(sides, [str(record.image) for record in records])
    references = {str(record.image): record.captions for record in records}
    table = _compare(said, seconds, work, sizes, references)
    print(f"{len(records)} pictures, {options.threads} threads")
    print("| way | graphs, MB | captions/s | equal captions | log-probability within | CIDEr | |")
    print("|---|---|---|---|---|---|---|")
    for name, one in table.items():
        change = f"{one.difference.low:+.3f} to {one.difference.high:+.3f}"
        print(
            f"| {name} | {one.megabytes:.1f} | {one.captions_per_second:.2f} | {one.equal:.1%} | "
            f"{one.furthest:.1g} | {one.cider:.3f} | {change} |"
        )
    if options.json:
        numbers = {name: asdict(one) for name, one in table.items()}
        Path(options.json).write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    return 0


def _sides(options: Options, place: Path) -> tuple[dict[str, Say], dict[str, float]]:
    """How to caption on each side, and the megabytes of its weights."""
    captioner = Captioner.from_pretrained(options.checkpoint, device="cpu", precision="fp32")
    pipeline, config = captioner.pipeline, captioner.config
    beams = options.beams or config.BEAM_SIZE
    search = SearchOptions.of_beams(beams, length_penalty=config.LENGTH_PENALTY)

    def by_torch(picture: Image.Image) -> Said:
        caption = captioner.captions([picture], search)[0][0]
        return Said(caption.text, caption.log_probability)

    sides: dict[str, Say] = {"torch": by_torch}
    numbers = sum(
        one.numel() for part in (pipeline.model, pipeline.encoder) for one in part.parameters()
    )
    sizes = {"torch": numbers * 4 / 1e6}
    whole, small = place / "onnx", place / "onnx int8"
    words = ["--checkpoint", options.checkpoint, "--output", str(whole)]
    export.main([*words, *(["--pictures", options.pictures] if options.pictures else [])])
    shutil.copytree(whole, small)
    print(quantise(small, pictures_to_check(options.pictures)))
    for name, folder in (("onnx", whole), ("onnx int8", small)):
        sides[name] = _by_program(folder, beams, options.threads)
        sizes[name] = sum(path.stat().st_size for path in folder.glob("*.onnx*")) / 1e6
    return sides, sizes


def _by_program(folder: Path, beams: int, threads: int) -> Say:
    captioner = program(folder / "caption.py").Captioner(folder, threads=threads)

    def say(picture: Image.Image) -> Said:
        (caption,) = captioner(picture, beam_size=beams)
        return Said(caption.text, caption.log_probability)

    return say


def _caption(
    sides: dict[str, Say], paths: Sequence[str]
) -> tuple[dict[str, list[Said]], dict[str, list[float]], dict[str, list[float]]]:
    """What each side says of each picture, the seconds it takes, and the processor's."""
    said: dict[str, list[Said]] = {name: [] for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    work: dict[str, list[float]] = {name: [] for name in sides}
    for path in (*paths[:WARM_UP], *paths):
        picture = load_image(path)
        for name, say in sides.items():
            started, worked = time.perf_counter(), time.process_time()
            said[name].append(say(picture))
            seconds[name].append(time.perf_counter() - started)
            work[name].append(time.process_time() - worked)
    cut = min(WARM_UP, len(paths))
    return tuple(  # type: ignore[return-value]
        {name: one[cut:] for name, one in found.items()} for found in (said, seconds, work)
    )


def _compare(
    said: dict[str, list[Said]],
    seconds: dict[str, list[float]],
    work: dict[str, list[float]],
    sizes: dict[str, float],
    references: dict[str, tuple[str, ...]],
) -> dict[str, Side]:
    ours = said["torch"]
    scores = {
        name: score_captions(dict(zip(references, [x.text for x in one], strict=True)), references)
        for name, one in said.items()
    }
    drawn = {name: resampled_scores(one, {}, 1000, 0)["CIDEr"] for name, one in scores.items()}
    table = {}
    for name, theirs in said.items():
        pairs = list(zip(ours, theirs, strict=True))
        gaps = [
            abs(one.log_probability - other.log_probability)
            for one, other in pairs
            if one.text == other.text
        ]
        table[name] = Side(
            megabytes=sizes[name],
            captions_per_second=len(theirs) / sum(seconds[name]),
            processor_seconds=statistics.median(work[name]),
            equal=float(np.mean([one.text == other.text for one, other in pairs])),
            furthest=max(gaps, default=0.0),
            cider=scores[name].corpus["CIDEr"],
            difference=interval_of(drawn[name] - drawn["torch"]),
        )
    return table


if __name__ == "__main__":
    run_command(main)

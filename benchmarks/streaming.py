"""Speed of a stream beside decoding alone, and its memory as the shards grow in number.

    CAPTION_TEST_DATA=data python benchmarks/streaming.py --json benchmark.json

Writes WebDataset shards of photographs (drawn ones where there are none) to a temporary folder. In
each repeat it measures, in one process and with a worker process a core,

    decoding    the pictures' files lie in memory: decoded, resized, handed over in pieces
    stream      the same pictures from shards, in shuffled order, as training gets them

and, with CLIP-B/32's architecture and random weights as the encoder,

    live        the same stream, its pictures encoded as they pass
    keeping     the same, where the features are kept (FEATURE_CACHE): the first pass
    kept        the passes after it

and reports medians of the ratios within repeats. Memory is the largest that a process and its
workers had at any time while pictures went by, by the number of shards; the shards beyond the
first are links to it, which a stream cannot tell.
"""

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.features import Options as PictureOptions
from benchmarks.features import find_images
from captioning.sources.images import load_image
from captioning.store.building import RowMaker
from captioning.streaming.cache import ENCODED_TOGETHER, StreamFeatures
from captioning.streaming.lanes import Position, lane_count, lanes_of, read_blocks
from captioning.streaming.reader import PIECE_SAMPLES, StreamReader
from captioning.streaming.shards import find_sources
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.processes import worker_count
from captioning.system.runtime import Runtime
from captioning.vision.preprocessing import ImagePreprocessor
from encoder import VisionEncoder


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    images: str = ""
    """Folder with photographs ("" = CAPTION_TEST_DATA's sample, or drawn ones)."""
    pictures: int = 800
    """Pictures that are timed; eight shards hold them."""
    repeats: int = 5
    """How often to measure each side; medians are reported."""
    shards: str = "24,128,512"
    """Numbers of shards whose memory is compared ("" = none)."""
    passed: int = 4000
    """Pictures that go by while memory is measured."""
    encoded: int = 160
    """Pictures that are encoded, of which features are kept (0 = not measured)."""
    json: str = ""
    """File for the numbers as JSON."""
    memory_of: str = ""
    """Measure the memory of the stream with this pattern in this process, and print it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    if options.memory_of:
        print(json.dumps(memory(options.memory_of, options.passed)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = PictureOptions(images=options.images, pictures=options.pictures)
        files = [path.read_bytes() for path in find_images(wanted, folder)]
        result = speed(files, folder / "speed", options)
        if options.encoded:
            result |= keeping(files[: options.encoded], folder / "kept", options.repeats)
        result |= {
            f"memory_mb_of_{count}_shards": memory_of_shards(files, folder, int(count), options)
            for count in filter(None, options.shards.split(","))
        }
    for key, value in result.items():
        print(f"{key:32}{value:12,.4g}" if isinstance(value, float) else f"{key:32}{value:>12}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def preprocessor() -> ImagePreprocessor:
    """CLIP's, 224 pixels wide."""
    return ImagePreprocessor(transformers.CLIPImageProcessorPil().to_dict(), name="CLIP")


def speed(files: list[bytes], folder: Path, options: Options) -> dict[str, Any]:
    """Pictures a second and ratios of one process and of all cores."""
    folder.mkdir()
    for shard in range(8):
        write_shard(folder / f"{shard}.tar", files[shard::8])
    result: dict[str, Any] = {
        "pictures": len(files),
        "bytes_a_picture": round(statistics.mean(map(len, files))),
        "repeats": options.repeats,
    }
    for workers in (0, worker_count(-1)):
        rates = [
            (decoding_rate(files, workers), stream_rate(f"{folder}/*.tar", len(files), workers))
            for _ in range(options.repeats)
        ]
        name = f"{workers}_workers"
        result[f"decoding_rate_{name}"] = statistics.median(one for one, _ in rates)
        result[f"stream_rate_{name}"] = statistics.median(other for _, other in rates)
        result[f"ratio_{name}"] = statistics.median(other / one for one, other in rates)
    return result


def write_shard(path: Path, files: Sequence[bytes]) -> None:
    """A WebDataset shard of pictures, each with a caption."""
    with tarfile.open(path, "w") as archive:
        for number, data in enumerate(files):
            for suffix, content in ((".jpg", data), (".txt", b"a caption of some words")):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


class InMemory(Dataset[Tensor]):
    """Pieces of pictures whose files lie in memory."""

    def __init__(self, files: list[bytes]) -> None:
        self._files, self._preprocess = files, preprocessor()

    def __len__(self) -> int:
        return -(-len(self._files) // PIECE_SAMPLES)

    def __getitem__(self, number: int) -> Tensor:
        piece = self._files[number * PIECE_SAMPLES : (number + 1) * PIECE_SAMPLES]
        return torch.stack([self._preprocess(load_image(data)) for data in piece])


def decoding_rate(files: list[bytes], workers: int) -> float:
    """Pictures a second, from the first piece on: workers have started then."""
    loader = iter(DataLoader(InMemory(files), batch_size=None, num_workers=workers))
    first = len(next(loader))
    start = time.perf_counter()
    count = sum(map(len, loader))
    assert first + count == len(files)
    return count / (time.perf_counter() - start)


def open_stream(pattern: str, workers: int, features: StreamFeatures | None = None) -> StreamReader:
    """The reader of a source, as training opens it."""
    (source,) = find_sources(pattern)
    count = lane_count(source, 1)
    read = features.kept.read if features else read_blocks
    lanes = lanes_of(source, count=count, seed=(0, 0), held_out=frozenset(), read=read)
    return StreamReader(
        lanes, [Position()] * count, preprocessor(), num_workers=workers, features=features
    )


def stream_rate(pattern: str, count: int, workers: int) -> float:
    """Pictures a second, from a moment when no picture waits to another such moment."""
    reader = open_stream(pattern, workers)
    round_of_pieces = PIECE_SAMPLES * len(reader.positions)
    for _ in range(round_of_pieces):
        reader.take()
    count -= count % round_of_pieces
    start = time.perf_counter()
    for _ in range(count):
        assert not reader.take().problem
    return count / (time.perf_counter() - start)


def keeping(files: list[bytes], folder: Path, repeats: int) -> dict[str, Any]:
    """Pictures a second of whole passes that encode, that keep features, and that find them."""
    runtime = Runtime.create()
    encoder = VisionEncoder.from_config(
        transformers.CLIPVisionConfig().to_dict(),
        transformers.CLIPImageProcessorPil().to_dict(),
        name="CLIP-B/32",
    )
    maker = RowMaker(encoder.to(runtime.device), runtime)
    shards = folder / "shards"
    shards.mkdir(parents=True)
    for shard in range(8):
        write_shard(shards / f"{shard}.tar", files[shard::8])
    rates = []
    for repeat in range(repeats):
        features = StreamFeatures(folder / str(repeat), maker, limit_bytes=10**12)
        reader = open_stream(f"{shards}/*.tar", worker_count(-1), features)
        rates.append(
            [
                live_rate(maker, open_stream(f"{shards}/*.tar", worker_count(-1)), len(files)),
                pass_rate(reader, len(files)),
                pass_rate(reader, len(files)),
            ]
        )
    live, first, later = (statistics.median(rate) for rate in zip(*rates, strict=True))
    return {
        "live_rate": live,
        "keeping_rate": first,
        "kept_rate": later,
        "keeping_to_live": statistics.median(one[1] / one[0] for one in rates),
        "kept_to_live": statistics.median(one[2] / one[0] for one in rates),
    }


def live_rate(maker: RowMaker, reader: StreamReader, count: int) -> float:
    """Pictures a second of a pass that is encoded as it comes."""
    start = time.perf_counter()
    for first in range(0, count, ENCODED_TOGETHER):
        taken = [reader.take() for _ in range(min(ENCODED_TOGETHER, count - first))]
        maker.rows([torch.stack([one.content for one in taken if one.content is not None])]).cpu()
    return count / (time.perf_counter() - start)


def pass_rate(reader: StreamReader, count: int) -> float:
    """Pictures a second of a pass that comes as features, copied out as a step does."""
    start = time.perf_counter()
    for first in range(0, count, ENCODED_TOGETHER):
        taken = [reader.take() for _ in range(min(ENCODED_TOGETHER, count - first))]
        torch.stack([one.content for one in taken if one.content is not None])
    return count / (time.perf_counter() - start)


def memory_of_shards(files: list[bytes], folder: Path, count: int, options: Options) -> float:
    """Megabytes of a process and its workers for a stream of `count` shards."""
    place = folder / f"shards-{count}"
    place.mkdir()
    write_shard(place / "00000.tar", files[:400])
    for number in range(1, count):
        os.link(place / "00000.tar", place / f"{number:05d}.tar")
    command = [sys.executable, __file__, "--memory-of", f"{place}/*.tar"]
    command += ["--passed", str(options.passed)]
    return float(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def memory(pattern: str, count: int) -> float:
    """Megabytes at most of this process and of its largest worker, times workers."""
    workers = worker_count(-1)
    reader = open_stream(pattern, workers)
    for _ in range(count):
        reader.take()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del reader
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + workers * largest) / 1024


if __name__ == "__main__":
    run_command(main)

"""Speed of building a feature store, beside the encoder alone and the plain loop, in one run.

    CAPTION_TEST_DATA=data python benchmarks/features.py --json benchmark.json

Reads photographs (drawn ones where there are none), encodes them with CLIP-B/32's architecture and
random weights; writes nothing but the JSON file asked for. In each repeat it measures

    encoder          the encoder on pixels that are ready
    building         decoding, encoding and storing, as `features.py` does
    one at a time    Hugging Face's image processor and the encoder, picture after picture

and reports medians over repeats of the ratios within each. `bound` is the largest share of the
encoder's speed that can be had: where both compute on the same cores, the time that decoding takes
is lost to encoding; beside a GPU, the encoder cannot be faster than the decoders.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import transformers
from PIL import Image

from captioning.sources.images import load_image
from captioning.store.building import RowMaker, build_features
from captioning.system.errors import UserError, run_command
from captioning.system.options import parse_options
from captioning.system.processes import worker_count
from captioning.system.runtime import Runtime
from encoder import VisionEncoder
from features import CPU_BATCH_SIZE, GPU_BATCH_SIZE

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "B/32": {},
    "B/16": {"patch_size": 16},
    "L/14-336": {
        "patch_size": 14,
        "image_size": 336,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
"""What `CLIPVisionConfig` is told, whose own values are those of ViT-B/32 at 224 pixels."""
SAMPLE = "flickr8k_sample/images"
DRAWN_SIZE = (500, 375)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    encoder: Literal["B/32", "B/16", "L/14-336", "tiny"] = "B/32"
    """Whose architecture: CLIP's of these names, or one of two small blocks."""
    images: str = ""
    """Folder with photographs ("" = CAPTION_TEST_DATA's sample, or drawn ones)."""
    pictures: int = 256
    """How many pictures to build a store of."""
    repeats: int = 3
    """How often to measure each side; medians are reported."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    num_workers: int = -1
    """Processes that decode (-1 = one a core, 8 at most)."""
    json: str = ""
    """File for the numbers as JSON."""


@dataclass(frozen=True)
class Rates:
    """Pictures a second of one repeat."""

    encoder: float
    building: float
    one_at_a_time: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    runtime = Runtime.create(options.device)
    with tempfile.TemporaryDirectory() as folder:
        images = find_images(options, Path(folder))
        result = measure(images, Path(folder), runtime, options)
    for name, value in result.items():
        print(f"{name:26}{value:12,.4g}" if isinstance(value, float) else f"{name:26}{value:>12}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(images: list[Path], folder: Path, runtime: Runtime, options: Options) -> dict[str, Any]:
    """Medians of all ratios and rates."""
    architecture = transformers.CLIPVisionConfig(**ARCHITECTURES[options.encoder])
    side = architecture.image_size
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    encoder = VisionEncoder.from_config(
        architecture.to_dict(), processor.to_dict(), name=f"CLIP-{options.encoder}"
    )
    maker = RowMaker(encoder.to(runtime.device), runtime)
    workers = worker_count(options.num_workers)
    run_encoder(maker, len(images) // 4)  # warm
    rates = []
    for repeat in range(options.repeats):
        rates.append(
            Rates(
                run_encoder(maker, len(images)),
                run_building(maker, images, folder / str(repeat), workers),
                run_one_at_a_time(encoder, processor, images[: len(images) // 4], runtime),
            )
        )
    decoding = rate(len(images), lambda: decode(maker, images))
    encoder_rate = statistics.median(each.encoder for each in rates)
    if runtime.device.type == "cpu":
        bound = 1 / (1 + encoder_rate / (decoding * (os.cpu_count() or 1)))
    else:
        bound = min(1.0, decoding * max(workers, 1) / encoder_rate)
    return {
        "encoder": options.encoder,
        "device": runtime.description,
        "pictures": len(images),
        "workers": workers,
        "repeats": options.repeats,
        "encoder_rate": encoder_rate,
        "building_rate": statistics.median(each.building for each in rates),
        "one_at_a_time_rate": statistics.median(each.one_at_a_time for each in rates),
        "decoding_rate_of_a_core": decoding,
        "share_of_encoder": statistics.median(each.building / each.encoder for each in rates),
        "bound": bound,
        "ratio_to_one_at_a_time": statistics.median(
            each.building / each.one_at_a_time for each in rates
        ),
        **rounding_errors(encoder, images[:CPU_BATCH_SIZE], runtime),
    }


def run_encoder(maker: RowMaker, count: int) -> float:
    """Pictures a second of the encoder on pixels that lie on the device."""
    height, width = maker.preprocessor.size
    size = min(batch_size(maker.runtime), count)
    pixels = torch.randint(256, (size, 3, height, width), dtype=torch.uint8)
    pixels = pixels.to(maker.runtime.device)
    return rate(count, lambda: [maker.rows([pixels]) for _ in range(count // size)], maker.runtime)


def run_building(maker: RowMaker, images: list[Path], folder: Path, workers: int) -> float:
    """Pictures a second of building a store, the start of workers included."""
    return rate(
        len(images),
        lambda: build_features(
            images,
            maker,
            folder,
            label="train",
            num_workers=workers,
            batch_size=batch_size(maker.runtime),
        ),
    )


@torch.inference_mode()
def run_one_at_a_time(
    encoder: VisionEncoder, processor: Any, images: list[Path], runtime: Runtime
) -> float:
    """Pictures a second of the plain loop, which keeps its features in memory."""
    kept = []

    def loop() -> None:
        for path in images:
            with Image.open(path) as image:
                pixels = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
            with runtime.autocast():
                features = encoder.tower(pixel_values=pixels.to(runtime.device))
            kept.append(features.last_hidden_state.cpu())

    return rate(len(images), loop, runtime)


def decode(maker: RowMaker, images: Iterable[Path]) -> list[torch.Tensor]:
    """The pixels of pictures, as a worker makes them."""
    return [maker.preprocessor(load_image(image)) for image in images]


def rounding_errors(
    encoder: VisionEncoder, images: list[Path], runtime: Runtime
) -> dict[str, float]:
    """What storing features in two bytes does to them, relative to their size (both root mean
    squares)."""
    exact = RowMaker(encoder, runtime, dtype=torch.float32)
    features = exact.rows([torch.stack(decode(exact, images))])
    size = features.square().mean().sqrt()
    return {
        f"rounding_{str(dtype).removeprefix('torch.')}": float(
            (features.to(dtype).float() - features).square().mean().sqrt() / size
        )
        for dtype in (torch.float16, torch.bfloat16)
    }


def batch_size(runtime: Runtime) -> int:
    """What `features.py` takes."""
    return CPU_BATCH_SIZE if runtime.device.type == "cpu" else GPU_BATCH_SIZE


def rate(count: int, run: Callable[[], object], runtime: Runtime | None = None) -> float:
    """Pictures a second, what a GPU still has to do included."""
    start = time.perf_counter()
    run()
    if runtime and runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return count / (time.perf_counter() - start)


def find_images(options: Options, folder: Path) -> list[Path]:
    """The photographs to encode; drawn ones where there are none."""
    data = os.environ.get("CAPTION_TEST_DATA", "")
    source = Path(options.images or Path(data) / SAMPLE)
    if options.images or data:
        images = sorted(path for path in source.glob("*") if path.is_file())[: options.pictures]
        if len(images) < options.pictures:
            raise UserError(f"{source} holds {len(images)} pictures, not {options.pictures}.")
        return images
    images = [folder / f"{number}.jpg" for number in range(options.pictures)]
    random = np.random.default_rng(0)
    for path in images:
        coarse = Image.fromarray(random.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        coarse.resize(DRAWN_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    return images


if __name__ == "__main__":
    run_command(main)

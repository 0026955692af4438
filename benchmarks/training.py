"""Training throughput: the old way, the plain way and ours, in one run.

Writes nothing but the JSON file asked for.

    python benchmarks/training.py --captions captions.csv.gz --json benchmark.json
    python benchmarks/training.py --captions captions.csv.gz --pictures 29000 --device cuda

old     the encoder (CLIP ViT-B/32's architecture, random weights) runs for each pair, its CLS token
        is all that the decoder sees, captions are padded to 100, batch 32, float32, and the loss is
        read in each step
plain   features are cached, captions padded to the longest of the batch, each pair on its own
ours    `optimization.train_step` as `train.py` runs it
told    on a GPU, the same with CUDA_GRAPHS off: kernels are told one by one

Pairs are picture-caption pairs. The share of the ceiling is the arithmetic that our step needs
(counted, see `flops`) over what the machine's own matrix product reaches in the same minutes.
Captions come from a CSV `image,caption`; without one their lengths are drawn.
"""

import csv
import gzip
import itertools
import json
import math
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from captioning.sources.records import Record
from captioning.system.errors import run_command
from captioning.system.options import parse_options
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from captioning.training.weight_average import WeightAverage
from config import Config
from dataset import Batch, CaptionDataset, Step, StepDataset
from model import CaptionModel, Projection
from optimization import CrossEntropy, Gradients, build_optimizer, train_step
from tokenizer import CaptionTokenizer, train_tokenizer

SHAPES = {"B/32": (50, 768), "B/16": (197, 768), "L/14-336": (577, 1024)}
"""Tokens and width of CLIP's features of a picture."""
PATCHES, FEATURES = SHAPES["B/32"]
OLD_LENGTH, OLD_BATCH = 100, 32
FLICKR30K_PAIRS = 145_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    captions: str = ""
    """CSV file `image,caption`, gzip or not ("" = captions of drawn lengths)."""
    pictures: int = 500
    """Pictures to train on; features are drawn."""
    steps: int = 4
    """Steps of each side that are timed in a round."""
    rounds: int = 3
    """Rounds; the sides take turns, medians are reported."""
    batch_size: int = 256
    """Pairs a step of plain and ours."""
    device: str = "auto"
    """Where to compute."""
    encoder: Literal["B/32", "B/16", "L/14-336"] = "B/32"
    """Whose features' shape."""
    mapped: bool = False
    """Features lie in a file, as the feature store maps it, instead of on the device."""
    profile: bool = False
    """Print where the time of our steps goes, kernel by kernel."""
    skip_old: bool = False
    """Leave the old way out."""
    json: str = ""
    """File for the numbers as JSON."""


class DrawnRows:
    """Features drawn at random, one row a picture, on the device or in a file."""

    def __init__(
        self,
        pictures: int,
        device: torch.device,
        dtype: torch.dtype,
        shape: tuple[int, int] = (PATCHES, FEATURES),
        file: Path | None = None,
    ) -> None:
        if file is None:
            self._rows = torch.randn(pictures, *shape, device=device, dtype=dtype)
            return
        size = (pictures, *shape)
        mapped = torch.from_file(str(file), shared=True, size=math.prod(size), dtype=dtype)
        self._rows = mapped.view(size)
        few = torch.randn(min(pictures, 100), *shape, dtype=dtype)
        for start in range(0, pictures, len(few)):
            self._rows[start : start + len(few)] = few[: pictures - start]

    def rows(self, indices: Tensor) -> Tensor:
        """(B, P, F) of row numbers."""
        return self._rows[indices.to(self._rows.device)]


def read_records(options: Options) -> list[Record]:
    """Pictures with their captions."""
    if not options.captions:
        return drawn_records(options.pictures)
    opened = gzip.open if options.captions.endswith(".gz") else open
    captions: dict[str, list[str]] = {}
    with opened(options.captions, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image"], []).append(row["caption"])
    real = [Record(Path(name), tuple(texts)) for name, texts in captions.items()]
    return repeated(real, options.pictures)


def repeated(records: list[Record], count: int) -> list[Record]:
    """So many of the records, all of them again where they are fewer."""
    return (records * (count // len(records) + 1))[:count]


def drawn_records(pictures: int, different: int = 1000) -> list[Record]:
    """Five captions a picture, as long as Flickr8k's (the 29,750 of its training split: 11.8 ± 3.9
    words and marks, and 13.0 tokens with <END> in the project's vocabulary of 10,000 at most).

    Words are letters alone: a tokenizer cuts a letter from a digit, and captions of "w12" had 25.
    """
    generator = np.random.default_rng(0)
    words = ["".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=3)]
    words = words[:9000]
    shape = min(pictures, different), 5
    lengths = generator.normal(11.8, 3.8, shape).round().clip(3, 35).astype(int)
    drawn = [
        Record(
            Path(f"{number}.jpg"),
            tuple(" ".join(generator.choice(words, length)) for length in row),
        )
        for number, row in enumerate(lengths)
    ]
    return repeated(drawn, pictures)


def make_model(
    config: Config, patches: int, vocabulary: int, device: torch.device, width: int = FEATURES
) -> CaptionModel:
    """The default decoder with random weights."""
    torch.manual_seed(0)
    model = CaptionModel.from_config(
        config, patches=patches, feature_dim=width, vocab_size=vocabulary
    )
    return model.to(device)


def make_optimizer(
    model: CaptionModel, config: Config, encoder: nn.Module | None = None
) -> torch.optim.AdamW:
    """As `train.py` makes it; without an encoder, for features that are given."""
    return build_optimizer(
        model,
        encoder or nn.Identity(),  # type: ignore[arg-type]
        learning_rate=config.LEARNING_RATE,
        encoder_learning_rate=config.ENCODER_LEARNING_RATE,
        encoder_layer_decay=config.ENCODER_LAYER_DECAY,
        weight_decay=config.WEIGHT_DECAY,
        betas=(config.ADAM_BETA1, config.ADAM_BETA2),
        eps=config.ADAM_EPS,
    )


def decoder_gradients(
    model: CaptionModel, runtime: Runtime, label_smoothing: float, *, records: bool
) -> Gradients:
    """Gradients of cross-entropy for features that are given, as `train.py` makes them."""
    encoder = nn.Identity()
    objective = CrossEntropy(label_smoothing)
    return Gradients(model, encoder, runtime, objective, records=records)  # type: ignore[arg-type]


def flops(batches: Sequence[Batch], model: CaptionModel, tokens: int = PATCHES) -> float:
    """Floating-point operations of a training step: two a weight and token it meets, times three.

    Counted: each linear layer once a true token, the projection and each layer's keys and values
    once a patch of a picture, scores and sums of attention. Forward once, backward twice.
    """
    decoder = model.decoder
    dim = decoder.embedding.embedding_dim
    by_token = decoder.embedding.weight.numel()
    assert isinstance(model.projection, Projection)
    by_patch = sum(p.numel() for p in model.projection.mlp.parameters() if p.dim() == 2)
    for block in decoder.blocks:
        read = block.cross_attention.key_value.weight.numel()
        by_patch += read
        by_token += sum(p.numel() for p in block.parameters() if p.dim() == 2) - read
    total = 0.0
    for batch in batches:
        patches = len(batch.picture_rows) * tokens
        lengths = batch.positions.float() + 1
        attended = float(lengths.sum()) + batch.num_tokens * tokens
        total += 2 * (by_token * batch.num_tokens + by_patch * patches)
        total += 2 * 2 * dim * attended * len(decoder.blocks)
    return 3 * total


def old_way(
    config: Config, tokenizer: CaptionTokenizer, records: Sequence[Record], device: torch.device
) -> Callable[[], int]:
    """A step of the first scripts."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    encoder = CLIPVisionModel(CLIPVisionConfig(patch_size=32)).to(device).eval()
    config = replace(config, MAX_SEQ_LEN=OLD_LENGTH)
    model = make_model(config, 1, len(tokenizer), device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    texts = [text for record in records for text in record.captions]
    positions = torch.arange(OLD_LENGTH, device=device).repeat(OLD_BATCH)
    generator = np.random.default_rng(0)

    def step() -> int:
        ids = torch.zeros(OLD_BATCH, OLD_LENGTH + 1, dtype=torch.long)
        for row, text in enumerate(generator.choice(texts, OLD_BATCH)):
            tokens = tokenizer.encode(str(text), OLD_LENGTH + 1)
            ids[row, : len(tokens)] = torch.tensor(tokens)
        ids = ids.to(device)
        pixels = torch.randn(OLD_BATCH, 3, 224, 224, device=device)
        with torch.no_grad():
            features = encoder(pixels).last_hidden_state[:, :1]
        packing = Packing(OLD_BATCH, OLD_LENGTH)
        logits = model(features, ids[:, :-1].flatten(), positions, packing)
        loss = F.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=tokenizer.pad_id)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return OLD_BATCH

    return step


def plain_way(
    config: Config,
    model: CaptionModel,
    dataset: CaptionDataset,
    rows: DrawnRows,
    runtime: Runtime,
) -> Callable[[], int]:
    """Cached features, each pair on its own, padded to the longest caption of the batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    plan = dataset.plan(config.BATCH_SIZE, captions_per_step=1, seed=0)
    numbers = iter(range(10**9))
    pad = CaptionTokenizer.pad_id

    def step() -> int:
        groups = plan.groups(next(numbers) % (len(plan) - 1))
        batch = dataset.collate_fn(plan, groups, rows)
        packing = Packing(batch.packing.rows, batch.packing.length)
        slots = batch.packing.slots
        assert slots is not None
        grid = torch.full((2, packing.rows * packing.length), pad)
        grid[0, slots], grid[1, slots] = batch.inputs, batch.targets
        inputs, targets = grid.to(runtime.device)
        positions = torch.arange(packing.length, device=runtime.device).repeat(packing.rows)
        with runtime.autocast():
            features = batch.content.to(runtime.device).float()
            logits = model(features, inputs, positions, packing)
            loss = F.cross_entropy(logits.float(), targets, ignore_index=pad, label_smoothing=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return batch.num_captions

    return step


class OurWay:
    """Steps as `train.py` makes them."""

    def __init__(
        self,
        config: Config,
        model: CaptionModel,
        steps: StepDataset,
        runtime: Runtime,
    ) -> None:
        self.model, self.steps, self.runtime, self.config = model, steps, runtime, config
        self.optimizer = make_optimizer(model, config)
        self.number = 0
        records = runtime.device.type == "cuda" and config.CUDA_GRAPHS == "auto"
        self.gradients = decoder_gradients(model, runtime, config.LABEL_SMOOTHING, records=records)

    def __call__(self) -> int:
        """One step; returns its pairs."""
        self.runtime.seed_step(0, self.number)
        step = step_of(self.steps, self.number % max(1, len(self.steps) - 1))
        self.number += 1
        train_step(self.gradients, self.optimizer, step, clip_norm=self.config.GRAD_CLIP_VALUE)
        return step.num_captions


def step_of(steps: StepDataset, number: int) -> Step:
    """A step; drawn features have none that cannot be read."""
    step = steps[number]
    assert isinstance(step, Step)
    return step


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pairs_per_second(step: Callable[[], int], count: int, device: torch.device) -> float:
    """Throughput over `count` steps."""
    synchronize(device)
    began = time.perf_counter()
    pairs = sum(step() for _ in range(count))
    synchronize(device)
    return pairs / (time.perf_counter() - began)


def matmul_flops(runtime: Runtime) -> float:
    """FLOP/s of the machine's own large matrix product in the run's precision."""
    size = 8192 if runtime.device.type == "cuda" else 2048
    a = torch.randn(size, size, device=runtime.device, dtype=runtime.dtype)
    times = 20 if runtime.device.type == "cuda" else 4
    (a @ a).sum().item()
    synchronize(runtime.device)
    began = time.perf_counter()
    for _ in range(times):
        a @ a
    synchronize(runtime.device)
    return times * 2 * size**3 / (time.perf_counter() - began)


def average_update_seconds(model: CaptionModel, times: int, device: torch.device) -> float:
    """What EMA_DECAY adds to a step: an update of the weights' average, median."""
    average, seconds = WeightAverage({"model": model}, 0.999), []
    for number in range(1, times + 1):
        synchronize(device)
        began = time.perf_counter()
        average.update(number)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    runtime = Runtime.create(options.device)
    device = runtime.device
    config = Config(BATCH_SIZE=options.batch_size)
    records = read_records(options)
    texts = {caption: None for record in records for caption in record.captions}
    tokenizer = train_tokenizer(texts, config.VOCAB_SIZE)
    dataset = CaptionDataset(records, tokenizer, config.MAX_SEQ_LEN)
    patches, width = SHAPES[options.encoder]
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "rows" if options.mapped else None
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = DrawnRows(len(records), device, dtype, (patches, width), file)
    steps = StepDataset(dataset, dataset.plan(config.BATCH_SIZE, seed=0), rows)

    def fresh() -> CaptionModel:
        return make_model(config, patches, len(tokenizer), device, width)

    ours = OurWay(config, fresh(), steps, runtime)
    sides: dict[str, Callable[[], int]] = {
        "plain": plain_way(config, fresh(), dataset, rows, runtime),
        "ours": ours,
    }
    if device.type == "cuda":
        sides["told"] = OurWay(replace(config, CUDA_GRAPHS="off"), fresh(), steps, runtime)
    if not options.skip_old:
        sides["old"] = old_way(config, tokenizer, records, device)
    warm_seconds = {}
    for side, step in sides.items():
        began = time.perf_counter()
        # Allocate, record shapes.
        pairs_per_second(step, options.steps if device.type == "cuda" else 2, device)
        warm_seconds[side] = time.perf_counter() - began
    found: dict[str, list[float]] = {side: [] for side in sides}
    ceilings = []
    for _ in range(options.rounds):
        for side, step in sides.items():
            found[side].append(pairs_per_second(step, options.steps, device))
        ceilings.append(matmul_flops(runtime))
    medians = {side: statistics.median(values) for side, values in found.items()}
    sample = [step_of(steps, number).batches for number in range(max(1, min(len(steps) - 1, 20)))]
    flops_per_pair = sum(flops(batches, ours.model, patches) for batches in sample) / sum(
        batch.num_captions for batches in sample for batch in batches
    )
    ceiling = statistics.median(ceilings)
    results = {
        "pairs_per_second": medians,
        "ratio_to_old": medians["ours"] / medians["old"] if "old" in medians else None,
        "ratio_to_plain": medians["ours"] / medians["plain"],
        "gflop_per_pair": flops_per_pair / 1e9,
        "ceiling_gflops": ceiling / 1e9,
        "ceiling_share": medians["ours"] * flops_per_pair / ceiling,
        "padded_share": padded_share(sample),
        "epoch_seconds_of_145000_pairs": FLICKR30K_PAIRS / medians["ours"],
        "average_update_ms": 1e3 * average_update_seconds(ours.model, options.rounds * 3, device),
        "warm_up_seconds": warm_seconds,
        "shapes_recorded": ours.gradients.recorded_shapes,
        "memory_mb": runtime.memory_bytes() / 1e6,
        "features": f"{options.encoder}, {'mapped' if options.mapped else 'on the device'}",
        "batch_size": options.batch_size,
        "device": runtime.description,
    }
    if options.profile:
        results["profile"] = profile(ours, min(options.steps, 5), device)
    show(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    folder.cleanup()
    return 0


def profile(step: Callable[[], int], count: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a step of what takes longest, kernel by kernel, and of all of them together."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    is_gpu = device.type == "cuda"
    if is_gpu:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    synchronize(device)
    began = time.perf_counter()
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(count):
            step()
        synchronize(device)
    wall = 1e3 * (time.perf_counter() - began) / count
    name = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    times = {
        one.key: getattr(one, name) / 1e3 / count
        for one in profiler.key_averages()
        # What lies on a GPU are kernels, and spans of time that have names.
        if not is_gpu or (one.device_type == DeviceType.CUDA and not one.is_user_annotation)
    }
    longest = sorted(times.items(), key=lambda item: -item[1])[:15]
    return {"a step, profiled": wall, "all kernels": sum(times.values()), **dict(longest)}


def padded_share(sample: Sequence[Sequence[Batch]]) -> float:
    """Padding among the tokens that linear layers compute."""
    batches = [batch for batches in sample for batch in batches]
    padding = sum(int((batch.targets == CaptionTokenizer.pad_id).sum()) for batch in batches)
    return padding / sum(batch.num_tokens for batch in batches)


def show(results: Mapping[str, object]) -> None:
    """Print what was measured."""
    for name, value in results.items():
        if isinstance(value, dict):
            for side, number in value.items():
                print(f"{f'{name}, {side}':32}{number:12,.1f}")
        else:
            shown = f"{value:12,.4g}" if isinstance(value, float) else f"{value!s:>12}"
            print(f"{name:32}{shown}")


if __name__ == "__main__":
    run_command(main)

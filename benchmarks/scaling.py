"""What runs of four sizes take on 1, 8 and 64 GPUs: a calculation, not a measurement.

    python benchmarks/scaling.py --json scaling.json

Prints the tables of `docs/scaling.md` in Markdown. Each number that goes in stands below with where
it comes from: `measured` (BENCHMARKS.md), `counted` from shapes, `published` by who made the data
or the hardware, or `assumed`. One GPU was measured; what eight reach is one's, eight times.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from captioning.system.errors import run_command
from captioning.system.options import parse_options

DECODER_GFLOP_A_PAIR = 2.21
"""Measured: forward and backward, counted by `benchmarks/training.py` on Flickr8k's captions."""
ENCODER_GFLOP_A_PICTURE = round(
    (12 * 50 * (24 * 768**2 + 4 * 50 * 768) + 2 * 49 * 768 * 3 * 32**2) / 1e9, 1
)
"""Counted: CLIP ViT-B/32 at 224 pixels, forward alone: 12 blocks of 50 tokens, and 49 patches."""
FEATURE_BYTES = 50 * 768 * 2
"""Counted: CLIP ViT-B/32's 50 tokens in float16, as the feature store holds them."""
DECODED_PER_CORE = 544.0
"""Measured: photographs of 500 x 375 a second and core, by `benchmarks/features.py`."""
WEIGHT_BYTES = 4 * 31e6
"""Counted: gradients of the default projection and decoder in float32, which DDP sums a step."""
GPU_TFLOPS = 989.0
"""Published: dense bfloat16 of an H100 or H200 (SXM), NVIDIA's data sheet."""
DECODER_SHARE, ENCODER_SHARE = 0.059, 0.19
"""Measured on an H200 (`make gpu`): share of that which training the small decoder, 256 captions a
step, and the forward pass of CLIP ViT-B/32 reach."""
GPU_MEMORY_BYTES = 141e9
"""Published: an H200's memory."""
CORES_A_GPU = 12
"""Assumed: 96 cores beside 8 GPUs."""
DISK_BYTES_A_SECOND = 3e9
"""Assumed: NVMe of a machine."""
NVLINK_BYTES_A_SECOND, NETWORK_BYTES_A_SECOND = 450e9, 50e9
"""Published: what a GPU sends within a machine, and by 400 Gbit/s to another."""
STREAM_BYTES_A_SECOND = 1e9
"""Assumed: from an object store or the Hub, a machine of 8 GPUs."""
GPUS_A_MACHINE = 8
BATCH = 256
"""Captions a step and GPU, which is the default for one."""


@dataclass(frozen=True)
class Data:
    """A data set."""

    name: str
    pictures: float
    """Published."""
    captions: int
    """A picture; published."""
    picture_bytes: float
    """On average; published or assumed."""
    epochs: int
    """Assumed."""
    is_streamed: bool
    """Whether pictures come over the network each time, or lie on the machines' disks."""

    @property
    def picture_source(self) -> str:
        """Where pictures come from."""
        return "network" if self.is_streamed else "disk"


DATA = (
    Data("Flickr30k", 29_000, 5, 140e3, 15, False),
    Data("COCO", 113_287, 5, 160e3, 15, False),
    Data("CC12M", 10_900_000, 1, 60e3, 10, True),
    Data("LAION-400M", 400_000_000, 1, 25e3, 1, True),
)
GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Run:
    """What one run takes."""

    data: str
    gpus: int
    way: str
    """features or live."""
    hours: float
    """All epochs, the encoding of features included."""
    bound: str
    """What is busy all the time."""
    cores_a_gpu: float
    """Cores that would have to decode so that the GPU need not wait."""
    disk_tb: float
    """Features, or nothing."""
    pictures_mb_a_second: float
    """What a machine reads of pictures while it encodes."""


def seconds(data: Data, gpus: int) -> dict[str, float]:
    """Seconds of one epoch by what could bound it, decoding once a picture."""
    pairs, pictures = data.pictures * data.captions, data.pictures
    machines = max(1, gpus // GPUS_A_MACHINE)
    flops = gpus * GPU_TFLOPS * 1e12
    link = NVLINK_BYTES_A_SECOND if gpus <= GPUS_A_MACHINE else NETWORK_BYTES_A_SECOND
    source = STREAM_BYTES_A_SECOND if data.is_streamed else DISK_BYTES_A_SECOND
    summing = 2 * WEIGHT_BYTES / link if gpus > 1 else 0.0
    return {
        "decoder": pairs * DECODER_GFLOP_A_PAIR * 1e9 / (flops * DECODER_SHARE),
        "encoder": pictures * ENCODER_GFLOP_A_PICTURE * 1e9 / (flops * ENCODER_SHARE),
        "decoding": pictures / (DECODED_PER_CORE * CORES_A_GPU * gpus),
        "pictures": pictures * data.picture_bytes / (source * machines),
        "features": pictures * FEATURE_BYTES / (DISK_BYTES_A_SECOND * machines),
        "gradients": pairs / (BATCH * gpus) * summing,
    }


def live(data: Data, gpus: int) -> Run:
    """Pictures decoded and encoded each time that they pass."""
    took = seconds(data, gpus)
    computing = took["decoder"] + took["encoder"] + took["gradients"]
    sides = {
        "GPU": computing,
        "decoding": took["decoding"],
        data.picture_source: took["pictures"],
    }
    bound = max(sides, key=sides.__getitem__)
    machines = max(1, gpus // GPUS_A_MACHINE)
    return Run(
        data.name,
        gpus,
        "live",
        sides[bound] * data.epochs / 3600,
        bound,
        data.pictures / computing / gpus / DECODED_PER_CORE,
        0.0,
        data.pictures * data.picture_bytes / sides[bound] / machines / 1e6,
    )


def from_features(data: Data, gpus: int) -> Run:
    """Pictures decoded and encoded once; every epoch reads features."""
    took = seconds(data, gpus)
    first = {
        "GPU": took["encoder"],
        "decoding": took["decoding"],
        data.picture_source: took["pictures"],
    }
    fits = data.pictures * FEATURE_BYTES < GPU_MEMORY_BYTES / 2
    epoch = {
        "GPU": took["decoder"] + took["gradients"],
        "disk": 0.0 if fits else took["features"],
    }
    once, each = max(first.values()), max(epoch.values())
    is_once = once > each * data.epochs
    sides = first if is_once else epoch
    bound = max(sides, key=sides.__getitem__) + (", once" if is_once else "")
    machines = max(1, gpus // GPUS_A_MACHINE)
    return Run(
        data.name,
        gpus,
        "features",
        (once + each * data.epochs) / 3600,
        bound,
        data.pictures / took["encoder"] / gpus / DECODED_PER_CORE,
        data.pictures * FEATURE_BYTES / 1e12,
        data.pictures * data.picture_bytes / once / machines / 1e6,
    )


def runs() -> list[Run]:
    """Every data set on every number of GPUs, both ways."""
    return [way(data, gpus) for data in DATA for gpus in GPUS for way in (from_features, live)]


def runs_table() -> str:
    """The runs, in Markdown."""
    lines = [
        "| data, epochs | GPUs | way | time | bound by | cores a GPU so that it never waits "
        "| features, TB | pictures a machine, MB/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    epochs = {data.name: data.epochs for data in DATA}
    for run in runs():
        lines.append(
            f"| {run.data}, {epochs[run.data]} | {run.gpus} | {run.way} | {duration(run.hours)} "
            f"| {run.bound} | {run.cores_a_gpu:.0f} | {run.disk_tb:.3g} "
            f"| {run.pictures_mb_a_second:,.0f} |"
        )
    return "\n".join(lines)


def epochs_table() -> str:
    """Hours of CC12M on 8 GPUs from features and live, by epochs, in Markdown."""
    counts = (1, 2, 3, 5, 10, 20)
    cells: dict[str, list[str]] = {"features": [], "live": []}
    for epochs in counts:
        data = replace(DATA[2], epochs=epochs)
        for run in (from_features(data, 8), live(data, 8)):
            cells[run.way].append(duration(run.hours))
    lines = [
        f"| epochs | {' | '.join(map(str, counts))} |",
        f"|---|{'---|' * len(counts)}",
        *(f"| {way} | {' | '.join(row)} |" for way, row in cells.items()),
    ]
    return "\n".join(lines)


def inputs_table() -> str:
    """The numbers that go in, in Markdown."""
    rows = (
        ("decoder and projection, a pair", f"{DECODER_GFLOP_A_PAIR} GFLOP", "measured"),
        ("decoding a photograph of 500 x 375", f"{DECODED_PER_CORE:g} a core", "measured"),
        ("encoder, a picture", f"{ENCODER_GFLOP_A_PICTURE} GFLOP", "counted"),
        ("features of a picture", f"{FEATURE_BYTES:,} bytes", "counted"),
        ("gradients that DDP sums, a step", f"{WEIGHT_BYTES / 1e6:.0f} MB", "counted"),
        ("a GPU in bfloat16", f"{GPU_TFLOPS:g} TFLOP/s", "published (H200)"),
        ("of it, the decoder's training", f"{DECODER_SHARE:.1%}", "measured, H200"),
        ("of it, the encoder", f"{ENCODER_SHARE:.0%}", "measured, H200"),
        ("cores a GPU", str(CORES_A_GPU), "**assumed**"),
        ("disk of a machine", f"{DISK_BYTES_A_SECOND / 1e9:g} GB/s", "**assumed**"),
        ("stream into a machine", f"{STREAM_BYTES_A_SECOND / 1e9:g} GB/s", "**assumed**"),
        ("from GPU to GPU of a machine", f"{NVLINK_BYTES_A_SECOND / 1e9:g} GB/s", "published"),
        ("to another machine, a GPU", f"{NETWORK_BYTES_A_SECOND / 1e9:g} GB/s", "published"),
    )
    lines = ["| what | number | where from |", "|---|---|---|"]
    return "\n".join(lines + [f"| {a} | {b} | {c} |" for a, b, c in rows])


@dataclass(frozen=True)
class Kernel:
    """What one kind of work of a training step needs, forward and backward."""

    name: str
    gflop: float
    megabytes: float
    """Read and written in the device's memory, each tensor once a kernel."""

    def microseconds(self, card: "Card") -> tuple[float, str]:
        """The least time on a card, and what binds it."""
        arithmetic = self.gflop * 1e9 / card.flops * 1e6
        memory = self.megabytes * 1e6 / card.bytes_a_second * 1e6
        return max((arithmetic, "arithmetic"), (memory, "memory"))


@dataclass(frozen=True)
class Card:
    """Published peaks of a card."""

    name: str
    flops: float
    """Dense bfloat16 with float32 sums, a second."""
    bytes_a_second: float


CARDS = (Card("H100 (SXM)", 989e12, 3.35e12), Card("RTX 4090, 24 GB", 165e12, 1.01e12))
TOKENS_A_CAPTION = 12.9
"""Measured: of Flickr8k's captions, the end counted."""


def kernels() -> list[Kernel]:
    """A step of the default model on CLIP ViT-B/32's features: 256 captions of 52 pictures."""
    N, B, P, F, D, M, V, L = TOKENS_A_CAPTION * BATCH, BATCH / 5, 50, 768, 512, 2048, 10_000, 6
    half, whole = 2, 4  # bytes of bfloat16 and of float32

    def linear(name: str, rows: float, width: int, out: int, times: int = 1) -> Kernel:
        """Three products; the input and output each way, the weight thrice, its gradient."""
        moved = 3 * rows * (width + out) * half + width * out * (2 * half + 2 * whole)
        return Kernel(name, times * 6 * rows * width * out / 1e9, times * moved / 1e6)

    weights = WEIGHT_BYTES / 4
    reads = 2 * 2 * N * (TOKENS_A_CAPTION / 2 + P) * D  # scores and sums of both attentions
    return [
        linear("queries, keys, values of the caption", N, D, 3 * D, L),
        linear("outputs of both attentions, queries of the picture", N, D, D, 3 * L),
        linear("feed-forward", N, D, M, 2 * L),
        linear("keys and values of the pictures", B * P, D, 2 * D, L),
        linear("projection", B * P, F, D, 2),
        linear("logits", N, D, V),
        Kernel("attention", 3 * L * reads / 1e9, 3 * L * (8 * N + 2 * B * P) * D * half / 1e6),
        Kernel("norms, sums, dropout", 0.0, L * 3 * 8 * N * D * half / 1e6),
        Kernel("loss over the vocabulary", 0.0, 3 * N * V * half / 1e6),
        Kernel("clipping and AdamW", 0.0, 9 * weights * whole / 1e6),
    ]


def kernels_table() -> str:
    """The least time of each kernel on each card, in Markdown."""
    found = kernels()
    lines = [
        "| work of a step | GFLOP | MB | " + " | ".join(f"{one.name}, µs" for one in CARDS) + " |",
        f"|---|---|---|{'---|' * len(CARDS)}",
    ]
    for kernel in found:
        times = (kernel.microseconds(card) for card in CARDS)
        cells = " | ".join(f"{time:.0f} ({bound})" for time, bound in times)
        lines.append(f"| {kernel.name} | {kernel.gflop:.0f} | {kernel.megabytes:.0f} | {cells} |")
    sums = [sum(kernel.microseconds(card)[0] for kernel in found) for card in CARDS]
    gflop, moved = (sum(getattr(k, part) for k in found) for part in ("gflop", "megabytes"))
    cells = " | ".join(f"**{one:.0f}**" for one in sums)
    lines.append(f"| all | {gflop:.0f} | {moved:.0f} | {cells} |")
    epochs = " | ".join(f"{one * 145_000 / BATCH / 1e6:.2f} s" for one in sums)
    lines.append(f"| an epoch of Flickr30k at that | | | {epochs} |")
    return "\n".join(lines)


def duration(hours: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 3600:.3g} s"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write."""

    json: str = ""
    """File for the numbers as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    print("\n\n".join((inputs_table(), runs_table(), epochs_table(), kernels_table())))
    if options.json:
        content = [run.__dict__ for run in runs()]
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_command(main)

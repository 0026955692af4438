"""Memory of reading a feature store as the data set grows.

    python benchmarks/memory.py --json benchmark.json

For each size a fresh process reads every row of a store once, in random order, 52 pictures at a
time (a step's), and notes the most memory that it held: RAM of its own, which the page cache is not
part of, and the device's, with rows that stream and with rows held. The stores are as large as
CLIP-B/32's and hold zeros, for their content does not matter here. Writes temporary files (7.7 GB
of holes for 100,000 pictures, of which the page cache holds what it likes) and the JSON file.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from captioning.store.files import StoreContent
from captioning.store.rows import FeatureStore
from captioning.system.errors import UserError, run_command
from captioning.system.options import parse_options
from captioning.system.runtime import choose_device

SIZES = (1_000, 10_000, 100_000)
ROW_SHAPE = (50, 768)
PICTURES_A_STEP = 52
STEPS_A_SAMPLE = 20
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    folder: str = ""
    """Where the stores are made ("" = the usual place for temporary files)."""
    json: str = ""
    """File for the numbers as JSON."""


@dataclass(frozen=True)
class Measured:
    """Peaks of one process."""

    pictures: int
    store_bytes: int
    ram_before_bytes: int
    """Before the store is opened."""
    ram_peak_bytes: int
    device_streaming_bytes: int
    device_held_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the JSON file."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    if not STATUS.exists():
        raise UserError(f"There is no {STATUS} here to read memory from; measure on Linux.")
    device = str(choose_device(options.device))
    results = []
    print(
        f"{'pictures':>10}{'store':>10}{'RAM':>10}{'its peak':>10}{'device':>10}{'held':>10}  (MB)"
    )
    for pictures in SIZES:
        with (
            tempfile.TemporaryDirectory(dir=options.folder or None) as folder,
            multiprocessing.get_context("spawn").Pool(1) as fresh,
        ):
            found = fresh.apply(measure, (pictures, Path(folder) / "train.bin", device))
        results.append(found)
        sizes = list(asdict(found).values())[1:]
        print(f"{pictures:>10,}" + "".join(f"{size / 1e6:>10,.0f}" for size in sizes))
    if options.json:
        numbers = {"device": device, "sizes": [asdict(result) for result in results]}
        Path(options.json).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(pictures: int, path: Path, device_name: str) -> Measured:
    """Read an epoch of a store of `pictures` rows."""
    device = torch.device(device_name)
    content = StoreContent(
        contents="features",
        source="",
        arithmetic="float32",
        dtype="float16",
        row_shape=ROW_SHAPE,
        rows=pictures,
        chunk_digests=(),
    )
    with path.open("wb") as file:
        file.truncate(content.nbytes)
    torch.zeros(1, device=device)  # starts the device
    before = anonymous_bytes()
    store = FeatureStore(path, content, device)
    peak = read_epoch(store)
    streaming = device_bytes(device)
    held = 0
    if store.hold_on_device():
        peak = max(peak, read_epoch(store))
        held = device_bytes(device)
    return Measured(pictures, store.nbytes, before, peak, streaming, held)


def read_epoch(store: FeatureStore) -> int:
    """Read every row once; gives the most RAM held meanwhile, in bytes."""
    peak = 0
    for step, indices in enumerate(torch.split(torch.randperm(len(store)), PICTURES_A_STEP)):
        rows = store.rows(indices)
        if step % STEPS_A_SAMPLE == 0:
            peak = max(peak, anonymous_bytes())
        del rows
    return peak


def anonymous_bytes() -> int:
    """RAM of this process that is not a file's."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{STATUS} has no RssAnon")


def device_bytes(device: torch.device) -> int:
    """Most memory of the device held so far; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


if __name__ == "__main__":
    run_command(main)

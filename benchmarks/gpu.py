"""What a GPU does with this project, right and fast, in one command: `make gpu`.

    python benchmarks/gpu.py --output gpu
    python benchmarks/gpu.py --output gpu --parts step captions      these alone
    python benchmarks/gpu.py --device cpu --toy --output /tmp/toy    does it run at all

Needs no network and no data. Each part runs in a process and with a time limit of its own, so that
one that fails costs itself alone, the most telling first: checks beside each other, what is timed
by itself. `gpu.json` and `gpu.md` in the output folder grow as it goes. What they hold already is
not done again, so that the same command goes on where it was cut off. No part is begun after
`--minutes`.
"""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.flags import last_of_each
from captioning.system.errors import EXIT_DONE, EXIT_PARTLY_DONE, UserError, run_command
from captioning.system.files import write_json, write_text
from captioning.system.options import parse_options

ROOT = Path(__file__).parent.parent
CHECKS_AT_ONCE = max(1, (os.cpu_count() or 1) // 4)
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy")


@dataclass(frozen=True)
class Part:
    """A program that measures something and writes JSON."""

    command: str
    """A script of this folder and its flags; --device and --json are added."""
    toy: str
    """Flags besides, for a run that is tiny."""
    seconds: int
    """Time limit."""
    is_timed: bool = True
    """Whether it measures time, so that nothing may run beside it."""


def _check(name: str, seconds: int) -> Part:
    return Part(f"gpu_right.py --check {name}", "--toy true", seconds, is_timed=False)


TOY_TRAINING = "--pictures 8 --steps 1 --rounds 1 --batch_size 8 --skip_old true"
TOY_FEATURES = "--encoder tiny --pictures 4 --repeats 1 --num_workers 0"
TRAINING = "training.py --steps 30"
PARTS = {
    "step": _check("step", 180),
    "captions": _check("captions", 180),
    "resume": _check("resume", 180),
    "self-critical": _check("self-critical", 180),
    "workers": _check("workers", 180),
    "memory": _check("memory", 90),
    "sharding": _check("sharding", 90),
    "training": Part(f"{TRAINING} --pictures 29000 --profile true", TOY_TRAINING, 150),
    "training on L/14-336": Part(
        f"{TRAINING} --pictures 8000 --encoder L/14-336 --skip_old true", TOY_TRAINING, 120
    ),
    "training on L/14-336, mapped": Part(
        "training.py --steps 5 --pictures 1000 --encoder L/14-336 --mapped true --skip_old true",
        f"{TOY_TRAINING} --encoder B/32",
        90,
    ),
    "search": Part(
        "generation.py --batches 1 32 256 --repeats 3 --old false", "--batches 1 --repeats 1", 120
    ),
    "features of B/32": Part("features.py --pictures 1024", TOY_FEATURES, 60),
    "features of B/16": Part("features.py --pictures 512 --encoder B/16", TOY_FEATURES, 60),
    "features of L/14-336": Part(
        "features.py --pictures 256 --encoder L/14-336 --repeats 2", TOY_FEATURES, 90
    ),
    "training of the encoder": Part(
        "encoder_training.py --pictures 64 --repeats 1 --steps 8", "--pictures 2 --steps 1", 150
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run, where, for how long."""

    output: str = "gpu"
    """Folder for gpu.json, gpu.md and what each part printed."""
    device: str = "cuda"
    """cuda, cuda:1, cpu."""
    minutes: float = 8.0
    """No part begins after so many minutes."""
    parts: tuple[str, ...] = ()
    """Names of parts (default: all)."""
    toy: bool = False
    """Everything tiny: whether the parts run, not what they measure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are not done yet; 1 where one failed, found a fault or was left out."""
    options = parse_options(Options, sys.argv[1:] if argv is None else argv, description=__doc__)
    if unknown := [name for name in options.parts if name not in PARTS]:
        raise UserError(f"there is no part {unknown[0]!r}; write some of: {', '.join(PARTS)}.")
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "gpu.json"
    known = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    found = {"machine": machine(options.device), "parts": dict(known.get("parts", {}))}
    todo = [name for name in options.parts or PARTS if "found" not in found["parts"].get(name, {})]
    checks = [name for name in todo if not PARTS[name].is_timed]
    end = time.monotonic() + options.minutes * 60
    for together in (checks, *([name] for name in todo if PARTS[name].is_timed)):
        for name, part in run_together(together, options, folder, end):
            found["parts"][name] = part
            write_json(place, found)
            write_text(folder / "gpu.md", table(found))
            print(f"{name}: {verdict(part)}", flush=True)
    print(f"\n{table(found)}\nwritten to {place} and {folder / 'gpu.md'}")
    wanted = [found["parts"].get(name, {}) for name in options.parts or PARTS]
    is_well = all("found" in part and part["found"].get("right") is not False for part in wanted)
    return EXIT_DONE if is_well else EXIT_PARTLY_DONE


def run_together(
    names: Sequence[str], options: Options, folder: Path, end: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run parts, some beside each other; each with what it found, as they end."""
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        found = {pool.submit(run_part, name, options, folder, end, running): name for name in names}
        try:
            for ended in as_completed(found):
                yield found[ended], ended.result()
        finally:  # also where a user has had enough
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                end_session(process)


def run_part(
    name: str,
    options: Options,
    folder: Path,
    end: float,
    running: "set[subprocess.Popen[bytes]]",
) -> dict[str, Any]:
    """What a part found, or why it found nothing; what it printed lies in the folder. Its process
    is among `running` while it runs."""
    if time.monotonic() > end:
        return {"failed": f"left out after {options.minutes:g} minutes; run it again to go on"}
    part, result = PARTS[name], folder / f"{name.replace('/', '-')}.json"
    result.unlink(missing_ok=True)
    flags = [*part.command.split()[1:], *(part.toy.split() if options.toy else ())]
    command = [sys.executable, str(ROOT / "benchmarks" / part.command.split()[0])]
    command += [*last_of_each(flags), "--device", options.device, "--json", str(result)]
    settings = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONFAULTHANDLER": "1"}
    limit = part.seconds * (10 if options.toy else 1)  # a CPU, perhaps a busy one
    began = time.monotonic()
    with open(result.with_suffix(".log"), "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings},
            start_new_session=True,
        )
        running.add(process)
        try:
            code = process.wait(limit)
            why = f"it ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            why = f"it took more than {limit} s, its log says where"
        end_session(process)
        running.discard(process)
    taken = {"seconds": round(time.monotonic() - began, 1), "command": part.command}
    if result.exists() and not why:
        return {**taken, "found": json.loads(result.read_text(encoding="utf-8"))}
    last = Path(log.name).read_text(encoding="utf-8").strip().splitlines()[-1:]
    return {**taken, "failed": f"{why or 'it wrote nothing'}: {' '.join(last)[:300]}"}


def end_session(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started; Python writes first where it was."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)


def machine(device: str) -> dict[str, str]:
    """Device, driver and versions, as the first lines of any report of it."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = "none"
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "device": device,
        "gpu": gpu,
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def verdict(part: Mapping[str, Any]) -> str:
    """A part in a few words."""
    if "failed" in part:
        return f"FAILED, {part['failed']}"
    right = part["found"].get("right", "measured")
    words = {True: "right", False: "WRONG", None: f"not checked, {part['found'].get('why')}"}
    return f"{words.get(right, right)} ({part['seconds']} s)"


def table(found: Mapping[str, Any]) -> str:
    """The Markdown page: the machine, each part with its verdict, all numbers."""
    facts = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    rows = "".join(f"| {name} | {verdict(part)} |\n" for name, part in found["parts"].items())
    pages = [f"# On a GPU\n\n{facts}\n\n| part | |\n|---|---|\n{rows}"]
    for name, part in found["parts"].items():
        if "found" in part:
            lines = "".join(f"| {key} | {value} |\n" for key, value in flat(part["found"]))
            head = f"`{part['command']}`, {part['seconds']} s"
            pages.append(f"\n## {name}\n\n{head}\n\n| | |\n|---|---|\n{lines}")
    return "".join(pages)


def flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Numbers of nested tables with the names on the way to them."""
    rows = []
    for key, value in values.items():
        name = f"{before}, {key}" if before else str(key)
        if isinstance(value, dict):
            rows += flat(value, name)
        else:
            shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
            rows.append((name.replace("|", "/"), shown.replace("|", "/")))
    return rows


if __name__ == "__main__":
    run_command(main)

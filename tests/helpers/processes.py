"""Runs commands in several processes on this machine, as `torchrun` starts them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.small_runs import SETTINGS, arguments

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ALONE = ("--standalone",)
"""Flags of one machine by itself."""


def start(
    command: Sequence[str | Path], processes: int = 2, *, flags: Sequence[str] = ALONE
) -> subprocess.Popen[str]:
    """Start a script and its arguments in several processes, which share their outputs."""
    return subprocess.Popen(
        [*TORCHRUN, *flags, "--nproc-per-node", str(processes), *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def start_training(
    folder: Path,
    processes: int = 2,
    *,
    script: str | Path = "train.py",
    flags: Sequence[str] = ALONE,
    **changes: object,
) -> subprocess.Popen[str]:
    """Start a small training; `script` may stand in for train.py."""
    return start([script, *arguments(folder, **changes)], processes, flags=flags)


def outputs_of(process: subprocess.Popen[str], seconds: float = 200) -> tuple[str, str]:
    """What it printed and what it said on standard error, once it has ended; in time or killed."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise AssertionError(process.communicate(timeout=60)) from None


def run_together(folder: Path, processes: int = 2, **changes: object) -> Path:
    """Train in several processes; returns the run's folder."""
    process = start_training(folder, processes, **changes)
    output, problems = outputs_of(process)
    assert process.returncode == 0, output + problems
    names = {**SETTINGS, **changes}
    return folder / "checkpoints" / str(names["RUN_NAME"])


def write_script(path: Path, before: str) -> Path:
    """train.py, with something done before it."""
    path.write_text(
        "import os, signal, sys, time\n"
        "import torch, optimization, train, trainer\n"
        "from captioning.system.errors import UserError, run_command\n"
        "from trainer import Trainer\n"
        "rank, attempt = int(os.environ['RANK']), os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        f"{before}\n"
        "run_command(train.main)\n",
        encoding="utf-8",
    )
    return path

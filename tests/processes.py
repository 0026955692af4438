"""Runs commands in several processes on this machine, as `torchrun` starts them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.small_runs import SETTINGS, arguments

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def start(
    command: Sequence[str | Path], processes: int = 2, *, flags: Sequence[str] = ("--standalone",)
) -> subprocess.Popen[str]:
    """Start a script and its arguments in several processes; all their output is one stream."""
    return subprocess.Popen(
        [*TORCHRUN, *flags, "--nproc-per-node", str(processes), *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def run_together(folder: Path, processes: int = 2, **changes: object) -> Path:
    """Train in several processes; returns the run's folder."""
    process = start(["train.py", *arguments(folder, **changes)], processes)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder / "checkpoints" / str({**SETTINGS, **changes}["RUN_NAME"])

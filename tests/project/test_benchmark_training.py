"""The benchmark of training steps runs, and counts what it should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ways_are_compared_in_one_run(tmp_path: Path) -> None:
    table = tmp_path / "numbers.json"
    sizes = "--pictures 8 --steps 1 --rounds 1 --batch_size 8 --device cpu --skip_old".split()
    command = [sys.executable, "benchmarks/training.py", *sizes, "--json", str(table)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads(table.read_text())
    speeds = found["pairs_per_second"]
    assert set(speeds) == {"plain", "ours"}
    assert found["ratio_to_plain"] == speeds["ours"] / speeds["plain"]
    assert found["padded_share"] == 0
    # Six layers of 12 d² weights and more, three passes, two operations for each of some ten words.
    assert 6 * 12 * 512**2 * 6 * 10 < found["gflop_per_pair"] * 1e9 < 1e11
    assert found["average_update_ms"] > 0

"""The benchmark of training steps runs, and counts what it should."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training import drawn_records
from tokenizer import train_tokenizer

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


def test_drawn_captions_are_as_long_as_those_of_flickr8k() -> None:
    captions = [caption for record in drawn_records(20) for caption in record.captions]
    tokenizer = train_tokenizer(captions * 2, 10_000)  # so that each word becomes one token
    with_end = [len(ids) - 1 for ids in tokenizer.encode_all(captions)]
    assert statistics.mean(with_end) == pytest.approx(13.0, abs=0.5)
    assert statistics.stdev(with_end) == pytest.approx(4.0, abs=0.5)

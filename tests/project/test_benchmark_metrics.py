"""The benchmark of the metrics, on a few captions."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_benchmark(folder: Path, captions: object) -> subprocess.CompletedProcess[str]:
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    command = [sys.executable, "benchmarks/metrics.py", "--references", folder / "captions.json"]
    return subprocess.run(
        [*map(str, command), "--repeats", "1", "--json", str(folder / "out.json")],
        cwd=ROOT,
        env={"PATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def test_numbers_are_printed_and_written(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, {"x": ["a dog runs", "a dog"], "y": ["a cat", "the cat"]})
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert numbers["pictures"] == 2
    assert numbers["references"] == 4
    assert numbers["seconds"] > 0
    assert numbers["cider_d_hypotheses_per_second"] > 0
    assert numbers["ratio_to_pycocoevalcap"] is None
    assert "ratio_to_pycocoevalcap" in done.stdout


def test_too_few_captions_are_refused(tmp_path: Path) -> None:
    done = run_benchmark(tmp_path, {"x": ["a dog runs"]})
    assert done.returncode == 2
    assert "at least 2 are needed" in done.stderr

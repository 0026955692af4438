"""`make gpu` runs its parts apart, keeps what was found, and needs few packages."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import PARTS, Part, main
from captioning.system.errors import UserError
from tests.helpers.small_runs import arguments, write_data, write_encoder

ROOT = Path(__file__).parents[2]
NOT_THERE = "wandb datasets pyarrow pandas peft accelerate onnx onnxruntime selenium hypothesis"
"""What a machine of a bare image lacks."""
TRAIN_WITHOUT = """
import sys
missing = set(sys.argv.pop(1).split())
class Fewer:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in missing:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Fewer, sys.meta_path)
import benchmarks.gpu_right, benchmarks.training, benchmarks.features, benchmarks.generation
import benchmarks.encoder_training, generate, evaluate, train
sys.exit(train.main(sys.argv[1:]))
"""
WRITES = "import json, sys; open(sys.argv[-1], 'w').write(json.dumps({'right': True, 'of': 0.5}))"
HANGS = """import subprocess, time
child = subprocess.Popen('while true; do echo >> "$CHILD"; sleep 0.02; done', shell=True)
time.sleep(60)
"""


def scripts(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Parts that are small programs instead of measurements."""
    (folder / "benchmarks").mkdir()
    for name, text in texts.items():
        (folder / "benchmarks" / f"{name}.py").write_text(text)
    monkeypatch.setattr(gpu, "ROOT", folder)
    monkeypatch.setattr(gpu, "PARTS", {name: Part(f"{name}.py", "", 5) for name in texts})


def test_a_part_that_fails_costs_itself_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts(tmp_path, monkeypatch, breaks="raise SystemExit('no such | kernel')", works=WRITES)
    output = ["--output", str(tmp_path / "gpu"), "--device", "cpu"]
    assert main(output) == 1
    found = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    assert found["parts"]["works"]["found"] == {"right": True, "of": 0.5}
    assert "ended with 1: no such | kernel" in found["parts"]["breaks"]["failed"]
    assert found["machine"]["torch"]
    page = (tmp_path / "gpu" / "gpu.md").read_text()
    assert "| works | right (" in page
    assert "| of | 0.5 |" in page
    capsys.readouterr()
    (tmp_path / "benchmarks" / "works.py").write_text("raise SystemExit('asked twice')")
    (tmp_path / "benchmarks" / "breaks.py").write_text(WRITES)
    assert main(output) == 0
    assert "works:" not in capsys.readouterr().out.split("\n\n")[0]


def test_a_part_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts(tmp_path, monkeypatch, hangs=HANGS, works=WRITES)
    monkeypatch.setitem(gpu.PARTS, "hangs", Part("hangs.py", "", 2))
    monkeypatch.setenv("CHILD", str(tmp_path / "child"))
    assert main(["--output", str(tmp_path / "gpu"), "--device", "cpu"]) == 1
    found = json.loads((tmp_path / "gpu" / "gpu.json").read_text())["parts"]
    assert "more than 2 s" in found["hangs"]["failed"]
    assert found["works"]["found"]["right"]
    assert 'hangs.py", line 3' in (tmp_path / "gpu" / "hangs.log").read_text()
    written = (tmp_path / "child").read_text()
    time.sleep(0.2)
    assert (tmp_path / "child").read_text() == written


def test_a_finding_that_is_wrong_and_time_that_is_over_show_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts(tmp_path, monkeypatch, wrong=WRITES.replace("True", "False"))
    assert main(["--output", str(tmp_path / "gpu"), "--device", "cpu"]) == 1
    assert "wrong: WRONG" in capsys.readouterr().out
    assert main(["--output", str(tmp_path / "b"), "--device", "cpu", "--minutes", "0"]) == 1
    assert "left out" in capsys.readouterr().out


def test_an_unknown_part_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part 'stepp'; write some of: step, captions"):
        main(["--output", str(tmp_path), "--parts", "stepp"])


def test_the_way_to_a_step_needs_no_package_that_a_bare_machine_lacks(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_encoder(tmp_path)
    words = arguments(tmp_path, NUM_EPOCHS=1, VALIDATION_IMAGES=1)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_WITHOUT, NOT_THERE, *words],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_all_parts_run_as_toys_on_a_cpu(tmp_path: Path) -> None:
    flags = ["--device", "cpu", "--toy", "true", "--minutes", "60"]
    assert main(["--output", str(tmp_path), *flags]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert found.keys() == PARTS.keys()
    assert {name for name, part in found.items() if part["found"].get("right") is None} == {
        name
        for name in PARTS
        if name == "memory" or not PARTS[name].command.startswith("gpu_right")
    }

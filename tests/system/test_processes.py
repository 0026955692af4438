"""Processes share the work of every command, stop together, end together, and go on exactly."""

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

import evaluate
import generate
from captioning.system.processes import partition
from checkpoint import read_checkpoint
from tests.helpers.processes import outputs_of, run_together, start, start_training, write_script
from tests.helpers.small_runs import (
    NOT_EXACT,
    differences,
    lines_of,
    run,
    weights_of,
)

SAVES = {"SAVE_INTERVAL": 3}
AT_STEP = """
remaining = Trainer._remaining
def interrupted(self):
    for step in remaining(self):
        if self.state.step == {number} and rank == {rank} and attempt == "0":
            {what}
        yield step
Trainer._remaining = interrupted
"""


@pytest.fixture(scope="module")
def place(place: Path) -> Path:
    """A folder with small data, a tiny CLIP and a run of two processes."""
    run_together(place, RUN_NAME="whole", **SAVES)
    return place


def equals_whole(place: Path, folder: Path) -> None:
    whole = place / "checkpoints" / "whole"
    assert differences(whole / "last", folder / "last") == []
    one, other = (lines_of(f / "metrics.jsonl", NOT_EXACT) for f in (whole, folder))
    assert one == other


def test_things_are_dealt_out_once_and_evenly() -> None:
    weights = torch.randint(1, 40, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    for parts in (1, 2, 3, 8):
        dealt = partition(weights, parts)
        assert sorted(number for part in dealt for number in part) == list(range(60))
        loads = [sum(weights[number] for number in part) for part in dealt]
        assert max(loads) - min(loads) <= max(weights)
    assert partition([5, 4], 3) == [[0], [1], []]


@pytest.mark.slow
def test_captions_come_in_order_from_several_processes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = place / "data" / "small" / "train"
    pictures = sorted(path for path in split.iterdir() if path.suffix != ".jsonl")[:7]
    for number, picture in enumerate(pictures):
        shutil.copy(picture, tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    words = ["--image", str(tmp_path), "--checkpoint", str(place / "checkpoints/whole/best")]
    words += ["--device", "cpu", "--batch-size", "2", "--method", "sample", "--json"]
    assert generate.main(words) == 1
    alone = capsys.readouterr()
    process = start(["generate.py", *words], 3)
    printed, problems = outputs_of(process)
    lines = [[json.loads(line) for line in text.splitlines()] for text in (printed, alone.out)]
    for one, other in zip(*lines, strict=True):
        assert one["image"] == other["image"]
        (found,), (expected,) = one["captions"], other["captions"]
        assert found["text"] == expected["text"]
        assert found["log_probability"] == pytest.approx(expected["log_probability"], rel=1e-5)
    assert problems.count("3.png") == alone.err.count("3.png") == 1
    assert problems.count("1 of 7 pictures") == 1

    written = tmp_path / "all.jsonl"
    process = start(["generate.py", *words[:-1], "--write", "jsonl", "--output", written], 2)
    outputs_of(process)
    assert process.returncode == 1
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    texts = [
        [(one["image"], one["captions"][0]["text"]) for one in many] for many in (rows, lines[1])
    ]
    assert texts[0] == texts[1]


def test_several_processes_evaluate_as_one_does(place: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", str(place / "checkpoints/whole/best"), "--device", "cpu"]
    words += ["--split", "train", "--limit", "11", "--no-java"]
    assert evaluate.main([*words, "--output", str(tmp_path / "one")]) == 0
    process = start(["evaluate.py", *words, "--output", str(tmp_path / "two")])
    printed, problems = outputs_of(process)
    assert process.returncode == 0, printed + problems
    assert printed.count("CIDEr") == 1
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert one.pop("provenance") != two.pop("provenance")
    assert one.pop("effort").keys() == two.pop("effort").keys()
    assert one == two
    names = [(tmp_path / n / "captions.jsonl").read_text() for n in ("one", "two")]
    assert names[0] == names[1]


def test_an_error_of_one_process_ends_all_with_its_sentence(place: Path, tmp_path: Path) -> None:
    what = 'raise UserError("The disk of the second process is full; free some.")'
    script = write_script(tmp_path / "t.py", AT_STEP.format(number=3, rank=1, what=what))
    process = start_training(place, script=script, RUN_NAME="error")
    began = time.monotonic()
    _, problems = outputs_of(process)
    assert time.monotonic() - began < 60
    assert problems.count("error: The disk of the second process is full; free some.") == 1
    assert "exitcode  : 2" in problems
    assert problems.count("Traceback") == 1  # torchrun's own
    assert "UserError" not in problems


def test_a_mistake_that_all_processes_find_is_told_once(place: Path) -> None:
    process = start_training(place, RUN_NAME="mistake", DECODER_HEADS=5)
    _, problems = outputs_of(process)
    assert problems.count("error: DECODER_HEADS is 5") == 1
    assert "exitcode  : 2" in problems


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_at_the_same_step(place: Path, number: signal.Signals) -> None:
    name = f"signal {number}"
    process = start_training(place, RUN_NAME=name, NUM_EPOCHS=500, **SAVES)
    folder = place / "checkpoints" / name
    wait_for(folder / "last" / "trainer_state.json", process)
    process.send_signal(number)
    printed, problems = outputs_of(process)
    state = read_checkpoint(folder / "last").state
    assert state is not None
    assert printed.count(f"after step {state.step:,}") == 1, printed + problems
    assert "Gloo" not in problems
    assert "SIGKILL" not in problems
    again = run(
        place, RUN_NAME=name, RESUME_CHECKPOINT_PATH="auto", NUM_EPOCHS=state.epoch + 1, **SAVES
    )
    assert lines_of(again / "metrics.jsonl")[-1]["epoch"] == state.epoch + 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_started_again_and_goes_on_exactly(
    place: Path, tmp_path: Path, rank: int
) -> None:
    what = "os.kill(os.getpid(), signal.SIGKILL)"
    script = write_script(tmp_path / "t.py", AT_STEP.format(number=11, rank=rank, what=what))
    process = start_training(
        place,
        script=script,
        flags=["--standalone", "--max-restarts", "1"],
        RUN_NAME=f"killed {rank}",
        RESUME_CHECKPOINT_PATH="auto",
        **SAVES,
    )
    printed, problems = outputs_of(process)
    assert process.returncode == 0, printed + problems
    assert printed.count("Going on from") == 1
    equals_whole(place, place / "checkpoints" / f"killed {rank}")


@pytest.mark.slow
def test_memory_that_one_process_lacks_halves_the_micro_batch_of_all(
    place: Path, tmp_path: Path
) -> None:
    before = """
loss_of = optimization.caption_loss
def limited(model, features, batch, label_smoothing):
    if rank == 1 and batch.num_captions > 6 and model.training:
        raise torch.OutOfMemoryError("out of memory")
    return loss_of(model, features, batch, label_smoothing)
optimization.caption_loss = limited
"""
    settings = {"DECODER_DROPOUT": 0, "NUM_EPOCHS": 1}
    script = write_script(tmp_path / "t.py", before)
    process = start_training(place, script=script, RUN_NAME="memory", **settings)
    printed, problems = outputs_of(process)
    assert process.returncode == 0, printed + problems
    assert printed.count("Out of memory: going on with MICRO_BATCH_SIZE 5") == 1
    folder = place / "checkpoints" / "memory"
    state = read_checkpoint(folder / "last").state
    assert state is not None
    assert state.micro_batch_size == 5
    whole = run(place, RUN_NAME="enough memory", **settings)
    first, second = weights_of(whole / "last"), weights_of(folder / "last")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_two_machines_train_as_one(place: Path) -> None:
    flags = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    flags += ["--rdzv-endpoint", f"localhost:{free_port()}", "--local-addr", "localhost"]
    machines = [
        start_training(place, 1, flags=flags, RUN_NAME="machines", **SAVES) for _ in range(2)
    ]
    for machine in machines:
        printed, problems = outputs_of(machine)
        assert machine.returncode == 0, printed + problems
    equals_whole(place, place / "checkpoints" / "machines")

"""A run that is killed fifty times ends as the run that nobody touched: every bit of it.

Each life of the run is a process of its own that dies by SIGKILL, of which it cannot know. The
processes are forked from one that has imported torch already, so that a life takes a second.
"""

import collections
import dataclasses
import mmap
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

import train
from checkpoint import read_checkpoint
from tests.helpers.small_runs import (
    NOT_EXACT,
    arguments,
    differences,
    lines_of,
    write_data,
    write_encoder,
)
from trainer import RunFolder, Trainer

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests.commands.test_soak", "trainer", "captioning.scenes", "transformers"]
)
STAGES = {
    (Trainer, "_run_epoch"): "step",
    (Trainer, "_validate"): "validation",
    (RunFolder, "_save"): "save",
}
SETTINGS = {
    "NUM_EPOCHS": 40,
    "VALIDATION_INTERVAL": 4,
    "BEAM_SIZE": 1,
    "SAVE_INTERVAL": 3,
    "MICRO_BATCH_SIZE": 9,
    "KEEP_CHECKPOINTS": 1,
}
MODES = {
    "cached features": (50, {}),
    "pictures in a worker": (10, {"FEATURE_CACHE": "off", "NUM_WORKERS": 1, "NUM_EPOCHS": 12}),
}
LONGEST_SECONDS = 600
SAVE_SECONDS = 0.05
"""About as long as a save takes here."""


class Life:
    """A process that trains, and what it is doing at the moment."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self._stage = folder / "stage"
        self._stage.write_bytes(b"start".ljust(mmap.PAGESIZE))
        self._process = FORKS.Process(target=live, args=(words, folder))
        self._process.start()
        self.started = time.monotonic()

    @property
    def stage(self) -> str:
        return self._stage.read_bytes().split()[0].decode()

    def is_over_after(self, seconds: float) -> bool:
        self._process.join(seconds)
        return self._process.exitcode is not None

    def wait_for(self, *stages: str) -> None:
        while self.stage not in stages and not self.is_over_after(0.002):
            assert time.monotonic() - self.started < LONGEST_SECONDS, "hangs"

    def kill(self) -> str:
        """End it, whatever it is doing; returns what that was."""
        self._process.kill()
        self._process.join()
        assert self._process.exitcode == -signal.SIGKILL
        return self.stage

    def end(self) -> None:
        assert self.is_over_after(LONGEST_SECONDS), "hangs"
        assert self._process.exitcode == 0


def live(words: list[str], folder: Path) -> None:
    """What the process does: train, and note at each moment what it is at."""
    multiprocessing.set_start_method("fork", force=True)  # for workers of its own
    with (folder / "output.txt").open("a") as output, (folder / "stage").open("r+b") as stage:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        page = mmap.mmap(stage.fileno(), mmap.PAGESIZE)
        for (owner, method), name in STAGES.items():
            setattr(owner, method, noting(page, name, getattr(owner, method)))
        raise SystemExit(train.main(words))


def noting(page: mmap.mmap, name: str, method: object) -> object:
    def noted(self: object, *arguments: object, **named: object) -> object:
        before = page[:16]
        page[:16] = name.encode().ljust(16)
        try:
            return method(self, *arguments, **named)
        finally:
            page[:16] = before if name == "save" else b"step".ljust(16)

    return noted


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, mode: str) -> None:
    kills, changes = MODES[mode]
    settings = {**SETTINGS, **changes}
    write_data(tmp_path)
    write_encoder(tmp_path)
    whole = Life(arguments(tmp_path, RUN_NAME="whole", **settings), tmp_path)
    whole.wait_for("step")
    start_seconds = time.monotonic() - whole.started
    whole.end()
    seconds = time.monotonic() - whole.started - start_seconds

    words = arguments(tmp_path, RUN_NAME="killed", RESUME_CHECKPOINT_PATH="auto", **settings)
    generator = random.Random(0)
    killed: collections.Counter[str] = collections.Counter()
    for number in range(kills):
        life = Life(words, tmp_path)
        if number % 5 == 0:
            delay = generator.uniform(0, start_seconds)
        elif number % 5 < 3:
            life.wait_for("save")
            delay = generator.uniform(0, SAVE_SECONDS)
        else:
            life.wait_for("step", "validation", "save")
            delay = generator.uniform(0, seconds / kills)  # half of the run is left at the end
        assert not life.is_over_after(delay), (tmp_path / "output.txt").read_text()[-2000:]
        killed[life.kill()] += 1
        if list((tmp_path / "checkpoints" / "killed").glob("*.unfinished")):
            killed["a checkpoint half written"] += 1
    Life(words, tmp_path).end()

    print(f"{mode}: killed {kills} times: {dict(killed)}")
    one, other = (tmp_path / "checkpoints" / name for name in ("whole", "killed"))
    assert differences(one / "last", other / "last") == []
    assert same_state(one) == same_state(other)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines_of(one / name, NOT_EXACT) == lines_of(other / name, NOT_EXACT)
    best = "best/model.safetensors"
    assert (one / best).read_bytes() == (other / best).read_bytes()
    assert {"start", "step", "save"} <= killed.keys()


def same_state(run: Path) -> dict[str, object]:
    """All of the training's state that no clock decides."""
    state = read_checkpoint(run / "last").state
    assert state is not None
    values = dataclasses.asdict(state)
    return {name: values[name] for name in values if name not in ("trained_seconds", "joules")}

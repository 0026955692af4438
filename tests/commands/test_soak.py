"""A run that is killed fifty times ends as the run that nobody touched: every bit of it.

Each life of the run is a process of its own that dies by SIGKILL, of which it cannot know. The
processes are forked from one that has imported torch already, so that a life takes a second.
"""

import collections
import dataclasses
import json
import mmap
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evaluate
import tokenizer
import train
from captioning.reports import results
from captioning.store import building
from checkpoint import read_checkpoint
from tests.helpers.sample_sources import make_source
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
    ["tests.commands.test_soak", "trainer", "captioning.scenes", "transformers", "datasets"]
)
STAGES: dict[tuple[Any, str], str] = {
    (train, "prepare_dataset"): "preparing",
    (tokenizer, "train_tokenizer"): "vocabulary",
    (building, "build_features"): "features",
    (Trainer, "_run_epoch"): "step",
    (Trainer, "_validate"): "validation",
    (RunFolder, "_save"): "save",
    (evaluate, "evaluate_checkpoint"): "evaluating",
    (results, "write_evaluation"): "writing",
}
WITHIN = ("preparing", "vocabulary", "features", "save", "evaluating", "writing")
"""Stages after which the one before goes on."""
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

    def __init__(self, words: list[str], folder: Path, command: str = "train") -> None:
        self._stage = folder / "stage"
        self._stage.write_bytes(b"start".ljust(mmap.PAGESIZE))
        self._process = FORKS.Process(target=live, args=(words, folder, command))
        self._process.start()
        self.started = time.monotonic()

    @property
    def stage(self) -> str:
        return self._stage.read_bytes()[:16].decode().strip(" \0")

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


def live(words: list[str], folder: Path, command: str) -> None:
    """What the process does: a command, and note at each moment what it is at."""
    multiprocessing.set_start_method("fork", force=True)  # for workers of its own
    with (folder / "output.txt").open("a") as output, (folder / "stage").open("r+b") as stage:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        page = mmap.mmap(stage.fileno(), mmap.PAGESIZE)
        for (owner, method), name in STAGES.items():
            setattr(owner, method, noting(page, name, getattr(owner, method)))
        raise SystemExit({"train": train, "evaluate": evaluate}[command].main(words))


def noting(page: mmap.mmap, name: str, method: Callable[..., object]) -> object:
    def noted(*arguments: object, **named: object) -> object:
        before = page[:16]
        page[:16] = name.encode().ljust(16)
        try:
            return method(*arguments, **named)
        finally:
            page[:16] = before if name in WITHIN else b"step".ljust(16)

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


PHASES = {
    "pictures": ("preparing", "vocabulary", "features", "step", "save", "validation"),
}
ROUNDS = 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", PHASES)
def test_a_run_that_is_killed_in_each_of_its_phases_loses_nothing(
    tmp_path: Path, kind: str
) -> None:
    make_source(tmp_path, count=60)
    write_encoder(tmp_path)
    own: dict[str, object] = {
        "IMAGE_DIR": tmp_path / "images",
        "CAPTIONS_FILE": tmp_path / "captions.csv",
    }
    settings = {**own, "DATASET": "mine", "NUM_EPOCHS": 4, "SAVE_INTERVAL": 2, "NUM_WORKERS": 1}
    whole = tmp_path / "checkpoints" / "whole"
    Life(arguments(tmp_path, RUN_NAME="whole", **settings), tmp_path).end()

    generator = random.Random(kind)
    killed: collections.Counter[str] = collections.Counter()
    for number in range(ROUNDS):
        place = {"DATA_DIR": tmp_path / f"data {number}", "RUN_NAME": f"killed {number}"}
        words = arguments(tmp_path, RESUME_CHECKPOINT_PATH="auto", **{**settings, **place})
        for begun, stage in enumerate(PHASES[kind]):
            for _ in range(2):
                life = Life(words, tmp_path)
                life.wait_for(stage, *PHASES[kind][begun:])
                is_short = stage in ("vocabulary", "save")
                assert not life.is_over_after(generator.uniform(0, 0.01 if is_short else 0.1))
                killed[life.kill()] += 1
        Life(words, tmp_path).end()
        run = tmp_path / "checkpoints" / f"killed {number}"
        assert differences(whole / "last", run / "last") == []
        assert same_state(whole) == same_state(run)
        assert lines_of(whole / "metrics.jsonl", NOT_EXACT) == lines_of(
            run / "metrics.jsonl", NOT_EXACT
        )
        assert not list(run.glob(".*.tmp"))
        assert sorted(path.name for path in (tmp_path / f"data {number}").iterdir()) == ["mine"]
    print(f"{kind}: killed {sum(killed.values())} times: {dict(killed)}")


@pytest.mark.slow
def test_an_evaluation_that_is_killed_leaves_whole_files(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_encoder(tmp_path)
    Life(arguments(tmp_path, NUM_EPOCHS=1), tmp_path).end()
    best = tmp_path / "checkpoints" / "run" / "best"
    words = ["--checkpoint", str(best), "--java", "false", "--device", "cpu", "--output"]
    Life([*words, str(tmp_path / "whole")], tmp_path, "evaluate").end()
    generator = random.Random(0)
    killed: collections.Counter[str] = collections.Counter()
    for number in range(12):
        life = Life([*words, str(tmp_path / "killed")], tmp_path, "evaluate")
        life.wait_for("writing" if number % 2 else "evaluating", "writing")
        if life.is_over_after(generator.uniform(0, 0.2)):
            continue
        killed[life.kill()] += 1
        for path in (tmp_path / "killed").glob("*.json"):
            assert json.loads(path.read_text())
    Life([*words, str(tmp_path / "killed")], tmp_path, "evaluate").end()
    print(f"evaluation: killed {sum(killed.values())} times: {dict(killed)}")
    for name in ("metrics.json", "captions.jsonl"):
        one, other = ((tmp_path / run / name).read_text() for run in ("whole", "killed"))
        assert without_time(one) == without_time(other)


def without_time(text: str) -> str:
    """What is written, but for when."""
    return re.sub(r'"[^"]*(started|command|arguments|second|memory)[^"]*": [^\n]*', "", text)

"""What goes wrong around a training run, fault by fault: nothing is lost, one sentence says so.

Elsewhere: strange and broken pictures (test_images, test_picture_pool), captions files
(test_caption_files), archives (test_sources), addresses (test_image_inputs), a loss that is no
number (test_train), a build of features that is killed or whose disk is full (test_features).
"""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

import checkpoint
import generate
import pipeline
import train
import trainer
import validation
from captioning.decoding import search
from captioning.store import rows as feature_store
from captioning.system import tensors as tensor_files
from captioning.system.errors import (
    EXIT_INTERRUPTED,
    EXIT_PARTLY_DONE,
    EXIT_SIGNAL,
    EXIT_TERMINATED,
    UserError,
)
from captioning.training.guards import locked
from optimization import caption_loss, train_step
from tests.helpers.processes import ROOT
from tests.helpers.small_runs import (
    NOT_EXACT,
    SETTINGS,
    arguments,
    differences,
    lines_of,
    run,
)
from tests.helpers.steps import Killed, run_killed
from trainer import Trainer

SAVES = {"SAVE_INTERVAL": 3}
LIVE = {"FEATURE_CACHE": "off"}


@pytest.fixture(scope="module")
def place(place: Path) -> Path:
    """A folder with small data, a tiny CLIP, and the run `whole` that nothing went wrong in."""
    run(place, RUN_NAME="whole", **SAVES)
    return place


def equals_whole(place: Path, folder: Path) -> bool:
    """Whether a run ended as the one that nothing went wrong in."""
    whole = place / "checkpoints" / "whole"
    logs = [lines_of(one / "metrics.jsonl", NOT_EXACT) for one in (whole, folder)]
    return differences(whole / "last", folder / "last") == [] and logs[0] == logs[1]


def go_on(place: Path, name: str, **changes: object) -> Path:
    return run(place, RUN_NAME=name, RESUME_CHECKPOINT_PATH="auto", **{**SAVES, **changes})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "." in path.name and path.is_dir()]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the kernel refuse files above 20 KB during saves of `name` number `numbers`."""
    original = checkpoint.save_checkpoint
    _, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(name: str, *numbers: int) -> None:
        counted = itertools.count(1)

        def save(folder: Path, *parts: Any, **more: Any) -> None:
            is_full = folder.name == name and next(counted) in numbers
            limit = 20_000 if is_full else hard_limit
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard_limit))
            try:
                original(folder, *parts, **more)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard_limit, hard_limit))

        monkeypatch.setattr(trainer, "save_checkpoint", save)

    return fill


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    place: Path, full_disk: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk("last", 2, 3)
    folder = run(place, RUN_NAME="full for a while", **SAVES)
    output = capsys.readouterr().out
    assert output.count("last could not be saved: model.safetensors") == 2
    assert "File too large" in output
    assert equals_whole(place, folder)
    assert leftovers(folder) == []


def test_a_run_whose_last_checkpoint_is_lost_is_not_done(
    place: Path, full_disk: Callable[..., None]
) -> None:
    full_disk("last", 7)
    with pytest.raises(UserError, match="last could not be saved"):
        train.main(arguments(place, RUN_NAME="full at the end", **SAVES))
    assert equals_whole(place, go_on(place, "full at the end"))


def test_a_best_that_could_not_be_saved_is_not_the_best(
    place: Path, full_disk: Callable[..., None]
) -> None:
    full_disk("best", 1)
    folder = run(place, RUN_NAME="best lost", BEST_METRIC="loss", NUM_EPOCHS=3)
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    assert metrics["step"] == 24
    full_disk("best", 2, 3)
    folder = run(place, RUN_NAME="best kept", BEST_METRIC="loss", NUM_EPOCHS=3)
    metrics = json.loads((folder / "best" / "metrics.json").read_text())
    state = checkpoint.read_checkpoint(folder / "last").state
    assert state is not None
    assert metrics["step"] == state.best_step == 8
    assert metrics["validation_loss"] == -state.best_score


def test_a_log_that_cannot_be_written_is_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captioning.tracking.run_log import JsonLines

    original = JsonLines.append

    def append(self: JsonLines, line: dict[str, Any]) -> None:
        if line["step"] == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, line)

    monkeypatch.setattr(JsonLines, "append", append)
    with pytest.raises(UserError, match=r"No space left on device.*--RESUME_CHECKPOINT_PATH auto"):
        train.main(arguments(place, RUN_NAME="no log", **SAVES))
    monkeypatch.undo()
    assert equals_whole(place, go_on(place, "no log"))


def test_a_strip_that_cannot_be_written_does_not_end_a_run(place: Path) -> None:
    folder = place / "checkpoints" / "no strip"
    (folder / "attention.png").mkdir(parents=True)
    assert run(place, RUN_NAME="no strip", **SAVES) == folder
    assert equals_whole(place, folder)


def test_a_folder_that_cannot_be_written_to_is_a_sentence(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file has no folders in it")
    with pytest.raises(UserError, match=r"cannot be written to.*--OUTPUT_DIR"):
        train.main(arguments(place, OUTPUT_DIR=tmp_path / "file" / "checkpoints"))


def test_data_that_cannot_be_written_to_are_a_sentence(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.mkdir

    def mkdir(self: Path, *arguments: Any, **more: Any) -> None:
        if "features" in self.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        original(self, *arguments, **more)

    shutil.copytree(place / "data" / "small", tmp_path / "data" / "small")
    shutil.rmtree(tmp_path / "data" / "small" / "features")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"features/tiny-clip.*Permission denied"):
        train.main(arguments(place, DATA_DIR=tmp_path / "data", RUN_NAME="read-only data"))


def test_the_workers_of_a_killed_run_do_not_hold_its_folder(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from captioning.training.guards import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    if not os.fork(): time.sleep(600)\n"
        "    print(flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    words = [sys.executable, "-c", "import os; print(os.getpid(), flush=True)\n" + program]
    with subprocess.Popen(
        [*words, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    ) as killed:
        assert killed.stdout is not None
        group = int(killed.stdout.readline())
        killed.stdout.readline()
        killed.wait()
        try:
            with locked(tmp_path):
                pass
        finally:
            os.killpg(group, signal.SIGKILL)


@pytest.fixture(scope="module")
def stopped_once(place: Path) -> Path:
    """A run with an older checkpoint beside the last, and half of its way to go."""
    run_killed(place, 10, RUN_NAME="stopped", KEEP_CHECKPOINTS=1, **SAVES)
    return place / "checkpoints" / "stopped"


@pytest.fixture
def stopped(stopped_once: Path) -> Path:
    """A copy of that run."""
    number = len(list(stopped_once.parent.glob("stopped *")))
    copied = stopped_once.with_name(f"stopped {number}")
    shutil.copytree(stopped_once, copied)
    return copied


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "trainer_state.json", "checkpoint.json", "tokenizer.json"]
)
def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    place: Path, stopped: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(stopped / "last" / name)
    with pytest.raises(UserError) as caught:
        train.main(arguments(place, RESUME_CHECKPOINT_PATH=stopped / "last"))
    assert f"last/{name}" in caught.value.problems[0]
    (older,) = stopped.glob("step-*")
    assert caught.value.problems[1] == f"Whole is {older}: --RESUME_CHECKPOINT_PATH {older}"
    folder = go_on(place, stopped.name, KEEP_CHECKPOINTS=1)
    output = capsys.readouterr().out
    assert f"Passed over: {stopped}/last/{name}" in output
    assert f"Going on from {older}" in output
    assert equals_whole(place, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json", "checkpoint.json"])
def test_a_damaged_run_is_never_begun_anew_by_itself(place: Path, stopped: Path, name: str) -> None:
    (older,) = stopped.glob("step-*")
    shutil.rmtree(older)
    (stopped / "last" / name).unlink()
    with pytest.raises(UserError, match="holds no whole checkpoint to go on from"):
        go_on(place, stopped.name)


def vanish(picture: Path) -> None:
    picture.unlink()


def become_text(picture: Path) -> None:
    picture.write_text("Not found.")


@pytest.mark.parametrize("damage", [vanish, cut, become_text])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"NUM_WORKERS": 1}, marks=pytest.mark.slow),
        pytest.param(LIVE, marks=pytest.mark.slow),
        pytest.param({**LIVE, "NUM_WORKERS": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_picture_that_is_lost_after_preparation_is_named(
    place: Path, tmp_path: Path, damage: Callable[[Path], None], changes: dict[str, object]
) -> None:
    shutil.copytree(place / "data" / "small", tmp_path / "data" / "small")
    shutil.rmtree(tmp_path / "data" / "small" / "features")
    picture = sorted((tmp_path / "data" / "small" / "train").glob("scene_*"))[7]
    content = picture.read_bytes()
    damage(picture)
    settings = {
        "DATA_DIR": tmp_path / "data",
        "OUTPUT_DIR": tmp_path,
        "NUM_EPOCHS": 1,
        **SAVES,
        **changes,
    }
    with pytest.raises(UserError, match=picture.name) as caught:
        train.main(arguments(place, **settings))
    assert "Traceback" not in str(caught.value)
    picture.write_bytes(content)
    again = run(place, RESUME_CHECKPOINT_PATH="auto", **settings)
    whole = run(place, RUN_NAME="untroubled", **settings)
    assert differences(again / "last", whole / "last") == []


STRANGE = {
    "many words": " ".join(["word"] * 5_000),
    "one long word": "w" * 30_000,
    "emoji": "a dog 🐕‍🦺 runs 🏃🏽‍♀️ fast 🇮🇸",
    "right to left": "كلب يجري على الشاطئ \u202ewith an override\u202c",
    "control": "a\x00 dog\x07 \x1b[31mruns\x1b[0m\r\n away\u2028 now",
    "empty": "",
    "blank": " \t\n",
    "special": "<PAD><START>a dog<END> <UNK>",
    "marks": "e" + "\u0301" * 300,
    "surrogate": "half \ud83d an emoji",
}


def test_captions_of_all_kinds_go_all_the_way(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions: dict[str, list[str]] = {}
    (tmp_path / "pictures").mkdir()
    for i, text in enumerate(itertools.islice(itertools.cycle(STRANGE.values()), 40)):
        name = f"{i}.png"
        Image.new("RGB", (40, 40), (i * 6, 90, 200 - i)).save(tmp_path / "pictures" / name)
        captions[name] = [text, f"a plain caption {i}", ""]
    captions["0.png"] = ["", " "]  # nothing to learn from: left out, and said
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    own = {
        "DATASET": "strange",
        "DATA_DIR": tmp_path / "data",
        "OUTPUT_DIR": tmp_path / "runs",
        "IMAGE_DIR": tmp_path / "pictures",
        "CAPTIONS_FILE": tmp_path / "captions.json",
        "MAX_BAD_FRACTION": 0.1,
        "NUM_EPOCHS": 1,
    }
    folder = run(place, **own)
    assert "0.png" in (tmp_path / "data" / "strange" / "problems.tsv").read_text()
    lines = lines_of(folder / "metrics.jsonl")
    assert all(line["loss"] > 0 for line in lines if "loss" in line)
    capsys.readouterr()
    words = ["--checkpoint", str(folder / "best"), "--device", "cpu"]
    assert generate.main(["--image", str(tmp_path / "pictures" / "1.png"), *words]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert generate.main(["--image", str(tmp_path / "pictures"), "--json", *words]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 40


def huge_png() -> bytes:
    """The head of a picture of 30,000 x 30,000 pixels, which would take 2.7 GB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def write_pictures_of_all_kinds(folder: Path) -> set[str]:
    """Strange pictures among plain ones; returns the names of those that are none."""
    folder.mkdir()
    colour = Image.linear_gradient("L").resize((40, 30))
    for i in range(30):
        Image.merge("RGB", (colour, colour, Image.new("L", (40, 30), i))).save(folder / f"{i}.png")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("RGB", (1, 4000), "red").save(folder / "tall.png")
    Image.new("RGB", (4000, 1), "red").save(folder / "wide.png")
    colour.save(folder / "grey.jpg")
    Image.merge("CMYK", [colour] * 4).save(folder / "print.jpg")
    colour.convert("P").save(folder / "palette.gif")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(folder / "turned.jpg", exif=turned)
    broken = {
        "huge.png": huge_png(),
        "cut.png": (folder / "0.png").read_bytes()[:60],
        "page.jpg": b"<html>Not found</html>",
        "empty.jpg": b"",
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return set(broken) | {"vanished.jpg"}


@pytest.mark.parametrize("changes", [{}, pytest.param(LIVE, marks=pytest.mark.slow)])
def test_pictures_of_all_kinds_go_all_the_way(
    place: Path, tmp_path: Path, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    broken = write_pictures_of_all_kinds(pictures)
    names = {path.name for path in pictures.iterdir()} | broken
    captions = {name: [f"a picture called {name}", "a picture"] for name in sorted(names)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    own = {
        "DATASET": "kinds",
        "DATA_DIR": tmp_path / "data",
        "OUTPUT_DIR": tmp_path / "runs",
        "IMAGE_DIR": pictures,
        "CAPTIONS_FILE": tmp_path / "captions.json",
        "NUM_EPOCHS": 1,
        **changes,
    }
    with pytest.raises(UserError, match="MAX_BAD_FRACTION"):
        train.main(arguments(place, **own))
    folder = run(place, **own, MAX_BAD_FRACTION=0.2)
    problems = (tmp_path / "data" / "kinds" / "problems.tsv").read_text()
    assert all(name in problems for name in broken)
    assert not any(f"{name}\t" in problems for name in names - broken)
    capsys.readouterr()
    words = ["--checkpoint", str(folder / "best"), "--device", "cpu", "--image", str(pictures)]
    assert generate.main(words) == EXIT_PARTLY_DONE
    output = capsys.readouterr()
    captioned = {Path(line.partition("\t")[0]).name for line in output.out.splitlines()}
    assert captioned == names - broken
    assert all(name in output.err for name in broken - {"vanished.jpg"})


@pytest.fixture
def mortal_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process that is to read picture 20 is killed, as the kernel does without memory."""
    original = feature_store.LivePictures.rows

    def rows(self: feature_store.LivePictures, indices: torch.Tensor) -> torch.Tensor:
        if get_worker_info() is not None and 20 in indices.tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, indices)

    monkeypatch.setattr(feature_store.LivePictures, "rows", rows)


@pytest.mark.slow
@pytest.mark.usefixtures("mortal_workers")
@pytest.mark.parametrize("changes", [{}, LIVE])
def test_a_worker_that_is_killed_is_a_sentence(
    place: Path, tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(place / "data" / "small", tmp_path / "data" / "small")
    shutil.rmtree(tmp_path / "data" / "small" / "features")
    settings = {"DATA_DIR": tmp_path / "data", "RUN_NAME": f"mortal {changes}", **changes, **SAVES}
    with pytest.raises(UserError, match="a worker process that reads pictures died") as caught:
        train.main(arguments(place, NUM_WORKERS=2, **settings))
    assert "--RESUME_CHECKPOINT_PATH auto" in str(caught.value)
    monkeypatch.undo()
    folder = run(place, NUM_WORKERS=2, RESUME_CHECKPOINT_PATH="auto", **settings)
    whole = run(place, **{**settings, "RUN_NAME": f"immortal {changes}"})
    assert differences(folder / "last", whole / "last") == []


def without_memory(work: Callable[..., Any], most: int, size: Callable[..., int]) -> Any:
    def limited(*arguments: Any, **named: Any) -> Any:
        if size(*arguments, **named) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(*arguments, **named)

    return limited


def test_captioning_without_memory_goes_on_in_smaller_batches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = without_memory(list, 5, len)
    batches = pipeline.each_batch(50, work, batch_size=32)
    assert [number for batch in batches for number in batch] == list(range(50))
    said = capsys.readouterr().err.splitlines()
    assert said == [f"Out of memory; going on with {n} pictures at a time." for n in (16, 8, 4)]
    with pytest.raises(UserError, match="with a single picture"):
        list(pipeline.each_batch(3, without_memory(list, 0, len)))


@pytest.mark.slow
def test_validation_without_memory_goes_on_in_smaller_batches(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = without_memory(
        caption_loss, 2, lambda model, features, batch, **more: len(batch.picture_rows)
    )
    limited_search = without_memory(search, 1, lambda state, batch_size, **more: batch_size)
    monkeypatch.setattr(validation, "caption_loss", loss)
    monkeypatch.setattr(pipeline, "search", limited_search)
    folder = run(place, RUN_NAME="little memory", **SAVES)
    said = capsys.readouterr().err
    assert "Out of memory; going on with 2 pictures at a time." in said
    assert "Out of memory; going on with 1 pictures at a time." in said
    whole = place / "checkpoints" / "whole"
    assert differences(whole / "last", folder / "last") == []
    for one, other in zip(
        lines_of(whole / "metrics.jsonl"), lines_of(folder / "metrics.jsonl"), strict=True
    ):
        if "validation_loss" in one:
            assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-5)
            assert other["CIDEr"] == one["CIDEr"]


def test_a_step_without_memory_is_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "train_step", without_memory(train_step, 0, lambda *_, **more: 1))
    with pytest.raises(UserError, match="out of memory, though training computes as few captions"):
        train.main(arguments(place, RUN_NAME="no memory"))


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = itertools.count(2_000_000_000, -3_600)
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    monkeypatch.setattr(time, "time_ns", lambda: next(moments) * 10**9)
    folder = run(place, RUN_NAME="backwards", **SAVES)
    for path in folder.rglob("*"):
        os.utime(path, (1, 1) if path.parent.name == "last" else None)
    assert equals_whole(place, folder)
    run_killed(place, 10, RUN_NAME="backwards, killed", **SAVES)
    assert equals_whole(place, go_on(place, "backwards, killed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "language",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # ASCII alone
    ],
)
def test_another_locale_and_a_folder_with_any_letters(
    place: Path, tmp_path: Path, language: dict[str, str]
) -> None:
    here = tmp_path / "mein Ordner 'ü' 名前"
    here.mkdir()
    captions = {}
    for i in range(40):
        name = f"Bild é {i} 写真.png"
        (here / "Bilder").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (i * 6, 90, 200 - i)).save(here / "Bilder" / name)
        captions[name] = [f"ein Mädchen läuft {i}", "犬が走る"]
    (here / "captions.json").write_text(json.dumps(captions, ensure_ascii=False), encoding="utf-8")
    own = {
        "DATASET": "größe",
        "DATA_DIR": here / "Daten",
        "OUTPUT_DIR": here / "Läufe",
        "RUN_NAME": "erster Lauf é",
        "IMAGE_DIR": here / "Bilder",
        "CAPTIONS_FILE": here / "captions.json",
        "ENCODER_MODEL_NAME": shutil.copytree(place / "tiny-clip", here / "kleiner Kodierer ß"),
        "NUM_EPOCHS": 1,
    }
    folder = here / "Läufe" / "erster Lauf é"
    pictures = ["--image", str(here / "Bilder"), "--checkpoint", str(folder / "best")]
    commands = [
        ["train.py", *arguments(place, **own)],
        ["train.py", *arguments(place, **own, RESUME_CHECKPOINT_PATH="auto")],
        ["generate.py", *pictures, "--limit", "2"],
        ["generate.py", *pictures, "--limit", "2", "--json"],
    ]
    is_quick = "PYTHONUTF8" in language  # the first and the last tell what the others tell
    for command in commands[::3] if is_quick else commands:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **language},
        )
        assert done.returncode == 0, done.stderr.decode()
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 1


@pytest.fixture
def signals_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sends signals to this process when the run comes to a function for the n-th time."""

    def arrange(owner: Any, name: str, number: int, *signals: signal.Signals) -> None:
        original, counted = getattr(owner, name), itertools.count(1)

        def call(*arguments: Any, **more: Any) -> Any:
            result = original(*arguments, **more)
            if next(counted) == number:
                for one in signals:
                    signal.raise_signal(one)
            return result

        monkeypatch.setattr(owner, name, call)

    return arrange


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        pytest.param(trainer, "train_step", 5, marks=pytest.mark.slow),
        (trainer, "train_step", 8),  # the last of an epoch
        pytest.param(trainer, "validate", 1, marks=pytest.mark.slow),
        pytest.param(validation, "caption_loss", 1, marks=pytest.mark.slow),
        (pipeline, "search", 2),
        (checkpoint, "write_json", 3),
        pytest.param(Trainer, "_log_step", 4, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("one", "code"),
    [
        pytest.param(signal.SIGINT, EXIT_INTERRUPTED, marks=pytest.mark.slow),
        (signal.SIGTERM, EXIT_TERMINATED),
    ],
)
def test_a_signal_at_any_moment_saves_all_and_the_run_goes_on(
    place: Path,
    signals_at: Callable[..., None],
    owner: Any,
    name: str,
    number: int,
    one: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signals_at(owner, name, number, one)
    run_name = f"{name} {number} {code}"
    assert train.main(arguments(place, RUN_NAME=run_name, **SAVES)) == code
    assert "--RESUME_CHECKPOINT_PATH auto" in capsys.readouterr().out
    monkeypatch.undo()
    assert equals_whole(place, go_on(place, run_name))


def test_a_terminal_that_goes_saves_all(
    place: Path, signals_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    signals_at(trainer, "train_step", 5, signal.SIGHUP)
    code = train.main(arguments(place, RUN_NAME="hang-up", **SAVES))
    assert code == EXIT_SIGNAL + signal.SIGHUP
    monkeypatch.undo()
    assert equals_whole(place, go_on(place, "hang-up"))


def test_a_signal_ends_a_validation_at_once(
    place: Path, signals_at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    signals_at(validation, "caption_loss", 1, signal.SIGTERM)
    monkeypatch.setattr(pipeline.CaptionPipeline, "best_captions", None)  # is not reached
    changes = {"RUN_NAME": "validation", **SAVES}
    assert train.main(arguments(place, **changes)) == EXIT_TERMINATED
    state = checkpoint.read_checkpoint(place / "checkpoints" / "validation" / "last").state
    assert state is not None
    assert (state.step, state.step_in_epoch, state.epoch) == (8, 8, 0)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        pytest.param(trainer, "train_step", 5, marks=pytest.mark.slow),
        (checkpoint, "write_json", 3),
        pytest.param(tensor_files, "save_file", 4, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("one", "ending"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_second_signal_stops_at_once_and_leaves_whole_files(
    place: Path,
    signals_at: Callable[..., None],
    owner: Any,
    name: str,
    number: int,
    one: signal.Signals,
    ending: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signals_at(owner, name, number, one, one)
    run_name = f"twice {name} {one}"
    with pytest.raises(ending) as caught:
        train.main(arguments(place, RUN_NAME=run_name, **SAVES))
    assert ending is KeyboardInterrupt or caught.value.code == EXIT_TERMINATED  # type: ignore[attr-defined]
    folder = place / "checkpoints" / run_name
    assert leftovers(folder) == []
    if (folder / "last").exists():
        checkpoint.read_checkpoint(folder / "last")
    monkeypatch.undo()
    assert equals_whole(place, go_on(place, run_name))


RENAMES = range(1, 9)


@pytest.mark.parametrize(
    "number",
    [n if n in (3, 7) else pytest.param(n, marks=pytest.mark.slow) for n in RENAMES],
)
def test_a_kill_between_any_two_renames_loses_nothing(
    place: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, counted = os.rename, itertools.count(1)

    def rename(*arguments: Any) -> None:
        original(*arguments)
        if next(counted) == number:
            raise Killed

    monkeypatch.setattr(os, "rename", rename)
    name = f"rename {number}"
    with pytest.raises(Killed):
        train.main(arguments(place, RUN_NAME=name, **SAVES))
    monkeypatch.undo()
    assert equals_whole(place, go_on(place, name))


def files_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_keys_reach_no_file_and_no_screen(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = {
        "WANDB_API_KEY": "5e" * 20,
        "HF_TOKEN": "hf_" + "abcdefghij" * 3,
        "HUGGING_FACE_HUB_TOKEN": "hf_" + "klmnopqrst" * 3,
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    folder = run(place, RUN_NAME="secrets", WANDB_MODE="offline", NUM_EPOCHS=1)
    printed = "".join(capfd.readouterr())
    files = list(files_of(folder))
    assert any(path.suffix == ".wandb" for path, _ in files)
    for value in keys.values():
        assert value not in printed
        assert [path for path, content in files if value.encode() in content] == []
    sent = b"".join(content for path, content in files if path.suffix == ".wandb")
    assert str(place).encode() not in sent


def test_code_of_a_repository_runs_only_by_flag(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(place / "tiny-clip", tmp_path / "own"))
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="own"):
        train.main(arguments(place, ENCODER_MODEL_NAME=own, RUN_NAME="own code"))
    assert not (tmp_path / "ran").exists()
    assert not any("TRUST" in name for name in SETTINGS)

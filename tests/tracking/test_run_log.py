"""What a run writes and shows: files that survive a resume, a readable screen, W&B on the side."""

import io
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from captioning.sources.records import CaptionedPicture
from captioning.system.errors import UserError
from captioning.tracking import wandb_log
from captioning.tracking.console import Console, duration
from captioning.tracking.curves import draw_curves
from captioning.tracking.events import Outcome, Validation
from captioning.tracking.run_log import JsonLines, RunFiles, RunLog, validation_at
from captioning.tracking.wandb_log import WandbLog, choose_mode
from tests.helpers.run_logs import FACTS, MEASURED, SCORES, config, make_samples

ROOT = Path(__file__).parents[2]
CAPTION = "a brown dog runs through tall grass with a red ball in its mouth while another watches"


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_hold_what_was_measured(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "a-run", config(tmp_path))
    log.start(FACTS)
    log.step(50, 1, MEASURED)
    log.validation(100, 1, SCORES, make_samples(tmp_path / "pictures"), is_best=True)
    log.step(150, 2, {**MEASURED, "loss": float("nan")})
    log.close(finished=True)
    assert read_lines(tmp_path / "a-run" / "metrics.jsonl") == [
        {"step": 50, "epoch": 1, **MEASURED},
        {"step": 100, "epoch": 1, **SCORES},
        {"step": 150, "epoch": 2, **MEASURED, "loss": None},
    ]
    said = read_lines(tmp_path / "a-run" / "samples.jsonl")
    assert [line["caption"] for line in said] == [f"caption {i} of it" for i in range(3)]
    assert (tmp_path / "a-run" / "curves.png").is_file()


def test_curves_are_drawn_again_for_new_lines_alone(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "a-run", config(tmp_path))
    log.start(FACTS)
    log.step(50, 1, MEASURED)
    log.validation(100, 1, SCORES)
    curves = tmp_path / "a-run" / "curves.png"
    drawn = curves.stat().st_ino
    log.close(finished=True)
    assert curves.stat().st_ino == drawn
    files = RunFiles(tmp_path / "a-run", "a-run", resumed_step=100)
    files.step(150, 2, MEASURED)
    files.close()
    assert curves.stat().st_ino != drawn


def test_a_resumed_log_has_neither_gap_nor_double_line(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "pictures")

    def train(files: RunFiles, first: int, last: int) -> None:
        for step in range(first, last + 1, 10):
            files.step(step, 1 + step // 100, {**MEASURED, "loss": 1 / step})
            if step % 100 == 0:
                event = Validation(
                    step=step, epoch=step // 100, values=SCORES, samples=tuple(samples)
                )
                files.validation(event)

    train(RunFiles(tmp_path / "whole", "run"), 10, 300)
    train(RunFiles(tmp_path / "resumed", "run"), 10, 240)  # killed; its checkpoint is of step 200
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 250, "epo')
    train(RunFiles(tmp_path / "resumed", "run", resumed_step=200), 210, 300)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "resumed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_validation_that_is_repeated_is_one_line(tmp_path: Path) -> None:
    event = Validation(step=100, epoch=1, values=SCORES)
    RunFiles(tmp_path, "run").validation(event)
    RunFiles(tmp_path, "run", resumed_step=100).validation(event)
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 1


def test_a_fresh_start_begins_anew(tmp_path: Path) -> None:
    JsonLines(tmp_path / "x.jsonl").append({"step": 1})
    JsonLines(tmp_path / "x.jsonl").append({"step": 2})
    assert read_lines(tmp_path / "x.jsonl") == [{"step": 2}]


def test_other_processes_log_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "a-run", config(tmp_path, WANDB_MODE="offline"), is_main=False)
    log.start(FACTS)
    log.advance(256)
    log.step(50, 1, MEASURED)
    log.validation(100, 1, SCORES)
    log.say("something")
    log.sync()
    log.close(finished=True)
    assert log.wandb_run_id == ""
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_a_run_of_few_steps_is_told_how_to_make_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Console(config(tmp_path, BATCH_SIZE=64)).start(replace(FACTS, steps_per_epoch=1), 0)
    text = " ".join(capsys.readouterr().out.split())
    assert "few steps 12 steps in all may teach little; a BATCH_SIZE below 64 or more" in text
    Console(config(tmp_path)).start(FACTS, 0)
    assert "few steps" not in capsys.readouterr().out


def test_the_validation_of_the_best_step_is_found() -> None:
    lines = [
        {"step": 1, "loss": 0.1},
        {"step": 2, "validation_loss": 3.0, "CIDEr": 0.4},
        {"step": 2, "loss": 0.1},
        {"step": 4, "validation_loss": None, "CIDEr": None},
    ]
    assert validation_at(lines, 2) == lines[1]
    assert validation_at(lines, 0) == validation_at(lines, 1) == validation_at(lines, 4) == {}


def test_curves_have_a_panel_for_each_kind_of_number(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": i, "epoch": 1, "loss": 1 / i} for i in range(1, 90)]
    path = tmp_path / "curves.png"
    draw_curves([], path, title="run")
    assert not path.exists()
    widths, contents = [], set()
    numbers: list[dict[str, float]] = [
        {"learning_rate": 1e-4},
        {"CIDEr": 0.5},
        {"CIDEr": 0.25},
        {"BLEU-4": 0.25},
        {"validation_loss": 0.5},
        {"validation_loss": 0.25},
    ]
    for more in ({}, *numbers):
        lines.append({"step": 90 + len(lines), "epoch": 1, **more})
        draw_curves(lines, path, title="run")
        contents.add(path.read_bytes())
        with Image.open(path) as picture:
            widths.append(picture.width)
    assert [width / widths[0] for width in widths] == [1, 2, 3, 3, 3, 3, 3]
    assert len(contents) == 7
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


class Terminal(io.StringIO):
    """A screen of COLUMNS columns."""

    def isatty(self) -> bool:
        return True


def follow(stream: io.StringIO, folder: Path, *, epochs: int = 12) -> list[str]:
    """Show a whole run; returns the lines as they stay on the screen."""
    console = Console(config(folder, HF_REPO_ID="me/captioner"), stream)
    console.start(FACTS, 0)
    samples = tuple(
        CaptionedPicture(Path(f"a-long-picture-name-{i}.jpg"), CAPTION) for i in range(5)
    )
    for epoch in range(1, epochs + 1):
        for step in range(epoch * 100 - 99, epoch * 100 + 1):
            console.advance(300)
            if step % 50 == 0:
                console.step(step, epoch, {**MEASURED, "pairs_per_second": 10.0**epoch})
        scores = {name: value * epoch for name, value in SCORES.items()}
        event = Validation(
            step=step, epoch=epoch, values=scores, samples=samples, is_best=epoch == 2
        )
        console.validation(event)
    best = {"step": 200, "epoch": 2, **SCORES}
    console.close(Outcome(seconds=3725, finished=True, best=best, notes=(("W&B", "offline"),)))
    return [line.rpartition("\r")[2] for line in stream.getvalue().split("\n")]


def test_a_log_file_has_plain_aligned_lines() -> None:
    stream = io.StringIO()
    lines = follow(stream, Path("runs"), epochs=5)
    assert "\r" not in stream.getvalue()
    text = stream.getvalue()
    for said in (
        "openai/clip-vit-base-patch32, frozen",
        "29.4 M trained + 87.5 M frozen",
        "flickr30k: 6,000 pictures with 30,000 captions, 1,000 for validation",
        "12 epochs of 100 steps",
        "cpu, 2 threads, fp32",
        "Done in 1:02:05.",
        "runs/a-run/best  (epoch 2: val 2.250  CIDEr 0.550",
        "python generate.py --checkpoint runs/a-run/best --image PHOTO.jpg",
    ):
        assert said in text
    steps = [line for line in lines if "  lr " in line]
    epochs = [line for line in lines if " val " in line and line.startswith("epoch")]
    assert len(steps) == 10
    assert len(epochs) == 5
    for column in ("step ", "loss ", "lr ", "pairs/s"):
        assert len({line.index(column) for line in steps}) == 1
    for column in ("train ", "val ", "CIDEr ", "BLEU-4 ", "ROUGE-L ", "pairs/s"):
        assert len({line.index(column) for line in epochs}) == 1
    assert [line.endswith("* best") for line in epochs] == [False, True, False, False, False]
    assert text.count("a-long-picture-name-0") == 5
    assert "a-long-picture-name-3" not in text


@pytest.mark.parametrize("columns", [50, 60, 79])
def test_narrow_screens_get_plain_lines_that_fit(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    lines = follow(stream, Path("r"), epochs=2)
    assert "\r" not in stream.getvalue()
    too_long = [line for line in lines if len(line) > columns and "python " not in line]
    assert not too_long
    assert any("val" in line and "CIDEr" in line for line in lines)


def test_a_terminal_has_a_bar_that_leaves_only_epochs_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    lines = follow(stream, tmp_path, epochs=2)
    shown = stream.getvalue()
    assert "loss  2.500  lr 4.0e-04       10 pairs/s" in shown
    assert "epoch  2/12" in shown
    assert not [line for line in lines if "  lr " in line]
    assert len([line for line in lines if line.startswith("epoch")]) == 2


def test_a_stopped_run_says_how_to_go_on(tmp_path: Path) -> None:
    stream = io.StringIO()
    Console(config(tmp_path), stream).close(Outcome(seconds=3, finished=False))
    assert "Stopped in 0:03." in stream.getvalue()
    assert "--RESUME_CHECKPOINT_PATH auto" in stream.getvalue()
    assert "generate.py" not in stream.getvalue()


def test_duration() -> None:
    assert [duration(seconds) for seconds in (0.4, 75.2, 3599.6)] == ["0:00", "1:15", "1:00:00"]


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without W&B key; returns where its netrc would be."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "netrc"


def test_wandb_mode_auto_is_online_where_there_is_a_key(
    no_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_mode("auto") == "offline"
    assert choose_mode("disabled") == "disabled"
    no_key.write_text("machine example.org login user password x\n")
    assert choose_mode("auto") == "offline"
    no_key.write_text("machine api.wandb.ai login user password x\n")
    no_key.chmod(0o600)
    assert choose_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_mode("auto") == "offline"
    assert choose_mode("online") == "online"
    no_key.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert choose_mode("online") == "online"


@pytest.mark.usefixtures("no_key")
def test_wandb_online_without_key_is_one_sentence_and_no_prompt(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wandb login"):
        RunLog(tmp_path / "a-run", config(tmp_path, WANDB_MODE="online"))


def test_wandb_that_fails_is_told_once_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def fail(*arguments: Any) -> None:
        calls.append("log")
        raise ConnectionError("the service is gone")

    run = SimpleNamespace(id="x", offline=False, url="u", log=fail)
    log = WandbLog(run, tmp_path / "samples.jsonl")
    for step in range(3):
        log.step(step, 1, MEASURED)
    log.close(Outcome(seconds=1, finished=True))
    assert calls == ["log"]
    assert not log._thread.is_alive()
    assert capsys.readouterr().err.count("the service is gone") == 1
    assert log.run_id == "x"


def test_a_client_that_blocks_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entered, released = threading.Event(), threading.Event()

    def block(*arguments: Any) -> None:
        entered.set()
        released.wait(60)

    monkeypatch.setattr(wandb_log, "FINISH_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(wandb_log, "_leave_client", lambda: None)
    run = SimpleNamespace(
        id="x", offline=False, url="u", log=block, summary={}, finish=lambda **_: None
    )
    log = WandbLog(run, tmp_path / "samples.jsonl")
    log.step(1, 1, MEASURED)
    assert entered.wait(60)
    for step in range(2, 1000):
        log.step(step, 1, MEASURED)
        log.validation(Validation(step=step, epoch=1, values=SCORES, is_best=True))
    log.close(Outcome(seconds=1, finished=True))
    assert not released.is_set()
    assert "W&B has not taken everything within 0.2 seconds" in capsys.readouterr().err
    released.set()
    log._thread.join(60)
    assert run.summary["best/CIDEr"] == SCORES["CIDEr"]


STOP = """
import atexit, os, signal
stopped = []  # ended at last, for they hold our output open
atexit.register(lambda: [os.kill(one, signal.SIGKILL) for one in stopped])
def stop_client():
    for name in os.listdir("/proc"):
        try:
            fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
        except OSError:
            continue
        if name.isdigit() and fields[1] == str(os.getpid()):
            os.kill(int(name), signal.SIGSTOP)
            stopped.append(int(name))
            print("stopped", open(f"/proc/{name}/comm").read().strip())
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.slow
def test_the_real_client_stopped_in_the_middle_holds_up_nothing(tmp_path: Path) -> None:
    head, start, tail = RUN.partition("log.start(FACTS)\n")
    program = f"{STOP}{head}wandb_log.FINISH_TIMEOUT_SECONDS = 1\nstop_client()\n{start}{tail}"
    result = run_logged(tmp_path, 1, 3, program=program)
    assert result.returncode == 0, result.stderr
    assert "stopped wandb-core" in result.stdout
    assert "W&B has not taken everything within 1 seconds" in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(read_lines(tmp_path / "a-run" / "metrics.jsonl")) == 6


RUN = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from captioning.tracking import wandb_log
wandb_log.START_TIMEOUT_SECONDS = 2
from tests.helpers.run_logs import FACTS, MEASURED, SCORES, config, make_samples
from captioning.tracking.provenance import provenance
from captioning.tracking.run_log import RunLog
from PIL import Image

folder = Path(sys.argv[1])
first, last = int(sys.argv[2]), int(sys.argv[3])
settings = config(folder, WANDB_MODE=sys.argv[4], NUM_EPOCHS=last)
strip = folder / "strip.png"
Image.new("RGB", (90, 20)).save(strip)
log = RunLog(
    folder / "a-run",
    settings,
    resumed_step=(first - 1) * 100 or None,
    wandb_run_id=sys.argv[5],
    provenance=provenance(asdict(settings), device="cpu", data={"sha256": "f00d"}),
)
log.start(FACTS)
samples = make_samples(folder / "pictures")
for epoch in range(first, last + 1):
    log.step(epoch * 100 - 50, epoch, {**MEASURED, "loss": 4.0 / epoch})
    scores = {name: value / epoch for name, value in SCORES.items()}
    log.validation(epoch * 100, epoch, scores, samples, attention_strip=strip, is_best=epoch == 1)
log.close(finished=True, best_step=100)
print(log.wandb_run_id)
"""


def run_logged(
    folder: Path,
    first: int,
    last: int,
    *,
    mode: str = "offline",
    run_id: str = "",
    program: str = "",
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Log epochs `first` to `last` in a process of its own, as `train.py` would."""
    environment = {name: value for name, value in os.environ.items() if name[:6] != "WANDB_"}
    environment |= {"PYTHONPATH": str(ROOT), "WANDB_CACHE_DIR": str(folder / "cache"), **more}
    environment["WANDB_DATA_DIR"] = str(folder / "data")
    return subprocess.run(
        [sys.executable, "-c", program or RUN, str(folder), str(first), str(last), mode, run_id],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def read_run_file(path: Path) -> list[Any]:
    """The records of a `.wandb` file: blocks of LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    def whole_records(content: bytes) -> Iterator[bytes]:
        block_size, at, parts = 32768, 7, b""
        while at + 7 <= len(content):
            left = block_size - at % block_size
            if left < 7:
                at += left
                continue
            size, kind = struct.unpack_from("<HB", content, at + 4)
            parts += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # a whole record, or the last part of one
                yield parts
                parts = b""

    records = []
    for content in whole_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        records.append(record)
    return records


def items(record_items: Any) -> dict[str, Any]:
    """Names (of nested values joined by a slash) and values."""
    return {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record_items
    }


def test_the_wandb_run_file_holds_every_figure_and_picture(tmp_path: Path) -> None:
    result = run_logged(tmp_path, 1, 2)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    run_id = result.stdout.split()[-1]
    assert f"wandb sync {tmp_path}/a-run/wandb/offline-run-*-{run_id}" in result.stdout
    (folder,) = (tmp_path / "a-run" / "wandb").glob(f"offline-run-*-{run_id}")
    records = read_run_file(folder / f"run-{run_id}.wandb")
    history = [items(record.history.item) for record in records if record.HasField("history")]
    steps = [line for line in history if "train/loss" in line]
    validations = [line for line in history if "validation/CIDEr" in line]
    for epoch, (step, validation) in enumerate(zip(steps, validations, strict=True), start=1):
        assert step["step"] == epoch * 100 - 50
        assert step["epoch"] == epoch
        for name, value in {**MEASURED, "loss": 4.0 / epoch}.items():
            assert step[f"train/{name}"] == value
        assert validation["step"] == epoch * 100
        for name, value in SCORES.items():
            assert validation[f"validation/{name}"] == value / epoch
        assert validation["validation/caption_lengths/values"] == [0, 0, 0, 0, 3]
        assert validation["samples/pictures/captions"] == [f"caption {i} of it" for i in range(3)]
        files = [
            *validation["samples/pictures/filenames"],
            validation["samples/attention/path"],
            validation["samples/captions/path"],
        ]
        assert len(files) == 5
        for file in files:
            assert (folder / "files" / file).stat().st_size > 0
    table = json.loads((folder / "files" / validations[1]["samples/captions/path"]).read_text())
    assert table["columns"] == ["picture", "people", "epoch 1", "epoch 2"]
    assert [row[1:] for row in table["data"]] == [
        [f"what people say of {i}", f"caption {i} of it", f"caption {i} of it"] for i in range(3)
    ]
    started: dict[str, Any] = {}
    for record in records:
        started |= items(record.config.update) | items(record.run.config.update)
    assert started["BATCH_SIZE"] == 256
    assert started["provenance"]["data"] == {"sha256": "f00d"}
    assert started["provenance"]["packages"]["torch"]
    summary: dict[str, Any] = {}
    for record in records:
        summary |= items(record.summary.update)
    assert summary["best/CIDEr"] == SCORES["CIDEr"]
    assert summary["best/epoch"] == 1


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path: Path) -> None:
    run_id = run_logged(tmp_path, 1, 1).stdout.split()[-1]
    resumed = run_logged(tmp_path, 2, 2, run_id=run_id)
    assert resumed.stdout.split()[-1] == run_id
    assert len(list((tmp_path / "a-run" / "wandb").glob(f"offline-run-*-{run_id}"))) == 2
    tables = (tmp_path / "a-run" / "wandb").glob("*/files/media/table/samples/*.json")
    columns = sorted(json.loads(table.read_text())["columns"] for table in tables)
    assert columns[-1] == ["picture", "people", "epoch 1", "epoch 2"]


@pytest.mark.slow
def test_wandb_that_is_down_makes_an_offline_run(tmp_path: Path) -> None:
    down = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    result = run_logged(tmp_path, 1, 1, mode="auto", run_id="abc123", **down)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("W&B cannot be reached") == 1
    assert result.stdout.split()[-1] == "abc123"
    assert "wandb sync" in result.stdout
    assert len(list((tmp_path / "a-run" / "wandb").glob("offline-run-*-abc123"))) == 1
    assert len(read_lines(tmp_path / "a-run" / "metrics.jsonl")) == 2


def test_wandb_is_not_imported_where_it_is_disabled(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.helpers.run_logs import config; "
        "from captioning.tracking.run_log import RunLog; folder = Path(sys.argv[1]); "
        "RunLog(folder / 'a-run', config(folder)).close(finished=False); "
        "assert 'wandb' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)


def test_pictures_are_sent_in_one_size(tmp_path: Path) -> None:
    sizes = {wandb_log.thumbnail(sample.image).size for sample in make_samples(tmp_path)}
    assert len(sizes) == 1

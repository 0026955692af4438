"""The training run: from settings to checkpoints, and on from where it stopped, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from captioning.system.errors import UserError
from captioning.training.train_state import read_state
from checkpoint import read_checkpoint
from dataset import Step
from tests.helpers.small_runs import (
    NOT_EXACT,
    arguments,
    differences,
    lines_of,
    run,
    weights_of,
    write_data,
    write_encoder,
)
from tests.helpers.steps import before_each_step, run_killed
from trainer import Trainer

ROOT = Path(__file__).parents[2]


def test_a_run_leaves_whole_checkpoints_and_numbers(place: Path) -> None:
    folder = run(place, RUN_NAME="whole")
    names = {path.name for path in (folder / "last").iterdir()}
    assert names == {
        "config.toml",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "metrics.json",
        "README.md",
        "checkpoint.json",
        "optimizer.safetensors",
        "trainer_state.json",
    }
    best = {path.name for path in (folder / "best").iterdir()}
    assert names - best == {"optimizer.safetensors", "trainer_state.json"}
    lines = lines_of(folder / "metrics.jsonl")
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(2, steps[-1] + 1, 2))
    validations = [line for line in lines if "validation_loss" in line]
    assert [line["epoch"] for line in validations] == [1, 2]
    assert {"CIDEr", "BLEU-4", "ROUGE-L"} <= validations[0].keys()
    trained_seconds = json.loads((folder / "last" / "trainer_state.json").read_text())[
        "trained_seconds"
    ]
    seconds = [line["seconds"] for line in validations]
    assert 0 < seconds[0] < seconds[1] <= trained_seconds
    assert (folder / "curves.png").exists()
    assert (folder / "provenance.json").exists()


def test_the_same_settings_give_the_same_run(place: Path) -> None:
    first, second = run(place, RUN_NAME="one"), run(place, RUN_NAME="two")
    assert differences(first / "last", second / "last") == []
    one, other = (lines_of(f / "metrics.jsonl", NOT_EXACT) for f in (first, second))
    assert one == other
    third = run(place, RUN_NAME="three", RANDOM_SEED=7)
    assert differences(first / "last", third / "last") != []


MODES: dict[str, dict[str, object]] = {
    "class token": {"ENCODER_TOKENS": "cls"},
    "several layers": {"ENCODER_LAYERS": "-1,-3"},
    "cached": {},
    "accumulated": {"MICRO_BATCH_SIZE": 7},
    "live": {"FEATURE_CACHE": "off"},
    "live in workers": {"FEATURE_CACHE": "off", "NUM_WORKERS": 2},
    "trained encoder": {"ENCODER_TRAINED_BLOCKS": 1, "ENCODER_LEARNING_RATE": "1e-3"},
    "trained, live": {"ENCODER_TRAINED_BLOCKS": -1, "FEATURE_CACHE": "off"},
    "layers at their own rates": {
        "ENCODER_TRAINED_BLOCKS": -1,
        "ENCODER_LAYER_DECAY": 0.5,
        "ENCODER_LEARNING_RATE": "1e-3",
        "GRADIENT_CHECKPOINTING": True,
    },
    "adapters": {
        "ENCODER_TRAINED_BLOCKS": 2,
        "ENCODER_LORA_RANK": 2,
        "ENCODER_LEARNING_RATE": "1e-2",
    },
    "encoder from the second epoch on": {
        "ENCODER_TRAINED_BLOCKS": 1,
        "ENCODER_START_EPOCH": 1,
        "ENCODER_LEARNING_RATE": "1e-2",
    },
    "adapters from the second epoch on": {
        "ENCODER_TRAINED_BLOCKS": -1,
        "ENCODER_LORA_RANK": 2,
        "ENCODER_START_EPOCH": 1,
        "ENCODER_LEARNING_RATE": "1e-2",
    },
    "augmented, live": {"FEATURE_CACHE": "off", "AUGMENTATION": "crop,flip,colour"},
    "augmented pixels in workers": {
        "ENCODER_TRAINED_BLOCKS": 1,
        "ENCODER_LEARNING_RATE": "1e-2",
        "AUGMENTATION": "crop,flip",
        "NUM_WORKERS": 2,
    },
    "views": {"FEATURE_VIEWS": 3, "AUGMENTATION": "crop,flip"},
    "two captions a step": {"CAPTIONS_PER_STEP": 2},
    "averaged": {"EMA_DECAY": 0.7, "ENCODER_TRAINED_BLOCKS": 1},
}
SLOW = {
    *("several layers", "live in workers", "augmented pixels in workers", "two captions a step"),
    *("adapters from the second epoch on", "trained encoder", "class token", "augmented, live"),
    *("layers at their own rates", "encoder from the second epoch on", "live"),
    *("accumulated", "adapters", "averaged"),
}
"""Modes whose parts other modes hold too, and those that change features alone."""


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=[pytest.mark.slow] if mode in SLOW else [], id=mode)
        for mode in MODES
    ],
)
def test_a_killed_run_goes_on_as_though_nothing_had_happened(place: Path, mode: str) -> None:
    if "ENCODER_LORA_RANK" in MODES[mode]:
        pytest.importorskip("peft")
    settings = {**MODES[mode], "SAVE_INTERVAL": 3}
    whole = run(place, RUN_NAME=f"whole {mode}", **settings)
    name = f"killed {mode}"
    run_killed(place, 5, RUN_NAME=name, **settings)  # mid-epoch, two steps after a save
    run_killed(place, 11, RUN_NAME=name, RESUME_CHECKPOINT_PATH="auto", **settings)
    again = run(place, RUN_NAME=name, RESUME_CHECKPOINT_PATH="auto", **settings)
    for kind in ("last", "best"):
        if kind == "last":
            assert differences(whole / kind, again / kind) == []
        same = (whole / kind / "model.safetensors").read_bytes()
        assert (again / kind / "model.safetensors").read_bytes() == same
    one, other = (lines_of(f / "metrics.jsonl", NOT_EXACT) for f in (whole, again))
    assert one == other


def test_a_run_that_is_done_has_nothing_left_to_do(place: Path) -> None:
    folder = run(place, RUN_NAME="done")
    before = (folder / "last" / "model.safetensors").read_bytes()
    assert train.main(arguments(place, RUN_NAME="done", RESUME_CHECKPOINT_PATH="auto")) == 0
    assert (folder / "last" / "model.safetensors").read_bytes() == before
    assert (
        len([line for line in lines_of(folder / "metrics.jsonl") if "validation_loss" in line]) == 2
    )


def test_a_run_can_be_made_longer(place: Path) -> None:
    folder = run(place, RUN_NAME="longer")
    again = run(place, RUN_NAME="longer", RESUME_CHECKPOINT_PATH=folder / "last", NUM_EPOCHS=3)
    epochs = [line["epoch"] for line in lines_of(again / "metrics.jsonl") if "CIDEr" in line]
    assert epochs == [1, 2, 3]


def test_a_run_is_never_overwritten(place: Path) -> None:
    run(place, RUN_NAME="kept")
    with pytest.raises(UserError, match="holds a run already"):
        train.main(arguments(place, RUN_NAME="kept"))


def test_what_would_alter_the_model_is_refused_field_by_field(place: Path) -> None:
    run(place, RUN_NAME="fixed")
    changes = {"DECODER_LAYERS": 3, "LABEL_SMOOTHING": 0.5, "LOG_INTERVAL": 3}
    with pytest.raises(UserError) as caught:
        train.main(arguments(place, RUN_NAME="fixed", RESUME_CHECKPOINT_PATH="auto", **changes))
    assert len(caught.value.problems) == 2
    assert "DECODER_LAYERS was 2 in the checkpoint and is 3 now" in caught.value.problems[0]
    assert "LABEL_SMOOTHING was 0.1" in caught.value.problems[1]


def test_settings_that_are_left_out_come_from_the_checkpoint(place: Path) -> None:
    folder = run(place, RUN_NAME="remembered")
    words = ["--RESUME_CHECKPOINT_PATH", str(folder / "last"), "--NUM_EPOCHS", "3"]
    assert train.main(words) == 0
    assert lines_of(folder / "metrics.jsonl")[-1]["epoch"] == 3


def test_other_data_is_refused(place: Path, tmp_path: Path) -> None:
    folder = run(place, RUN_NAME="data")
    other = write_data(tmp_path, count=30)
    with pytest.raises(UserError, match="is not the data that"):
        train.main(arguments(place, RUN_NAME="data", RESUME_CHECKPOINT_PATH="auto", DATA_DIR=other))
    assert folder.exists()


def test_best_cannot_be_trained_on(place: Path) -> None:
    folder = run(place, RUN_NAME="best-only")
    with pytest.raises(UserError, match="from the `last` folder"):
        train.main(arguments(place, RESUME_CHECKPOINT_PATH=folder / "best"))


def test_best_follows_the_metric_that_is_asked_for(place: Path) -> None:
    folder = run(place, RUN_NAME="loss", BEST_METRIC="loss", VALIDATION_IMAGES=0, NUM_EPOCHS=3)
    lines = [line for line in lines_of(folder / "metrics.jsonl") if "validation_loss" in line]
    best = min(lines, key=lambda line: line["validation_loss"])
    import json

    assert json.loads((folder / "best" / "metrics.json").read_text())["step"] == best["step"]


def test_each_validation_draws_what_the_words_looked_at(place: Path) -> None:
    folder = run(place, RUN_NAME="strip", NUM_EPOCHS=1)
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_shows_pictures_only_where_they_were_drawn(place: Path) -> None:
    folder = run(place, RUN_NAME="card", NUM_EPOCHS=1)
    assert not list((folder / "best").glob("example-*.png"))
    (place / "data" / "demo").symlink_to(place / "data" / "small", target_is_directory=True)
    folder = run(place, RUN_NAME="drawn", NUM_EPOCHS=1, DATASET="demo")
    shown = sorted(path.name for path in (folder / "best").glob("example-*.png"))
    assert shown == ["example-1.png", "example-2.png", "example-3.png"]
    card = (folder / "best" / "README.md").read_text()
    assert all(f"]({name})" in card for name in shown)
    from checkpoint import read_checkpoint

    read_checkpoint(folder / "best")


def test_older_checkpoints_are_kept_as_asked(place: Path) -> None:
    folder = run(place, RUN_NAME="kept3", KEEP_CHECKPOINTS=2, SAVE_INTERVAL=2, NUM_EPOCHS=1)
    kept = sorted(path.name for path in folder.glob("step-*"))
    assert len(kept) == 2
    assert all((folder / name / "trainer_state.json").exists() for name in kept)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_batch(place: Path) -> None:
    def break_weights(trainer: Trainer, step: Step) -> None:
        if trainer.state.step == 3:
            with torch.no_grad():
                trainer.pipeline.model.decoder.norm.weight.fill_(float("nan"))

    with (
        before_each_step(break_weights),
        pytest.raises(UserError, match=r"loss of step 4 \(epoch 1, batch 4: scene_"),
    ):
        train.main(arguments(place, RUN_NAME="nan", SAVE_INTERVAL=2))
    state = place / "checkpoints" / "nan" / "last" / "trainer_state.json"
    assert '"step": 2' in state.read_text()


def test_an_update_that_breaks_the_weights_is_not_saved_and_a_lower_rate_goes_on(
    place: Path,
) -> None:
    name, well = "diverged", {"BATCH_SIZE": 1000, "SAVE_INTERVAL": 0}
    folder = run(place, RUN_NAME=name, NUM_EPOCHS=1, **well)
    before = weights_of(folder / "last")
    further = {"NUM_EPOCHS": 2, "RESUME_CHECKPOINT_PATH": "auto", **well}
    too_fast = {"LEARNING_RATE": 1e30, "GRAD_CLIP_VALUE": 0}
    with pytest.raises(UserError, match=r"not a finite number.*--LEARNING_RATE"):
        train.main(arguments(place, RUN_NAME=name, **further, **too_fast))
    after = weights_of(folder / "last")
    assert all(before[key].equal(after[key]) for key in before)
    run(place, RUN_NAME=name, LEARNING_RATE=1e-4, **further)


SELF_CRITICAL = {
    "NUM_EPOCHS": 1,
    "SCST_EPOCHS": 1,
    "SCST_SAMPLES": 3,
    "SCST_LEARNING_RATE": 1e-3,
    "SAVE_INTERVAL": 1,
    "EMA_DECAY": 0.9,
    "MEMORY_LAYERS": 1,
    "BATCH_SIZE": 40,
}


def test_self_critical_training_goes_on_bit_for_bit_and_keeps_both_bests(place: Path) -> None:
    whole = run(place, RUN_NAME="scst", **SELF_CRITICAL)
    lines = lines_of(whole / "metrics.jsonl")
    names = [next(one for one in ("reward", "loss", "CIDEr") if one in line) for line in lines]
    assert sorted(set(names), key=names.index) == ["loss", "CIDEr", "reward"]
    end = read_state(whole / "last" / "trainer_state.json").step
    assert read_checkpoint(whole / "best").metrics["step"] == end
    first = read_checkpoint(whole / "best-cross-entropy").metrics["step"]
    for name, after in {"scst-boundary": first, "scst-within": first + 2}.items():
        run_killed(place, after, RUN_NAME=name, **SELF_CRITICAL)
        folder = run(place, RUN_NAME=name, RESUME_CHECKPOINT_PATH="auto", **SELF_CRITICAL)
        assert differences(whole / "last", folder / "last") == []
        assert differences(whole / "best", folder / "best") == []
        assert differences(whole / "best-cross-entropy", folder / "best-cross-entropy") == []


def test_a_finished_run_is_given_a_self_critical_end(place: Path) -> None:
    settings = {"RUN_NAME": "scst-later", "NUM_EPOCHS": 1, "BATCH_SIZE": 40}
    run(place, **settings)
    go_on = {**settings, "SCST_EPOCHS": 1, "RESUME_CHECKPOINT_PATH": "auto"}
    folder = run(place, **go_on)
    assert (folder / "best-cross-entropy").exists()
    with pytest.raises(UserError, match=r"NUM_EPOCHS was 1.*self-critical training has begun"):
        train.main(arguments(place, **{**go_on, "NUM_EPOCHS": 2, "SCST_EPOCHS": 2}))


def test_two_runs_do_not_share_a_folder(place: Path) -> None:
    folder = place / "checkpoints" / "shared"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path\n"
            "from captioning.training.guards import locked\n"
            "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()",
            str(folder),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(UserError, match="another process"):
        train.main(arguments(place, RUN_NAME="shared"))
    holder.communicate()
    run(place, RUN_NAME="shared", NUM_EPOCHS=1)


@pytest.mark.parametrize("family", ["clip", "vit", "blip", "siglip", "dinov2", "resnet", "swin"])
def test_every_family_of_encoders_trains(place: Path, family: str) -> None:
    encoder = write_encoder(place, family)
    folder = run(
        place,
        RUN_NAME=family,
        ENCODER_MODEL_NAME=encoder,
        NUM_EPOCHS=1,
        BEST_METRIC="loss",
        VALIDATION_IMAGES=0,
        # The random BatchNorm of a tiny ResNet gives features beyond what a cache can hold.
        FEATURE_CACHE="off" if family == "resnet" else "on",
    )
    assert (folder / "best" / "model.safetensors").exists()


def start(place: Path, **changes: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments(place, **changes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_a_signal_saves_and_says_how_to_go_on(
    place: Path, number: signal.Signals, code: int
) -> None:
    name = f"signal {code}"
    settings = {"RUN_NAME": name, "NUM_EPOCHS": 400, "SAVE_INTERVAL": 5}
    process = start(place, **settings)
    wait_for(place / "checkpoints" / name / "last" / "trainer_state.json", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert "--RESUME_CHECKPOINT_PATH auto" in output
    assert "Traceback" not in output
    from checkpoint import read_checkpoint

    state = read_checkpoint(place / "checkpoints" / name / "last").state
    assert state is not None
    assert f"after step {state.step:,}" in output


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
@pytest.mark.slow
def test_a_signal_to_the_whole_group_is_answered_once(
    place: Path, number: signal.Signals, code: int
) -> None:
    name = f"group {code}"
    settings = {"RUN_NAME": name, "NUM_EPOCHS": 400, "SAVE_INTERVAL": 5}
    process = start(place, **settings, FEATURE_CACHE="off", NUM_WORKERS=2)
    wait_for(place / "checkpoints" / name / "last" / "trainer_state.json", process)
    os.killpg(process.pid, number)  # as a terminal does, and a scheduler
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert output.count("Finishing the step") == 1
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_in_its_logs_and_in_its_wandb_run(place: Path) -> None:
    from checkpoint import read_checkpoint

    folder = place / "checkpoints" / "killed for good"
    settings = {
        "RUN_NAME": folder.name,
        "NUM_EPOCHS": 400,
        "SAVE_INTERVAL": 5,
        "WANDB_MODE": "offline",
    }
    process = start(place, **settings)
    wait_for(folder / "last" / "trainer_state.json", process)
    process.kill()
    with process:  # its output is closed
        process.wait()
    before = read_checkpoint(folder / "last").state
    assert before is not None
    process = start(place, **settings, RESUME_CHECKPOINT_PATH="auto")
    wait_for(folder / "best", process)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    after = read_checkpoint(folder / "last").state
    assert after is not None
    assert after.step > before.step
    assert after.wandb_run_id == before.wandb_run_id != ""
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert all(run.name.endswith(before.wandb_run_id) for run in runs)
    steps = [line["step"] for line in lines_of(folder / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(2, after.step + 1, 2))

"""Train a captioner: prepare what is missing, train, validate, keep `best` and `last`.

    python train.py                                             Flickr30k with CLIP features
    python train.py --config presets/demo.toml                  drawn scenes, minutes on two cores
    python train.py --DATASET mine --IMAGE_DIR pictures --CAPTIONS_FILE captions.csv
    python train.py --RESUME_CHECKPOINT_PATH auto               go on where the last run stopped

Reads a prepared data set (made if it is not there); writes OUTPUT_DIR/RUN_NAME/{best,last}, and
beside them `metrics.jsonl`, `curves.png` and `provenance.json`.
"""

import errno
import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from captioning.system.errors import UserError, run_command
from captioning.system.processes import ending_together, is_main_process
from config import Config, load_config, parse_config

MAY_CHANGE = frozenset(
    "DATA_DIR IMAGE_DIR CAPTIONS_FILE DATASET_SOURCE DATASET_REVISION MAX_BAD_FRACTION OUTPUT_DIR "
    "RUN_NAME DEVICE COMPILE GRADIENT_CHECKPOINTING SHARDING NUM_WORKERS NUM_EPOCHS "
    "VALIDATION_INTERVAL VALIDATION_IMAGES BEAM_SIZE RESUME_CHECKPOINT_PATH SAVE_INTERVAL_STEPS "
    "SAVE_INTERVAL_MINUTES KEEP_CHECKPOINTS STOP_ON_SAVE_ERROR LOG_INTERVAL WANDB_PROJECT "
    "WANDB_ENTITY WANDB_RUN_NAME WANDB_MODE WANDB_LOG_BEST HF_REPO_ID HF_UPLOAD_BEST_CHECKPOINTS "
    "HF_PRIVATE".split()
)
"""Settings that a run may go on with at another value; any other would alter the model."""
DISK_FAULTS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
)
DESCRIPTION = "Train a captioner on a pretrained vision encoder."


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, then train."""
    config = parse_config(argv, description=DESCRIPTION)
    resumed = find_resumed(config)
    if resumed is not None:
        # What the command line leaves open is as the run had it.
        config = parse_config(argv, base=load_config(resumed / "config.toml"))
        refuse_changes(load_config(resumed / "config.toml"), config)
    return train(config, resumed)


def find_resumed(config: Config) -> Path | None:
    """The checkpoint folder to go on from, or None for a fresh start; says which."""
    wanted = config.RESUME_CHECKPOINT_PATH
    if not wanted:
        if any(config.run_dir.glob("*/checkpoint.json")):
            raise UserError(
                f"{config.run_dir} holds a run already. Go on with it: "
                "--RESUME_CHECKPOINT_PATH auto, or begin another: --RUN_NAME NAME"
            )
        return None
    from checkpoint import newest_checkpoint, read_checkpoint

    if wanted != "auto":
        try:
            state = read_checkpoint(Path(wanted)).state
        except UserError as error:
            whole, _ = newest_checkpoint(Path(wanted).parent)
            advice = [f"Whole is {whole}: --RESUME_CHECKPOINT_PATH {whole}"] if whole else []
            raise UserError(*error.problems, *advice) from None
        if state is None:
            raise UserError(
                f"{wanted} cannot be trained on, it holds a model alone; name the `last` folder "
                "beside it."
            )
        return Path(wanted)
    folder, problems = newest_checkpoint(config.run_dir)
    if problems and folder is None:
        raise UserError(
            *problems,
            f"{config.run_dir} holds no whole checkpoint to go on from. Restore one, or begin "
            "another run: --RUN_NAME NAME",
        )
    if is_main_process():
        for problem in problems:
            print(f"Passed over: {problem}")
        print(f"Going on from {folder}." if folder else f"{config.run_dir} is new: a fresh start.")
    return folder


def refuse_changes(saved: Config, wanted: Config) -> None:
    """Raise `UserError` naming each setting that a run cannot go on with."""
    changed = [
        f"{name} was {getattr(saved, name)!r} in the checkpoint and is {getattr(wanted, name)!r} "
        "now; it cannot change within a run. Leave it out, or begin another run: --RUN_NAME NAME"
        for name in sorted({field.name for field in fields(Config)} - MAY_CHANGE)
        if getattr(saved, name) != getattr(wanted, name)
    ]
    if changed:
        raise UserError(*changed)


def train(config: Config, resumed: Path | None = None) -> int:
    """Train as `config` says, from `resumed` or from the start; returns the exit code."""
    from captioning.system.runtime import Runtime
    from prepare_dataset import prepare_dataset
    from training_run import TrainingRun

    if config.HF_UPLOAD_BEST_CHECKPOINTS:
        from captioning.sharing.repository import check_token

        check_token(config.HF_REPO_ID)
    runtime = Runtime.create(config.DEVICE, config.PRECISION)
    with (
        ending_together(),
        locked(config.run_dir, runtime.is_main),
        plain_faults(config.run_dir),
    ):
        if runtime.is_main:
            prepare_dataset(config)
        runtime.barrier()
        return TrainingRun(config, runtime, resumed).train()


@contextmanager
def locked(run_dir: Path, is_main: bool = True) -> Iterator[None]:
    """Hold a run's folder. Raises `UserError` where another process trains in it.

    A record lock: worker processes, which outlive a killed run by seconds, do not inherit it.
    """
    if not is_main:
        yield
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{run_dir} cannot be written to: {error.strerror}. Choose another place: "
            "--OUTPUT_DIR FOLDER"
        ) from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{run_dir} is being trained in by another process. Wait for it, or begin another "
                "run: --RUN_NAME NAME"
            ) from None
        yield


@contextmanager
def plain_faults(run_dir: Path) -> Iterator[None]:
    """Make a sentence of what the machine does to a run: disk, memory, a worker that dies."""
    import torch

    go_on = "go on with the same command and --RESUME_CHECKPOINT_PATH auto"
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        place = error.filename or run_dir
        raise UserError(f"{place}: {error.strerror}. Mend that, then {go_on}") from None
    except torch.OutOfMemoryError:
        raise UserError(
            "out of memory, though training computes as few captions at a time as it can. End "
            f"what else uses the device, then {go_on}; or begin another run with fewer "
            "--CAPTIONS_PER_STEP or a smaller model"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a worker process that reads pictures died ({str(error).split('. ')[0]}), mostly for "
            f"want of memory. Lower --NUM_WORKERS, then {go_on}"
        ) from None


if __name__ == "__main__":
    run_command(main)

"""What stands around a run: one process at a time in its folder, faults of the machine in words."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from captioning.system.errors import DISK_FAULTS, UserError
from captioning.system.files import own_file, refuse_links, remove_leftovers
from captioning.system.folders import refuse_other


@contextmanager
def locked(run_dir: Path, is_main: bool = True) -> Iterator[None]:
    """Hold a run's folder. Raises `UserError` where another process trains in it, or where a link
    or a folder that is no checkpoint stands in the way.

    A record lock: worker processes, which outlive a killed run by seconds, do not inherit it.
    """
    if not is_main:
        yield
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        refuse_links(run_dir)
        for name in ("best", "last"):
            refuse_other(run_dir / name)
        file = open(run_dir / ".lock", "a", opener=own_file)  # noqa: SIM115 - closed below
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
        remove_leftovers(run_dir)
        yield


@contextmanager
def plain_faults(
    run_dir: Path, *, go_on: str = "go on with the same command and --RESUME_CHECKPOINT_PATH auto"
) -> Iterator[None]:
    """Make a sentence of what the machine does to a run: disk, memory, a worker that dies."""
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
            f"want of memory, or of room in /dev/shm. Lower --NUM_WORKERS (0 needs neither), then "
            f"{go_on}"
        ) from None

"""Where a run begins: anew, or with a checkpoint that it goes on from.

`train.py` asks here which checkpoint that is, what its settings are, and whether the data are still
those that it was trained on.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from captioning.streaming.shards import StreamSource
from captioning.streaming.steps import stream_fingerprint
from captioning.system.errors import UserError
from captioning.system.privacy import mask_urls
from captioning.system.processes import is_main_process
from captioning.system.rules import MAY_CHANGE, NO_EFFECT, PER_RUN, SHARED, TYPED
from captioning.training.train_state import STATE, TrainState, read_state
from checkpoint import Checkpoint, fingerprint_of, newest_checkpoint, read_checkpoint
from config import Config, load_config, parse_config, settings_with


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


def resumed_config(folder: Path, typed: Config, argv: Sequence[str] | None) -> Config:
    """The settings to go on with from a checkpoint: what the command line leaves open is as the run
    had it, but for places and accounts.

    These may be somebody else's: the run's folder is where the checkpoint lies, its data are there
    or are the same bytes, and accounts have to be `typed`. Raises `UserError`.
    """
    saved = load_config(folder / "config.toml")
    if saved.STREAM and not typed.STREAM:
        raise UserError(
            f"{folder} was trained on the stream {saved.STREAM}, and what a checkpoint names is "
            "not opened by itself. Name it once more: --STREAM SHARDS"
        )
    own = {name: getattr(typed, name) for name in settings_with(TYPED)}
    if saved.WANDB_MODE == "online":
        own["WANDB_MODE"] = typed.WANDB_MODE
    base = replace(saved, **own)
    # "last" and "../last" say as little of the run's name as of its place.
    here = (folder if folder.parent.name.strip(".") else Path(os.path.abspath(folder))).parent
    if base.run_dir != here:
        base = replace(base, OUTPUT_DIR=str(here.parent), RUN_NAME=here.name)
    config = parse_config(argv, base=base)
    refuse_changes(saved, config)
    left = {
        f"{name} {getattr(saved, name)}"
        for name in settings_with(TYPED) - settings_with(SHARED, PER_RUN)
        if getattr(saved, name) not in (getattr(config, name), getattr(Config, name))
    }
    if left and is_main_process():
        print(
            f"Accounts are not taken from a checkpoint. It names {', '.join(sorted(left))}; add "
            "to the command what is yours."
        )
    return with_data_of(folder, config, saved, typed)


def with_data_of(folder: Path, config: Config, saved: Config, typed: Config) -> Config:
    """`config` with the DATA_DIR where the data of a checkpoint are: that of the command line, or
    that of the run, if nothing else lies there. Raises `UserError` where they are nowhere, unless
    the command line alone says what to prepare."""
    fingerprint = read_state(folder / STATE).data_fingerprint
    is_open = typed.DATA_DIR == Config.DATA_DIR
    for place in (config.DATA_DIR, saved.DATA_DIR if is_open else config.DATA_DIR):
        found = replace(config, DATA_DIR=place)
        if fingerprint.startswith(fingerprint_of(found.dataset_dir)):
            if place != config.DATA_DIR and is_main_process():
                print(f"Reading {found.dataset_dir}, as before.")
            return found
    if typed.DATASET == saved.DATASET and not (is_open and saved.DATA_DIR != config.DATA_DIR):
        return config
    raise UserError(
        f"{config.dataset_dir} is not the data that {folder} was trained on, or is not there, and "
        f"DATA_DIR {saved.DATA_DIR}, which the checkpoint names, is not looked into further. Say "
        f"where they are: --DATA_DIR FOLDER --DATASET {shlex.quote(saved.DATASET)}"
    )


def refuse_changes(saved: Config, wanted: Config) -> None:
    """Raise `UserError` naming each setting that a run cannot go on with."""
    before, now = (
        {name: mask_urls(one) if isinstance(one, str) else one for name, one in vars(of).items()}
        for of in (saved, wanted)
    )
    changed = [
        f"{name} was {before[name]!r} in the checkpoint and is {now[name]!r} "
        "now; it cannot change within a run. Leave it out, or begin another run: --RUN_NAME NAME"
        for name in sorted(before.keys() - settings_with(NO_EFFECT, MAY_CHANGE))
        if before[name] != now[name]
    ]
    if changed:
        raise UserError(*changed)


def starting_state(
    config: Config, stream: Sequence[StreamSource], checkpoint: Checkpoint | None
) -> TrainState:
    """Where a run stands that begins, or goes on. Raises `UserError` where the data has changed."""
    folder = config.dataset_dir
    fingerprint = fingerprint_of(folder)
    if stream:
        fingerprint += stream_fingerprint(stream)
    if checkpoint is None:
        return TrainState(data_fingerprint=fingerprint)
    state = checkpoint.state
    if state is None:
        raise UserError(f"{checkpoint.folder} cannot be trained on; name a `last` folder.")
    first = checkpoint.config.NUM_EPOCHS
    if first != config.NUM_EPOCHS and (state.epoch, state.step_in_epoch) > (first, 0):
        raise UserError(
            f"NUM_EPOCHS was {first} in the checkpoint, and self-critical training has begun; it "
            "cannot change any more. Leave it out, or change SCST_EPOCHS."
        )
    if state.data_fingerprint != fingerprint:
        raise UserError(
            f"{config.STREAM or folder} is not the data that {checkpoint.folder} was trained on: "
            "pictures, captions, shards or splits differ. Restore it, or begin another run: "
            "--RUN_NAME NAME"
        )
    return state

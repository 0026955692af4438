"""Where a run begins: with nothing, with the model of another run, or where it was stopped.

Of a run that goes on (RESUME_CHECKPOINT_PATH) the checkpoint decides the settings, and its data
must be those that it was trained on. Of one that begins with a model (INIT_CHECKPOINT_PATH) the
model decides vocabulary, architecture and, unless another is named, the encoder; all else is new.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from captioning.sharing.model_card import HUB
from captioning.sharing.repository import full_name, repository_of, resolve_checkpoint
from captioning.streaming.shards import StreamSource
from captioning.streaming.steps import stream_fingerprint
from captioning.system.errors import UserError
from captioning.system.privacy import mask_urls, without_places
from captioning.system.processes import is_main_process
from captioning.system.rules import (
    ARCHITECTURE,
    MAY_CHANGE,
    NO_EFFECT,
    OF_ENCODER,
    PER_RUN,
    SHARED,
    TYPED,
)
from captioning.system.runtime import Runtime
from captioning.training.train_state import STATE, TrainState, read_state
from checkpoint import (
    Checkpoint,
    fingerprint_of,
    load_encoder,
    load_model,
    newest_checkpoint,
    read_checkpoint,
)
from config import Config, load_config, parse_config, settings_with, split_revision
from encoder import VisionEncoder
from pipeline import CaptionPipeline


def find_resumed(config: Config) -> Path | None:
    """The checkpoint folder to go on from, or None for a fresh start; says which."""
    wanted = config.RESUME_CHECKPOINT_PATH
    if wanted not in ("", "auto") and config.INIT_CHECKPOINT_PATH:
        raise UserError(
            "RESUME_CHECKPOINT_PATH goes on with a run, and INIT_CHECKPOINT_PATH begins one with a "
            "model; leave one of them out."
        )
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
                f"{wanted} holds a model alone. Go on with its run from the `last` folder beside "
                "it, or begin another with this model: "
                f"--INIT_CHECKPOINT_PATH {shlex.quote(wanted)}"
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
    refuse_changes(folder, saved, config)
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
        f"where they are: --DATA_DIR FOLDER --DATASET {shlex.quote(saved.DATASET)}; or begin a run "
        f"on other data with its model: --INIT_CHECKPOINT_PATH {shlex.quote(str(folder))}"
    )


def refuse_changes(folder: Path, saved: Config, wanted: Config) -> None:
    """Raise `UserError` naming each setting that a run cannot go on with."""
    before, now = (
        {name: mask_urls(one) if isinstance(one, str) else one for name, one in vars(of).items()}
        for of in (saved, wanted)
    )
    begin = f"another run with its model: --INIT_CHECKPOINT_PATH {shlex.quote(str(folder))} "
    without_it = settings_with(ARCHITECTURE) | {"INIT_CHECKPOINT_PATH"}
    changed = [
        f"{name} was {before[name]!r} in the checkpoint and is {now[name]!r} "
        "now; it cannot change within a run. Leave it out, or begin "
        f"{'another run: ' if name in without_it else begin}--RUN_NAME NAME"
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
        raise UserError(f"{checkpoint.folder} holds a model alone; name a `last` folder.")
    first = checkpoint.config.NUM_EPOCHS
    if first != config.NUM_EPOCHS and (state.epoch, state.step_in_epoch) > (first, 0):
        raise UserError(
            f"NUM_EPOCHS was {first} in the checkpoint, and self-critical training has begun; it "
            "cannot change any more. Leave it out, or change SCST_EPOCHS."
        )
    if state.data_fingerprint != fingerprint:
        raise UserError(
            f"{config.STREAM or folder} is not the data that {checkpoint.folder} was trained on: "
            "pictures, captions, shards or splits differ. Restore it, or begin another run with "
            f"its model: --INIT_CHECKPOINT_PATH {shlex.quote(str(checkpoint.folder))} "
            "--RUN_NAME NAME"
        )
    return state


def initial_checkpoint(config: Config) -> Checkpoint:
    """The model that INIT_CHECKPOINT_PATH names, a folder or a repository of the Hub."""
    name, revision = split_revision(config.INIT_CHECKPOINT_PATH)
    return read_checkpoint(resolve_checkpoint(name, revision=revision), full_name(name, revision))


def initial_config(typed: Config, argv: Sequence[str] | None = None) -> Config:
    """The settings of a run that begins with a model: what the command line leaves open of
    vocabulary, architecture and encoder is as the model has it. Raises `UserError`."""
    checkpoint = initial_checkpoint(typed)
    config = parse_config(argv, base=replace(Config(), **model_settings(checkpoint)))
    refuse_other_model(checkpoint, config)
    return config


def with_model(config: Config, given: Iterable[str]) -> Config:
    """The settings of a run that begins with a model, where those `given` by name were set and the
    model decides the others that are its. Raises `UserError` for what contradicts it."""
    checkpoint = initial_checkpoint(config)
    names = {name.upper().replace("-", "_") for name in given}
    found = {name: one for name, one in model_settings(checkpoint).items() if name not in names}
    config = replace(config, **found)
    refuse_other_model(checkpoint, config)
    return config


def model_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings that a run which begins with a model has from there."""
    names = settings_with(ARCHITECTURE, OF_ENCODER) | {"MAX_SEQ_LEN"}
    return {name: getattr(checkpoint.config, name) for name in names}


def refuse_other_model(checkpoint: Checkpoint, config: Config) -> None:
    """Raise `UserError` naming each setting that contradicts the weights that a run begins with."""
    wrong = [
        f"{name} is {wanted!r}, and {config.INIT_CHECKPOINT_PATH}, with which the run is to begin, "
        f"has {found!r}; leave it out, or leave out INIT_CHECKPOINT_PATH to begin with nothing."
        for name in sorted(settings_with(ARCHITECTURE))
        if (wanted := getattr(config, name)) != (found := getattr(checkpoint.config, name))
    ]
    if wrong:
        raise UserError(*wrong)


def initial_pipeline(checkpoint: Checkpoint, config: Config, runtime: Runtime) -> CaptionPipeline:
    """The model of a checkpoint, ready to be trained as `config` says.

    Behind another encoder than its own its projection is new, which is said.
    """
    refuse_other_model(checkpoint, config)
    changed = {
        name: getattr(config, name)
        for name in settings_with(OF_ENCODER)
        if getattr(config, name) != getattr(checkpoint.config, name)
    }
    if changed:
        encoder = VisionEncoder.from_settings(config)
    else:
        encoder = load_encoder(checkpoint, training=config)
    # The same encoder may have another name, such as that of a folder.
    is_other = bool(changed) and encoder.fingerprint() != checkpoint.encoder_fingerprint
    if is_other and is_main_process():
        shown = ", ".join(f"{name} {value}" for name, value in sorted(changed.items()))
        lost = ", and what it had learnt of pictures stays behind" if checkpoint.has_encoder else ""
        print(
            f"{shown}: another encoder than that of {config.INIT_CHECKPOINT_PATH}. The projection "
            f"behind it begins anew{lost}."
        )
    encoder.prepare_training(config)
    torch.manual_seed(config.RANDOM_SEED)
    return load_model(checkpoint, encoder, runtime, config, has_new_projection=is_other)


def parent_of(checkpoint: Checkpoint, config: Config) -> dict[str, str]:
    """What is written down of the model that a run began with, for others to see too: of the Hub,
    where it can be had again."""
    name, _ = split_revision(config.INIT_CHECKPOINT_PATH)
    repository, commit = repository_of(name), checkpoint.folder.name
    shown = f"{HUB}{repository}/tree/{commit}" if repository else without_places(mask_urls(name))
    captioner = checkpoint.vit_gpt2
    return {"name": shown, "sha256": captioner.sha256() if captioner else checkpoint.sha256}

"""Train a captioner: prepare what is missing, train, validate, keep `best` and `last`.

    python train.py                                             Flickr30k with CLIP features
    python train.py --config presets/demo.toml                  drawn scenes, minutes on two cores
    python train.py --DATASET mine --IMAGE_DIR pictures --CAPTIONS_FILE captions.csv
    python train.py --RESUME_CHECKPOINT_PATH auto               go on where the last run stopped
    python train.py --INIT_CHECKPOINT_PATH checkpoints/old/best ...   begin with a trained model

Reads a prepared data set (made if it is not there); writes OUTPUT_DIR/RUN_NAME/{best,last}, and
beside them `metrics.jsonl`, `curves.png` and `provenance.json`.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.sharing.repository import check_token
from captioning.sharing.uploader import BestUploader
from captioning.sources.records import Record, read_records
from captioning.streaming.held_out import held_out_hashes, vocabulary_captions
from captioning.streaming.shards import StreamSource, find_sources
from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.processes import ending_together, worker_count
from captioning.system.rules import TYPED
from captioning.tracking.energy import EnergyMeter
from captioning.tracking.events import RunFacts
from captioning.tracking.provenance import data_fingerprint, provenance, write_provenance
from captioning.tracking.run_log import RunLog
from captioning.training.train_state import TrainState
from config import Config, parse_config, settings_with
from prepare_dataset import prepare_dataset

if TYPE_CHECKING:
    from captioning.system.runtime import Runtime
    from checkpoint import Checkpoint
    from dataset import Split
    from optimization import Objective, Optimization
    from pipeline import CaptionPipeline
    from trainer import Phase, Trainer, TrainingSteps

Records = Mapping[str, Sequence[Record]]
"""The pictures and captions of each split."""
COUNTED_PICTURES = 1_000
"""Pictures by whose captions one tells how well a vocabulary fits."""
UPLOAD_SECONDS = 600.0
"""How long a finished run waits for the last upload; a stopped one does not."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, then train."""
    config = parse_config(argv, description="Train a captioner on a pretrained vision encoder.")
    from beginning import find_resumed, initial_config, resumed_config

    resumed = find_resumed(config)
    if resumed is not None:
        config = resumed_config(resumed, config, argv)
    elif config.INIT_CHECKPOINT_PATH:
        config = initial_config(config, argv)
    return train(config, resumed)


def train(config: Config, resumed: Path | None = None) -> int:
    """Train as `config` says, from `resumed` or from the start; returns the exit code."""
    from captioning.system.runtime import Runtime
    from captioning.training.guards import locked, plain_faults

    if config.HF_UPLOAD_BEST_CHECKPOINTS:
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
        trainer = build_trainer(config, runtime, resumed)
        code = 1
        try:
            code = trainer.run()
        finally:
            try:
                trainer.folder.close(wait_seconds=UPLOAD_SECONDS if code == EXIT_DONE else 0.0)
            finally:
                trainer.log.close(finished=code == EXIT_DONE, best_step=trainer.state.best_step)
        return code


def build_trainer(config: Config, runtime: "Runtime", resumed: Path | None = None) -> "Trainer":
    """All parts of a run, made from the settings or from the checkpoint that it goes on from."""
    from beginning import initial_checkpoint, parent_of, starting_state
    from captioning.training.sharding import shard
    from checkpoint import read_checkpoint
    from trainer import RunFolder, Trainer

    checkpoint = read_checkpoint(resumed) if resumed else None
    begun_with = None
    if config.INIT_CHECKPOINT_PATH and checkpoint is None:
        begun_with = initial_checkpoint(config)
    stream = find_sources(config.STREAM) if config.STREAM else []
    state = starting_state(config, stream, checkpoint)
    records = read_splits(config)
    pipeline = build_pipeline(config, runtime, records, stream, checkpoint, begun_with)
    steps, validation = open_data(config, pipeline, records, stream, state)
    if config.SHARDING == "on":
        shard(pipeline.encoder, runtime)
    phase_of = partial(build_phase, config, pipeline, steps, records, stream)
    phase = phase_of(state, checkpoint)
    parent = checkpoint.parent if checkpoint else {}
    record = provenance(
        asdict(config),
        device=runtime.description,
        data=data_fingerprint(config.dataset_dir),
        parent=parent_of(begun_with, config) if begun_with else parent,
    )
    log = RunLog(
        config.run_dir,
        config,
        resumed_step=state.step if checkpoint else None,
        wandb_run_id=state.wandb_run_id,
        provenance=record,
        is_main=runtime.is_main,
    )
    shared = config.HF_UPLOAD_BEST_CHECKPOINTS and runtime.is_main
    folder = RunFolder(
        config,
        pipeline,
        metrics=checkpoint.metrics if checkpoint else {},
        provenance=record,
        energy=EnergyMeter(runtime.gpu_uuids, joules=state.joules),
        uploader=BestUploader(config.HF_REPO_ID, left_out=settings_with(TYPED)) if shared else None,
        say=log.say,
    )
    if checkpoint is not None:
        folder.upload_best()
    if runtime.is_main:
        write_provenance(config.run_dir, record, resumed=checkpoint is not None)
    log.start(facts_of(config, pipeline, records, phase.steps, validation, state))
    return Trainer(
        config,
        pipeline,
        phase,
        next_phase=phase_of,
        validation=validation,
        folder=folder,
        log=log,
        state=state,
    )


def read_splits(config: Config) -> Records:
    """The splits that a run reads. Raises `UserError` where one is missing or empty."""
    mend = f"python prepare_dataset.py --DATASET {shlex.quote(config.DATASET)}"
    names = ("validation",) if config.STREAM else ("train", "validation")
    records = {name: read_records(config.dataset_dir / name, mend=mend) for name in names}
    for name, part in records.items():
        if not part:
            raise UserError(
                f"{config.dataset_dir / name} holds no pictures; training needs a train and a "
                "validation split. Prepare the data again with another HELD_OUT_FRACTION."
            )
    return records


def build_pipeline(
    config: Config,
    runtime: "Runtime",
    records: Records,
    stream: Sequence[StreamSource] = (),
    checkpoint: "Checkpoint | None" = None,
    begun_with: "Checkpoint | None" = None,
) -> "CaptionPipeline":
    """Encoder, model and tokenizer: those of the checkpoint that the run goes on from or is
    `begun_with`, or new ones of the settings."""
    from beginning import initial_pipeline
    from checkpoint import load_pipeline
    from pipeline import CaptionPipeline

    if checkpoint is not None:
        return load_pipeline(checkpoint, runtime, training=config)
    if begun_with is not None:
        return initial_pipeline(begun_with, config, runtime)
    captions = []
    if not config.DECODER_MODEL_NAME:  # which has its own vocabulary
        captions = [text for texts in training_captions(records, stream) for text in texts]
    return CaptionPipeline.from_settings(config, runtime, captions)


def training_captions(records: Records, stream: Sequence[StreamSource]) -> list[Sequence[str]]:
    """The captions of each training picture, or of a sample of the stream; none held out."""
    if stream:
        held_out = [text for record in records["validation"] for text in record.captions]
        found = vocabulary_captions(stream, without=frozenset(held_out))
        return [[text] for text in found]
    return [record.captions for record in records["train"]]


def open_data(
    config: Config,
    pipeline: "CaptionPipeline",
    records: Records,
    stream: Sequence[StreamSource],
    state: TrainState,
) -> tuple["TrainingSteps", "Split"]:
    """The steps of training, and what is validated on. Features that are missing are made first;
    as many rows as fit are held on the device."""
    from captioning.store.rows import FeatureStore
    from captioning.vision.mirroring import mirrored_records
    from dataset import CaptionDataset, PreparedSteps, Split
    from features import open_stores, training_pictures

    encoder, runtime = pipeline.encoder, pipeline.runtime
    stores = open_stores(config, encoder, runtime, records)
    tokenizer, max_length = pipeline.tokenizer, config.MAX_SEQ_LEN
    captions = CaptionDataset(records["validation"], tokenizer, max_length)
    validation = Split(records["validation"], captions, stores["validation"])
    held = [stores["validation"]]
    steps: TrainingSteps
    if stream:
        steps = open_stream(config, pipeline, stream, state)
    else:
        train = records["train"]
        mirrored = mirrored_records(train)[0] if "flip" in config.AUGMENTATION else ()
        pictures = training_pictures(
            config, encoder, runtime, train, stores["train"], epoch=state.epoch
        )
        held = [*pictures.stores, *held]
        steps = PreparedSteps(
            train,
            CaptionDataset(train, tokenizer, max_length, mirrored=mirrored),
            pictures,
            runtime,
            batch_size=config.BATCH_SIZE,
            seed=config.RANDOM_SEED,
            captions_per_step=config.CAPTIONS_PER_STEP,
            num_workers=worker_count(config.NUM_WORKERS),
        )
    for store in held:
        if isinstance(store, FeatureStore):
            store.hold_on_device()
    return steps, validation


def open_stream(
    config: Config,
    pipeline: "CaptionPipeline",
    stream: Sequence[StreamSource],
    state: TrainState,
) -> "TrainingSteps":
    """The steps of a stream, from where the run stands."""
    from captioning.streaming.steps import StreamSettings, StreamSteps
    from dataset import step_of
    from features import stream_features

    make_step = partial(
        step_of,
        tokenizer=pipeline.tokenizer,
        max_length=config.MAX_SEQ_LEN,
        runtime=pipeline.runtime,
    )
    return StreamSteps(
        stream,
        pipeline.encoder.preprocessor,
        make_step,
        pipeline.runtime,
        StreamSettings(
            batch_size=config.BATCH_SIZE,
            steps_per_epoch=config.STREAM_STEPS_PER_EPOCH,
            seed=config.RANDOM_SEED,
            captions_per_step=config.CAPTIONS_PER_STEP,
            max_bad_fraction=config.MAX_BAD_FRACTION,
            num_workers=worker_count(config.NUM_WORKERS),
            augmentation=frozenset(config.AUGMENTATION.split(",")) - {"none"},
        ),
        held_out=held_out_hashes(config.dataset_dir),
        features=stream_features(config, pipeline.encoder, pipeline.runtime),
        position=state.data_position,
    )


def build_phase(
    config: Config,
    pipeline: "CaptionPipeline",
    steps: "TrainingSteps",
    records: Records,
    stream: Sequence[StreamSource],
    state: TrainState,
    checkpoint: "Checkpoint | None" = None,
) -> "Phase":
    """The objective of the running epoch and all that works towards it, new or as the checkpoint
    has it. Self-critical training begins with the weights that were validated last."""
    from captioning.training.reward import CiderReward
    from optimization import CrossEntropy, SelfCritical
    from trainer import Phase

    first, end = config.NUM_EPOCHS, config.all_epochs
    if state.epoch < first or not config.SCST_EPOCHS:
        optimization = build_optimization(
            config,
            pipeline,
            CrossEntropy(config.LABEL_SMOOTHING),
            steps.length(0) * first,
            encoder_start=config.ENCODER_START_EPOCH / first,
            checkpoint=checkpoint,
        )
        return Phase(0, first, steps, optimization)
    sampled = steps.sampling(config.SCST_SAMPLES)
    objective = SelfCritical(
        CiderReward(training_captions(records, stream)),
        pipeline.tokenizer,
        pipeline.rules(),
        config.SCST_SAMPLES,
        cross_entropy=config.SCST_CROSS_ENTROPY,
        search=config.SCST_SEARCH,
    )
    slower = config.SCST_LEARNING_RATE / config.LEARNING_RATE
    optimization = build_optimization(
        replace(
            config,
            LEARNING_RATE=config.SCST_LEARNING_RATE,
            ENCODER_LEARNING_RATE=config.ENCODER_LEARNING_RATE * slower,
        ),
        pipeline,
        objective,
        sampled.length(first) * config.SCST_EPOCHS,
        checkpoint=checkpoint,
        is_new=state.epoch == first and not state.step_in_epoch,
    )
    return Phase(first, end, sampled, optimization)


def build_optimization(
    config: Config,
    pipeline: "CaptionPipeline",
    objective: "Objective",
    total_steps: int,
    *,
    encoder_start: float = 0.0,
    checkpoint: "Checkpoint | None" = None,
    is_new: bool = False,
) -> "Optimization":
    """Optimizer, gradients, schedules and average, new or as the checkpoint has them.

    The encoder joins in after the share `encoder_start` of the steps. Of a checkpoint that ends
    the phase before (`is_new`) nothing is taken over but the average, which becomes the weights.
    """
    from captioning.system.tensors import fill_tensors
    from captioning.training.weight_average import WeightAverage
    from checkpoint import AVERAGE, load_optimizer
    from optimization import Gradients, Optimization, Schedule, build_optimizer

    model, encoder = pipeline.model, pipeline.encoder
    optimizer = build_optimizer(
        model,
        encoder,
        learning_rate=config.LEARNING_RATE,
        encoder_learning_rate=config.ENCODER_LEARNING_RATE,
        encoder_layer_decay=config.ENCODER_LAYER_DECAY,
        weight_decay=config.WEIGHT_DECAY,
        betas=(config.ADAM_BETA1, config.ADAM_BETA2),
        eps=config.ADAM_EPS,
    )
    average = None
    if config.EMA_DECAY:
        average = WeightAverage({"model": model, "encoder": encoder}, config.EMA_DECAY)
    if checkpoint is not None:
        if not is_new:
            load_optimizer(optimizer, pipeline, checkpoint.folder)
        if average is not None:
            fill_tensors(average.tensors, checkpoint.folder / AVERAGE)
            if is_new:
                average.adopt()
    runtime = pipeline.runtime
    is_recorded = (
        config.CUDA_GRAPHS == "auto" and runtime.device.type == "cuda" and runtime.is_alone
    )
    return Optimization(
        optimizer,
        Gradients(model, encoder, runtime, objective, records=is_recorded),
        Schedule(total_steps, config.WARMUP_STEPS),
        Schedule(
            total_steps,
            config.WARMUP_STEPS,
            start_step=round(total_steps * encoder_start),
        ),
        average,
    )


def facts_of(
    config: Config,
    pipeline: "CaptionPipeline",
    records: Records,
    steps: "TrainingSteps",
    validation: "Split",
    state: TrainState,
) -> RunFacts:
    """What the screen and Weights & Biases are told of a run when it begins."""
    from captioning.metrics.tokenizers import choose_tokenizer
    from dataset import PreparedSteps

    tokens = choose_tokenizer("auto", (one.captions for one in validation.records))
    train, length = records.get("train"), steps.length(state.epoch)
    passing = config.BATCH_SIZE * length
    cut = steps.captions if isinstance(steps, PreparedSteps) else validation.captions
    return RunFacts(
        device=pipeline.runtime.description,
        trained_parameters=pipeline.parameters(trained=True),
        frozen_parameters=pipeline.parameters(trained=False),
        train_pictures=len(train) if train else 0,
        train_captions=sum(len(one.captions) for one in train) if train else passing,
        validation_pictures=len(validation.records),
        scored_tokens="" if tokens.name == "ptb" else tokens.description,
        vocabulary=len(pipeline.tokenizer),
        tokens_per_word=tokens_per_word(pipeline, train or validation.records)
        if config.INIT_CHECKPOINT_PATH
        else 0.0,
        cut_captions=cut.num_cut,
        longest_caption=cut.longest,
        steps_per_epoch=length,
        epochs=config.all_epochs,
        self_critical_epochs=config.SCST_EPOCHS,
        epoch=state.epoch,
        step_in_epoch=state.step_in_epoch,
    )


def tokens_per_word(pipeline: "CaptionPipeline", records: Sequence[Record]) -> float:
    """Into how many tokens a word falls, by the captions of some pictures."""
    captions = [text for one in records[:COUNTED_PICTURES] for text in one.captions]
    ids = sum(map(len, pipeline.tokenizer.encode_all(captions))) - 2 * len(captions)
    return ids / max(sum(len(text.split()) for text in captions), 1)


if __name__ == "__main__":
    run_command(main)

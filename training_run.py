"""One training run, put together: data, vocabulary, encoder, model, log, trainer.

Everything is built from the settings, or from the checkpoint that the run goes on from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from captioning.sharing.model_card import Example, Training, model_card
from captioning.sharing.uploader import BestUploader
from captioning.sources.prepared import read_marker
from captioning.sources.records import read_records
from captioning.store.rows import FeatureStore
from captioning.store.views import TrainingPictures
from captioning.streaming.held_out import held_out_hashes, vocabulary_captions
from captioning.streaming.shards import find_sources
from captioning.system.errors import EXIT_DONE, UserError
from captioning.system.runtime import Runtime
from captioning.tracking.energy import EnergyMeter
from captioning.tracking.events import RunFacts, Sample
from captioning.tracking.provenance import data_fingerprint, finish, provenance, write_provenance
from captioning.tracking.run_log import RunLog
from captioning.training.sharding import shard
from captioning.training.train_state import TrainState
from captioning.training.weight_average import WeightAverage
from captioning.vision.mirroring import mirrored_records
from checkpoint import load_average, load_optimizer, load_pipeline, read_checkpoint
from config import Config
from dataset import CaptionDataset
from encoder import VisionEncoder
from features import open_stores, stream_features, training_pictures, worker_count
from gradients import caption_loss
from model import CaptionModel
from optimization import build_optimizer
from pipeline import CaptionPipeline
from stream_steps import StreamSettings, StreamSteps, stream_fingerprint
from tokenizer import CaptionTokenizer, train_tokenizer
from trainer import Description, Split, Trainer
from training_steps import PreparedSteps, TrainingSteps

CARD_EXAMPLES = 4
UPLOAD_SECONDS = 600.0
"""How long a finished run waits for the last upload; a stopped one does not."""


class TrainingRun:
    """Builds a run's parts, trains, and ends it in order."""

    def __init__(self, config: Config, runtime: Runtime, resumed: Path | None = None) -> None:
        """Build everything; `resumed` is the checkpoint folder to go on from."""
        self.config, self.runtime = config, runtime
        self.checkpoint = read_checkpoint(resumed) if resumed else None
        self.stream = find_sources(config.STREAM) if config.STREAM else []
        self.state = self._starting_state()
        mend = f"python prepare_dataset.py --DATASET {config.DATASET}"
        self.records = {
            split: read_records(config.dataset_dir / split, mend=mend)
            for split in (("validation",) if config.STREAM else ("train", "validation"))
        }
        self._refuse_empty_splits()
        self.pipeline = self._pipeline()
        self.splits = self._splits()
        self.steps = self._steps()
        if config.SHARDING == "on":
            shard(self.pipeline.encoder, runtime)
        self.optimizer = self._optimizer()
        self.average = self._average()
        self.energy = EnergyMeter(self._gpus(), joules=self.state.joules)
        self.provenance = provenance(
            asdict(config),
            device=runtime.description,
            data=data_fingerprint(config.dataset_dir),
        )

    def train(self) -> int:
        """Train to the end, or to a signal; returns the exit code."""
        config, is_main = self.config, self.runtime.is_main
        log = RunLog(
            config.run_dir,
            config,
            resumed_step=self.state.step if self.checkpoint else None,
            wandb_run_id=self.state.wandb_run_id,
            provenance=self.provenance,
            is_main=is_main,
            best_as_artifact=config.WANDB_LOG_BEST,
        )
        uploader = self._uploader()
        if is_main:
            write_provenance(config.run_dir, self.provenance, resumed=self.checkpoint is not None)
        trainer = self._trainer(log, uploader)
        log.start(self._facts(trainer))
        code = 1
        try:
            code = trainer.run()
        finally:
            if uploader is not None:
                uploader.finish(timeout_seconds=UPLOAD_SECONDS if code == EXIT_DONE else 0.0)
            log.close(finished=code == EXIT_DONE)
            if is_main:
                write_provenance(config.run_dir, finish(self.provenance), resumed=True)
        return code

    def _starting_state(self) -> TrainState:
        folder = self.config.dataset_dir
        marker = read_marker(folder)  # a folder that was found prepared has none
        fingerprint = marker[0].fingerprint if marker else data_fingerprint(folder)["sha256"]
        if self.stream:
            fingerprint += stream_fingerprint(self.stream)
        if self.checkpoint is None:
            return TrainState(data_fingerprint=fingerprint)
        state = self.checkpoint.state
        if state is None:
            raise UserError(f"{self.checkpoint.folder} cannot be trained on; name a `last` folder.")
        if state.data_fingerprint != fingerprint:
            raise UserError(
                f"{self.config.STREAM or self.config.dataset_dir} is not the data that "
                f"{self.checkpoint.folder} was trained on: pictures, captions, shards or splits "
                "differ. Restore it, or begin another run: --RUN_NAME NAME"
            )
        return state

    def _refuse_empty_splits(self) -> None:
        for split, records in self.records.items():
            if not records:
                raise UserError(
                    f"{self.config.dataset_dir / split} holds no pictures; training needs a train "
                    "and a validation split. Prepare the data again with other "
                    "VALIDATION_FRACTION and TEST_FRACTION."
                )

    def _pipeline(self) -> CaptionPipeline:
        config, runtime = self.config, self.runtime
        if self.checkpoint is not None:
            return load_pipeline(self.checkpoint, runtime, training=config)
        tokenizer = train_tokenizer(
            self._vocabulary_captions(), config.VOCAB_SIZE, lowercase=config.LOWERCASE_CAPTIONS
        )
        encoder = VisionEncoder.from_settings(config)
        encoder.prepare_training(config)
        torch.manual_seed(config.RANDOM_SEED)
        model = CaptionModel.from_config(
            config,
            patches=encoder.num_tokens,
            feature_dim=encoder.feature_dim,
            vocab_size=len(tokenizer),
        )
        return CaptionPipeline(
            encoder.to(runtime.device),
            model.to(runtime.device),
            tokenizer,
            runtime,
            config.MAX_SEQ_LEN,
        )

    def _vocabulary_captions(self) -> list[str]:
        held_out = [text for one in self.records["validation"] for text in one.captions]
        if self.stream:
            return vocabulary_captions(self.stream, without=frozenset(held_out))
        return [text for record in self.records["train"] for text in record.captions]

    def _splits(self) -> dict[str, Split]:
        self.stores = open_stores(self.config, self.pipeline.encoder, self.runtime, self.records)
        splits = {}
        for name, records in self.records.items():
            captions = CaptionDataset(
                records,
                self._tokenizer,
                self.config.MAX_SEQ_LEN,
                mirrored=mirrored_records(records)[0] if self._mirrors(name) else (),
            )
            splits[name] = Split(records, captions, self.stores[name])
        return splits

    def _mirrors(self, split: str) -> bool:
        return split == "train" and "flip" in self.config.AUGMENTATION

    def _steps(self) -> TrainingSteps:
        if self.stream:
            return self._stream_steps()
        train, config = self.splits["train"], self.config
        return PreparedSteps(
            train.records,
            train.captions,
            self._training_pictures(),
            self.runtime,
            batch_size=config.BATCH_SIZE,
            seed=config.RANDOM_SEED,
            captions_per_step=config.CAPTIONS_PER_STEP,
            num_workers=worker_count(config.NUM_WORKERS),
        )

    def _training_pictures(self) -> TrainingPictures:
        """What epochs read; as much of it as fits is held on the device."""
        pictures = training_pictures(
            self.config,
            self.pipeline.encoder,
            self.runtime,
            self.records["train"],
            self.stores["train"],
            epoch=self.state.epoch,
        )
        for store in (*pictures.stores, self.stores["validation"]):
            if isinstance(store, FeatureStore):
                store.hold_on_device()
        return pictures

    def _stream_steps(self) -> StreamSteps:
        config, held_out = self.config, self.stores["validation"]
        if isinstance(held_out, FeatureStore):
            held_out.hold_on_device()
        return StreamSteps(
            self.stream,
            self.pipeline.encoder.preprocessor,
            self._tokenizer,
            self.runtime,
            StreamSettings(
                batch_size=config.BATCH_SIZE,
                steps_per_epoch=config.STREAM_STEPS_PER_EPOCH,
                seed=config.RANDOM_SEED,
                captions_per_step=config.CAPTIONS_PER_STEP,
                max_length=config.MAX_SEQ_LEN,
                max_bad_fraction=config.MAX_BAD_FRACTION,
                num_workers=worker_count(config.NUM_WORKERS),
                augmentation=frozenset(config.AUGMENTATION.split(",")) - {"none"},
            ),
            held_out=held_out_hashes(config.dataset_dir),
            features=stream_features(config, self.pipeline.encoder, self.runtime),
            position=self.state.data_position,
        )

    @property
    def _tokenizer(self) -> CaptionTokenizer:
        return self.pipeline.tokenizer

    def _optimizer(self) -> torch.optim.AdamW:
        config = self.config
        optimizer = build_optimizer(
            self.pipeline.model,
            self.pipeline.encoder,
            learning_rate=config.LEARNING_RATE,
            encoder_learning_rate=config.ENCODER_LEARNING_RATE,
            encoder_layer_decay=config.ENCODER_LAYER_DECAY,
            weight_decay=config.WEIGHT_DECAY,
            betas=(config.ADAM_BETA1, config.ADAM_BETA2),
            eps=config.ADAM_EPS,
        )
        if self.checkpoint is not None:
            load_optimizer(optimizer, self.pipeline, self.checkpoint.folder)
        return optimizer

    def _average(self) -> WeightAverage | None:
        if not self.config.EMA_DECAY:
            return None
        modules = {"model": self.pipeline.model, "encoder": self.pipeline.encoder}
        average = WeightAverage(modules, self.config.EMA_DECAY)
        if self.checkpoint is not None:
            load_average(average, self.checkpoint.folder)
        return average

    def _uploader(self) -> BestUploader | None:
        config = self.config
        if not (config.HF_UPLOAD_BEST_CHECKPOINTS and self.runtime.is_main):
            return None
        return BestUploader(config.HF_REPO_ID, private=config.HF_PRIVATE)

    def _trainer(self, log: RunLog, uploader: BestUploader | None) -> Trainer:
        def on_best(folder: Path, metrics: Mapping[str, Any]) -> None:
            if uploader is not None:
                uploader.submit(folder, metrics)

        loss_function = caption_loss
        use_compile = self.config.COMPILE == "on" or (
            self.config.COMPILE == "auto" and self.runtime.device.type == "cuda"
        )
        if use_compile:
            loss_function = torch.compile(caption_loss, dynamic=True)
        return Trainer(
            self.config,
            self.pipeline,
            self.optimizer,
            self.steps,
            self.splits["validation"],
            log,
            self.state,
            metrics=self.checkpoint.metrics if self.checkpoint else {},
            describe=self._describe,
            on_best=on_best,
            joules=self.energy.joules,
            average=self.average,
            loss_function=loss_function,
        )

    def _describe(
        self, metrics: Mapping[str, Any], state: TrainState, samples: Sequence[Sample]
    ) -> Description:
        training = Training(
            provenance=self.provenance,
            step=state.step,
            seconds=state.trained_seconds,
            joules=self.energy.joules(),
            energy_sources=self.energy.sources,
            trained_parameters=self._parameters(trained=True),
        )
        # Pictures that were drawn here are ours to publish; others may not be.
        shown = samples[:CARD_EXAMPLES] if self.config.DATASET == "demo" else ()
        examples = {f"example-{number}.png": one for number, one in enumerate(shown, start=1)}
        card = model_card(
            self.config,
            metrics,
            training=training,
            examples=[Example(name, one.caption) for name, one in examples.items()],
        )
        return Description(card, {name: one.image for name, one in examples.items()})

    def _gpus(self) -> list[str]:
        if self.runtime.device.type != "cuda":
            return []
        return [str(torch.cuda.get_device_properties(self.runtime.device).uuid)]

    def _facts(self, trainer: Trainer) -> RunFacts:
        train, validation = self.splits.get("train"), self.splits["validation"]
        steps_per_epoch = trainer.schedule.total_steps // self.config.NUM_EPOCHS
        passing = self.config.BATCH_SIZE * steps_per_epoch
        return RunFacts(
            device=self.runtime.description,
            trained_parameters=self._parameters(trained=True),
            frozen_parameters=self._parameters(trained=False),
            train_pictures=len(train.records) if train else 0,
            train_captions=train.captions.num_captions if train else passing,
            validation_pictures=len(validation.records),
            vocabulary=len(self._tokenizer),
            steps_per_epoch=steps_per_epoch,
            epochs=self.config.NUM_EPOCHS,
        )

    def _parameters(self, *, trained: bool) -> int:
        modules = (self.pipeline.model, self.pipeline.encoder)
        return sum(
            parameter.numel()
            for module in modules
            for parameter in module.parameters()
            if parameter.requires_grad is trained
        )

"""The training loop: epochs, steps, validations, saves, signals.

Everything that a step depends on is a function of (seed, epoch, step) or is in the checkpoint, so a
run that goes on from a checkpoint makes, bit for bit, the steps that it would have made.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from captioner import Captioner
from captioning.decoding import SearchOptions
from captioning.reports.strips import write_strip
from captioning.sharing.model_card import Example, Training, model_card
from captioning.sharing.uploader import BestUploader
from captioning.sources.records import CaptionedPicture
from captioning.streaming.steps import StreamSteps
from captioning.system.errors import EXIT_DONE, EXIT_SIGNAL, UserError
from captioning.system.folders import UNFINISHED_SUFFIX, remove
from captioning.system.stopping import Stopped, StopRequest
from captioning.tracking.energy import EnergyMeter
from captioning.tracking.provenance import finish, write_provenance
from captioning.tracking.run_log import RunLog
from captioning.training.sharding import unsharded
from captioning.training.train_state import TrainState
from checkpoint import save_checkpoint
from config import Config
from dataset import PreparedSteps, Split, Step
from encoder import encode
from optimization import (
    BatchTooLargeError,
    Optimization,
    StepResult,
    caption_loss,
    train_step,
)
from pipeline import CaptionPipeline
from validation import validate

TrainingSteps = PreparedSteps | StreamSteps[Step]
CARD_EXAMPLES = 4
KEPT_BEST = "best-cross-entropy"
"""The best of cross-entropy, where self-critical training follows."""
NEVER = 2**62
"""The step of what has not happened."""
DIVERGED = (
    "Nothing after the last checkpoint is kept. Go on from it with --RESUME_CHECKPOINT_PATH auto "
    "and a lower --LEARNING_RATE, a smaller --GRAD_CLIP_VALUE (above 0), or --PRECISION fp32."
)
"""What to do when a run has diverged."""


@dataclass(frozen=True)
class Phase:
    """Epochs of one objective: cross-entropy, or self-critical training after it."""

    first_epoch: int
    end_epoch: int
    """The first that is of it no more."""
    steps: TrainingSteps
    optimization: Optimization

    def begins_at(self, state: TrainState) -> bool:
        """Whether a run that stands there has made no step of it yet, and steps before it."""
        return 0 < self.first_epoch == state.epoch and not state.step_in_epoch

    def schedule_step(self, state: TrainState) -> int:
        """The place of the next step in the schedule of the learning rate."""
        if not self.first_epoch:
            return state.step
        passed = (state.epoch - self.first_epoch) * self.steps.length(state.epoch)
        return passed + state.step_in_epoch


class RunFolder:
    """The folder of a run as training fills it: `best` and `last`, each with its model card."""

    def __init__(
        self,
        config: Config,
        pipeline: CaptionPipeline,
        *,
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
        energy: EnergyMeter,
        uploader: BestUploader | None,
        say: Callable[[str], None],
    ) -> None:
        """`metrics` are those of the last validation, `say` tells the user something."""
        self.energy = energy
        self.optimization: Optimization | None = None
        """What `last` needs to go on with."""
        self._config, self._pipeline = config, pipeline
        self._metrics = dict(metrics)
        self._samples: Sequence[CaptionedPicture] = ()
        self._provenance, self._uploader, self._say = provenance, uploader, say

    def note_validation(
        self, metrics: Mapping[str, Any], samples: Sequence[CaptionedPicture]
    ) -> None:
        """What checkpoints say from now on of how good they are."""
        self._metrics, self._samples = dict(metrics), samples

    def save_best(self, state: TrainState) -> bool:
        """Write `best`, and upload it if that is wanted; gives whether the disk took it."""
        folder = self._config.run_dir / "best"
        is_saved = self._save(folder, state)
        if is_saved:
            self.upload_best()
        return is_saved

    def upload_best(self) -> None:
        """Upload `best` if that is wanted: a new one, or one whose upload a kill cut short."""
        folder = self._config.run_dir / "best"
        if self._uploader is not None and folder.exists():
            self._uploader.submit(folder)

    def keep_best(self) -> None:
        """Keep `best` under another name too: what follows is judged by itself."""
        best, kept = self._config.run_dir / "best", self._config.run_dir / KEPT_BEST
        if self._pipeline.runtime.is_main and best.exists() and not kept.exists():
            unfinished = kept.with_name(KEPT_BEST + UNFINISHED_SUFFIX)
            remove(unfinished)
            shutil.copytree(best, unfinished)
            unfinished.rename(kept)

    def save_last(self, state: TrainState, *, is_final: bool = False) -> None:
        """Write `last`, from which training can go on; one that `is_final` must succeed."""
        self._save(self._config.run_dir / "last", state, with_state=True, is_final=is_final)

    def close(self, *, wait_seconds: float) -> None:
        """The run has ended: wait for its last upload, note the time."""
        if self._uploader is not None:
            self._uploader.finish(timeout_seconds=wait_seconds)
        if self._pipeline.runtime.is_main:
            write_provenance(self._config.run_dir, finish(self._provenance), resumed=True)

    def _save(
        self, folder: Path, state: TrainState, *, with_state: bool = False, is_final: bool = False
    ) -> bool:
        # Pictures that were drawn here are ours to publish; others may not be.
        shown = self._samples[:CARD_EXAMPLES] if self._config.DATASET == "demo" else ()
        examples = {f"example-{number}.png": one for number, one in enumerate(shown, start=1)}
        optimization = self.optimization if with_state else None
        is_missing = False
        try:
            save_checkpoint(
                folder,
                self._pipeline,
                self._config,
                metrics=self._metrics | {"step": state.step},
                card=self._card(state, examples),
                examples={name: one.image for name, one in examples.items()},
                optimizer=optimization.optimizer if optimization else None,
                average=optimization.average if optimization else None,
                state=state if with_state else None,
                keep=self._config.KEEP_CHECKPOINTS if with_state else 0,
                data=self._provenance.get("data", {}).get("sha256", ""),
                parent=self._provenance.get("parent"),
            )
        except OSError as error:
            if is_final:
                raise UserError(
                    f"{folder} could not be saved: {error.strerror or error}. The checkpoint "
                    "before it is still there. Free some space and go on with the same command and "
                    "--RESUME_CHECKPOINT_PATH auto"
                ) from None
            self._say(
                f"WARNING: {folder} could not be saved: {error.strerror or error}. The checkpoint "
                "before it is still there; training goes on and tries again."
            )
            is_missing = True
        return not self._pipeline.runtime.max_over_processes(is_missing)

    def _card(self, state: TrainState, examples: Mapping[str, CaptionedPicture]) -> str:
        training = Training(
            provenance=self._provenance,
            step=state.step,
            seconds=state.trained_seconds,
            joules=self.energy.joules(),
            energy_sources=self.energy.sources,
            trained_parameters=self._pipeline.parameters(trained=True),
        )
        shown = [Example(name, one.caption) for name, one in examples.items()]
        return model_card(self._config, self._metrics, training=training, examples=shown)


class Trainer:
    """One run, from the state that it is given to its last epoch."""

    def __init__(
        self,
        config: Config,
        pipeline: CaptionPipeline,
        phase: Phase,
        *,
        next_phase: Callable[[TrainState], Phase],
        validation: Split,
        folder: RunFolder,
        log: RunLog,
        state: TrainState,
    ) -> None:
        """Go on from `state` with the steps of its epoch that are left.

        `phase` is that of its epoch; when its epochs are over, `next_phase` gives the one after it.
        """
        self.config, self.pipeline, self._next_phase = config, pipeline, next_phase
        self.validation, self.folder = validation, folder
        self.log, self.state = log, state
        device = pipeline.runtime.device
        self._loss_sum = torch.tensor(pipeline.runtime.own_share(state.loss_sums), device=device)
        self._bad_step = torch.tensor(NEVER, device=device)
        self._stop = StopRequest(is_quiet=not pipeline.runtime.is_alone)
        self._stopped_by = 0
        self._saved_at = self._logged_at = time.monotonic()
        self._waited_seconds = 0.0
        self._captions_since_log = 0
        self._newest: Step | None = None
        """The step whose update has not been looked at yet."""
        self._enter(phase)

    def run(self) -> int:
        """Train to the last epoch, or to a signal; returns the exit code."""
        self.pipeline.model.train()
        self.pipeline.encoder.train()
        with self._stop.listening():
            while self.state.epoch < self.config.all_epochs and not self._must_stop():
                if self.state.epoch == self.phase.end_epoch:
                    if (average := self.phase.optimization.average) is not None:
                        average.adopt()
                    self._enter(self._next_phase(self.state))
                try:
                    self._run_epoch()
                except BatchTooLargeError as error:
                    self._compute_less_at_a_time(error.num_captions)
        if not self._stopped_by:
            return EXIT_DONE
        self.save_last(is_final=True)
        self.log.say(
            f"Stopped by {signal.Signals(self._stopped_by).name} after step {self.state.step:,}; "
            "all of it is saved. Go on with the same command and --RESUME_CHECKPOINT_PATH auto"
        )
        return EXIT_SIGNAL + self._stopped_by

    def _enter(self, phase: Phase) -> None:
        """Turn to a phase; what is `best` counts anew in it."""
        self.phase, self.folder.optimization = phase, phase.optimization
        if phase.begins_at(self.state):
            self.folder.keep_best()
            self.state = replace(self.state, best_score=None, best_loss=None, best_step=0)
            self.log.say(
                f"Self-critical training begins; the best model so far stays in {KEPT_BEST}."
            )

    def _run_epoch(self) -> None:
        optimization, length = self.phase.optimization, self.phase.steps.length(self.state.epoch)
        self.pipeline.encoder.unfreeze(self.state.epoch >= self.config.ENCODER_START_EPOCH)
        for step in self._remaining():
            self._learning_rate = optimization.set_rates(self.phase.schedule_step(self.state))
            self.pipeline.runtime.seed_step(self.config.RANDOM_SEED, self.state.step)
            self._newest = step
            result = train_step(
                optimization.gradients,
                optimization.optimizer,
                step,
                clip_norm=self.config.GRAD_CLIP_VALUE,
            )
            if optimization.average is not None:
                optimization.average.update(self.state.step + 1)
            self._count(result)
            is_last = self.state.step_in_epoch == length
            if self.state.step % self.config.LOG_INTERVAL == 0:
                self._log_step()
            if self._must_stop():
                return
            if not is_last and self._save_is_due():
                self.save_last()
        self._finish_epoch()

    def _must_stop(self) -> bool:
        """Whether one of the processes was asked to stop; the same in all of them."""
        self._stopped_by = self.pipeline.runtime.max_over_processes(self._stop.number)
        return bool(self._stopped_by)

    def _compute_less_at_a_time(self, captions: int) -> None:
        """Halve the micro-batch, of which `captions` did not fit into memory."""
        half = captions // 2
        if half == 0 or half == self.state.micro_batch_size:  # the captions of a single picture
            raise torch.OutOfMemoryError
        self.state = replace(self.state, micro_batch_size=half)
        self.log.say(
            f"Out of memory: going on with MICRO_BATCH_SIZE {half}; the batch stays the same."
        )

    def _remaining(self) -> Iterator[Step]:
        """The steps that this epoch still has; notes how long each is waited for."""
        waiting = self.phase.steps.iterate(
            self.state.epoch,
            self.state.step_in_epoch,
            micro_batch_size=self.state.micro_batch_size or self.config.MICRO_BATCH_SIZE,
        )
        while True:
            began = time.monotonic()
            step = next(waiting, None)
            self._waited_seconds += time.monotonic() - began
            if step is None:
                return
            yield step

    def _count(self, result: StepResult) -> None:
        """Note a step without waiting for the device."""
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            step_in_epoch=self.state.step_in_epoch + 1,
            loss_tokens=self.state.loss_tokens + result.count,
        )
        self._loss_sum += result.loss_sum
        is_bad = ~torch.isfinite(result.loss_sum) & (self._bad_step == NEVER)
        self._bad_step.masked_fill_(is_bad, self.state.step)
        self._gradient_norm = result.gradient_norm
        self._captions_since_log += result.num_captions
        self.log.advance(result.num_captions)

    def _log_step(self) -> None:
        """Read the loss back, once in LOG_INTERVAL steps, and write a line."""
        self._check_loss()
        objective = self.phase.optimization.gradients.objective
        loss_sum = self.pipeline.runtime.sum_over_processes(self._loss_sum.clone())
        seconds = max(time.monotonic() - self._logged_at, 1e-9)
        values = {
            objective.logged_as: loss_sum.item() / max(self.state.loss_tokens, 1),
            "learning_rate": self._learning_rate,
            "gradient_norm": self._gradient_norm.item(),
            "pairs_per_second": self._captions_since_log / seconds,
            "waiting_share": self._waited_seconds / seconds,
            "memory_bytes": float(self.pipeline.runtime.memory_bytes()),
        }
        self.log.step(self.state.step, self.state.epoch + 1, values)
        self._loss_sum.zero_()
        self.state = replace(self.state, loss_tokens=0)
        self._start_clocks()

    def _start_clocks(self) -> None:
        self._logged_at, self._waited_seconds, self._captions_since_log = time.monotonic(), 0.0, 0

    def _check_loss(self) -> None:
        """Stop where the loss of a step was not finite; `last` is from before it."""
        step = -self.pipeline.runtime.max_over_processes(-int(self._bad_step.item()))
        if step == NEVER:
            return
        number = self.state.step_in_epoch - (self.state.step - step) - 1
        names = self.phase.steps.names(self.state.epoch, number)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        place = f"epoch {self.state.epoch + 1}, batch {number + 1}: {shown}"
        raise UserError(f"the loss of step {step} ({place}) is not a finite number. {DIVERGED}")

    def _check_weights(self) -> None:
        """Stop where the newest update broke the model, which no step's loss can show yet."""
        if self._newest is None:
            return
        pipeline, batch = self.pipeline, self._newest.batches[0].to(self.pipeline.runtime.device)
        with pipeline.evaluating(), torch.no_grad(), pipeline.runtime.autocast():
            loss = caption_loss(pipeline.model, encode(batch.content, pipeline.encoder), batch, 0.0)
        if pipeline.runtime.max_over_processes(not torch.isfinite(loss)):
            raise UserError(
                f"the weights are broken since step {self.state.step}: the loss is not a finite "
                f"number any more. {DIVERGED}"
            )
        self._newest = None  # nothing to be looked at until the next update

    def _finish_epoch(self) -> None:
        """Validate if it is time, keep `best` and `last`, and turn to the next epoch."""
        self._check_loss()
        self._check_weights()
        epoch = self.state.epoch + 1
        is_final = epoch in (self.phase.end_epoch, self.config.all_epochs)
        if epoch % self.config.VALIDATION_INTERVAL == 0 or is_final:
            try:
                average = self.phase.optimization.average
                with average.applied() if average is not None else nullcontext():
                    self._validate()
            except Stopped:  # the run that goes on begins with this validation
                return
        self.state = replace(self.state, epoch=epoch, step_in_epoch=0)
        self.save_last(is_final=is_final)
        self._start_clocks()

    def _validate(self) -> None:
        with unsharded(self.pipeline.encoder):
            result = validate(
                self.pipeline,
                self.validation,
                batch_size=self.config.BATCH_SIZE,
                num_images=self.config.VALIDATION_IMAGES,
                options=SearchOptions.of_beams(
                    self.config.BEAM_SIZE, length_penalty=self.config.LENGTH_PENALTY
                ),
                check_stop=self._stop.check,
            )
            strip = self._draw_attention()
        tokens = {"tokenizer": result.tokenizer} if result.tokenizer else {}
        self.folder.note_validation({**result.metrics, **tokens}, result.samples)
        loss = result.metrics["validation_loss"]
        # Where there is no CIDEr all are equal, and the loss decides.
        score = -loss if self.config.BEST_METRIC == "loss" else result.metrics.get("CIDEr", 0.0)
        is_best = self.state.is_improved_by(score, loss)
        self.log.validation(
            self.state.step,
            self.state.epoch + 1,
            {**result.metrics, "seconds": self._trained_seconds()},
            result.samples,
            attention_strip=strip,
            is_best=is_best,
        )
        if is_best and self.folder.save_best(self.state):
            self.state = replace(
                self.state, best_score=score, best_loss=loss, best_step=self.state.step
            )

    def _draw_attention(self) -> Path | None:
        """What each word of the first validation picture's caption looks at, as `attention.png`."""
        if not (self.pipeline.runtime.is_main and self.config.VALIDATION_IMAGES):
            return None
        captioner = Captioner(self.pipeline, self.config)
        path = self.config.run_dir / "attention.png"
        try:
            with self.pipeline.evaluating():
                write_strip(captioner.strip(self.validation.records[0].image), path)
        except OSError:  # a full disk, which the next save tells of
            return None
        return path

    def _save_is_due(self) -> bool:
        steps, minutes = self.config.save_interval
        waited_minutes = (time.monotonic() - self._saved_at) / 60
        is_due = bool(steps and self.state.step % steps == 0) or 0 < minutes <= waited_minutes
        return bool(self.pipeline.runtime.max_over_processes(is_due))

    def save_last(self, *, is_final: bool = False) -> None:
        """Write `last`, from which training can go on; one that `is_final` must succeed."""
        self._check_loss()
        self._check_weights()
        seconds = self._trained_seconds()
        self._saved_at = time.monotonic()
        self.state = replace(
            self.state,
            loss_sums=self.pipeline.runtime.gather([self._loss_sum.item()]),
            trained_seconds=seconds,
            wandb_run_id=self.log.wandb_run_id,
            joules=self.folder.energy.joules() or 0.0,
            data_position=self.phase.steps.position(),
        )
        self.log.sync()
        self.folder.save_last(self.state, is_final=is_final)

    def _trained_seconds(self) -> float:
        """How long the run has trained, validated and saved, over all its sessions."""
        return self.state.trained_seconds + time.monotonic() - self._saved_at

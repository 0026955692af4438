"""The log of a training run: screen, files of the run folder, Weights & Biases.

Always writes, in the run's folder:

    metrics.jsonl   a line every LOG_INTERVAL steps and a line a validation
    samples.jsonl   what each validation said of the sample pictures
    curves.png      the learning curves, redrawn at each validation

    log = RunLog(run_dir, config, resumed_step=None)
    log.start(facts)
    log.step(50, 1, {"loss": 4.1, "learning_rate": 5e-4, "pairs_per_second": 9e3, ...})
    log.validation(118, 1, {"validation_loss": 3.2, "CIDEr": 0.31}, samples, is_best=True)
    log.close(finished=True, best_step=118)
"""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.sources.records import CaptionedPicture
from captioning.system.files import own_file, write_text
from captioning.system.reading import read_regular
from captioning.tracking.console import Console
from captioning.tracking.curves import draw_curves
from captioning.tracking.events import Outcome, RunFacts, Validation, Values
from captioning.tracking.wandb_log import WandbLog, setup_wandb

if TYPE_CHECKING:
    from config import Config

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"
CURVES_NAME = "curves.png"
KEPT_SAMPLES = 8
"""Pictures whose captions are kept from validation to validation."""


class RunLog:
    """Tells a run's events to files, screen and W&B. Only the main process does."""

    def __init__(
        self,
        run_dir: Path,
        config: "Config",
        *,
        resumed_step: int | None = None,
        wandb_run_id: str = "",
        provenance: Mapping[str, Any] | None = None,
        is_main: bool = True,
    ) -> None:
        """Begin the log, or go on after `resumed_step`, with the W&B run that a checkpoint names.

        `provenance` goes to W&B as the run's config. Raises `UserError` where W&B is to be online
        and there is no key.
        """
        self._started = time.monotonic()
        self._step = resumed_step or 0
        self._is_open = is_main
        self.wandb_run_id = ""
        """Belongs in the checkpoint, so that a resumed run goes on there; "" without W&B."""
        if is_main:
            self._files = RunFiles(run_dir, config.run_name, resumed_step=resumed_step)
            self._console = Console(config)
            self._wandb = WandbLog(
                setup_wandb(config, run_id=wandb_run_id or None, provenance=provenance),
                run_dir / SAMPLES_NAME,
            )
            self.wandb_run_id = self._wandb.run_id

    def start(self, facts: RunFacts) -> None:
        """Training begins."""
        if self._is_open:
            self._console.start(facts, self._step)
            self._wandb.start(facts)

    def advance(self, captions: int) -> None:
        """A step has trained on that many captions; costs next to nothing."""
        if self._is_open:
            self._console.advance(captions)

    def say(self, text: str) -> None:
        """Tell the user something, without breaking the progress bar."""
        if self._is_open:
            self._console.say(text)

    def step(self, step: int, epoch: int, values: Values) -> None:
        """Log what was measured since the last call; `epoch` counts from 1."""
        if self._is_open:
            self._files.step(step, epoch, values)
            self._console.step(step, epoch, values)
            self._wandb.step(step, epoch, values)

    def validation(
        self,
        step: int,
        epoch: int,
        values: Values,
        samples: Sequence[CaptionedPicture] = (),
        *,
        attention_strip: Path | None = None,
        is_best: bool = False,
    ) -> None:
        """Log a validation: `validation_loss` and metrics, and all pictures that were captioned.

        The first few pictures are shown. `epoch` counts from 1.
        """
        if not self._is_open:
            return
        event = Validation(
            step=step,
            epoch=epoch,
            values=values,
            samples=tuple(samples[:KEPT_SAMPLES]),
            caption_lengths=tuple(len(sample.caption.split()) for sample in samples),
            attention_strip=attention_strip,
            is_best=is_best,
        )
        self._files.validation(event)
        self._console.validation(event)
        self._wandb.validation(event)

    def sync(self) -> None:
        """Have all lines on disk; call it before a checkpoint that promises to go on from here."""
        if self._is_open:
            self._files.sync()

    def close(self, *, finished: bool, best_step: int = 0) -> None:
        """End the log; says where things are, how good the model of `best_step` is (0 for none),
        and what next."""
        if not self._is_open:
            return
        self._is_open = False
        outcome = Outcome(
            seconds=time.monotonic() - self._started,
            finished=finished,
            best=validation_at(self._files.metrics.read(), best_step),
            notes=(("W&B", self._wandb.place),) if self._wandb.place else (),
            commands=(self._wandb.sync_command,) if self._wandb.sync_command else (),
        )
        self._files.close()
        self._console.close(outcome)
        self._wandb.close(outcome)


class RunFiles:
    """The log's files in the run's folder."""

    def __init__(self, run_dir: Path, title: str, *, resumed_step: int | None = None) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.metrics = JsonLines(run_dir / METRICS_NAME, kept_until=resumed_step)
        self._samples = JsonLines(run_dir / SAMPLES_NAME, kept_until=resumed_step)
        self._curves = run_dir / CURVES_NAME
        self._title = title
        self._drawn = 0  # lines that the curves show
        # A run stopped between a validation and the end of its step repeats that validation.
        self._validated = {
            line["step"] for line in self.metrics.read() if "validation_loss" in line
        }

    def step(self, step: int, epoch: int, values: Values) -> None:
        """Write the line of the steps since the last call."""
        self.metrics.append({"step": step, "epoch": epoch, **values})

    def validation(self, event: Validation) -> None:
        """Write the lines of a validation, unless they are there, and draw the curves."""
        if event.step in self._validated:
            return
        self._validated.add(event.step)
        place = {"step": event.step, "epoch": event.epoch}
        self.metrics.append({**place, **event.values})
        for sample in event.samples:
            said = {"image": str(sample.image), "caption": sample.caption}
            self._samples.append({**place, **said, "references": list(sample.references)})
        self.close()

    def sync(self) -> None:
        """Have all lines on disk."""
        self.metrics.sync()
        self._samples.sync()

    def close(self) -> None:
        """Have all on disk, and the curves drawn."""
        self.sync()
        lines = self.metrics.read()
        if len(lines) != self._drawn:
            draw_curves(lines, self._curves, title=self._title)
            self._drawn = len(lines)


class JsonLines:
    """A file that grows by a JSON object a line, each with its `step`."""

    def __init__(self, path: Path, *, kept_until: int | None = None) -> None:
        """Begin `path` anew, or cut off what lies behind step `kept_until` or is half-written."""
        self._path = path
        kept = []
        if kept_until is not None and path.exists():
            kept = [line for line in self.read() if line["step"] <= kept_until]
        write_text(path, "".join(map(_to_line, kept)))

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; a number that is not finite becomes null."""
        with open(self._path, "a", encoding="utf-8", newline="\n", opener=own_file) as file:
            file.write(_to_line(line))

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        lines = []
        for text in read_regular(self._path).decode("utf-8", "replace").split("\n"):
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the write of this line was cut off
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines

    def sync(self) -> None:
        """Have all lines on disk."""
        with open(self._path, "a", opener=own_file) as file:
            os.fsync(file.fileno())


def validation_at(lines: Iterable[Mapping[str, Any]], step: int) -> dict[str, float]:
    """The validation line of a step; empty where there is none."""
    found = (one for one in lines if one["step"] == step and one.get("validation_loss") is not None)
    return dict(next(found, {}))


def _to_line(line: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False) + "\n"

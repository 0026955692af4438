"""A run on the screen: a header, a bar with the newest numbers, one line an epoch, samples.

On a terminal of 80 columns or more a bar shows the step; elsewhere (log files, narrow screens)
plain lines do. Whatever does not fit a line is left out or folded, nothing wraps by chance.
"""

import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from captioning.sources.records import CaptionedPicture
from captioning.system.privacy import mask_urls
from captioning.system.progress import Progress
from captioning.system.terminal import counted, one_line
from captioning.tracking.events import Outcome, RunFacts, Validation, Values

if TYPE_CHECKING:
    from config import Config

BAR_COLUMNS = 80
"""Narrower terminals get plain lines."""
LOG_FILE_COLUMNS = 120
FEW_STEPS = 100
SHOWN_SAMPLES = 3
PICTURE_NAME_COLUMNS = 22


@dataclass(frozen=True)
class Cell:
    """One figure of an aligned line; of too many, those with the largest `rank` give way."""

    text: str
    rank: int = 0


class Console:
    """Prints a run to `stream`, standard output by default."""

    def __init__(self, config: "Config", stream: TextIO | None = None) -> None:
        self._config = config
        self._stream = stream or sys.stdout
        self._bar: Progress | None = None
        self._facts: RunFacts | None = None
        self._newest: Values = {}
        self._captions_done = 0
        self._epoch_started = time.monotonic()

    def start(self, facts: RunFacts, step: int) -> None:
        """Print the header; training begins after `step` steps."""
        self._facts = facts
        config = self._config
        frozen = (
            f" + {count_text(facts.frozen_parameters)} frozen" if facts.frozen_parameters else ""
        )
        self._print(f"\n{config.run_name}")
        self._print_table(
            (
                ("encoder", _encoder(config)),
                *((("began with", _model(config)),) if config.INIT_CHECKPOINT_PATH else ()),
                ("parameters", f"{count_text(facts.trained_parameters)} trained{frozen}"),
                ("data", f"{_data(config, facts)}, {facts.validation_pictures:,} for validation"),
                *((("tokens", f"scored {facts.scored_tokens}"),) if facts.scored_tokens else ()),
                (
                    "vocabulary",
                    f"{facts.vocabulary:,} entries"
                    + (
                        f" of that model, {facts.tokens_per_word:.2f} to a word of these captions"
                        if facts.tokens_per_word
                        else ""
                    ),
                ),
                *_cut_captions(config, facts),
                (
                    "schedule",
                    f"{counted(facts.epochs, 'epoch')} of {counted(facts.steps_per_epoch, 'step')},"
                    f" {config.BATCH_SIZE:,} captions each"
                    + (
                        f", the last {facts.self_critical_epochs} self-critical"
                        if facts.self_critical_epochs
                        else ""
                    ),
                ),
                *_few_steps(config, facts),
                ("device", facts.device),
                ("folder", str(config.run_dir)),
            )
        )
        if step:
            epoch = min(facts.epoch + 1, facts.epochs)
            self._print(f"\nResumed after step {step:,}, in epoch {epoch}.")
        self._print("")
        self._captions_done = facts.step_in_epoch * config.BATCH_SIZE
        self._epoch_started = time.monotonic()

    def advance(self, captions: int) -> None:
        """Move the bar, if there is one."""
        if self._facts is None or not self._has_bar:
            return
        if self._bar is None:
            self._bar = Progress(
                "",
                self._facts.train_captions,
                done=self._captions_done,
                stream=self._stream,
                bar_format="{desc}{percentage:3.0f}% |{bar}| {remaining}{postfix}",
                keeps_bar=False,
            )
            self._captions_done = 0
        self._bar.advance(captions)

    def step(self, step: int, epoch: int, values: Values) -> None:
        """Show the newest numbers beside the bar, or on a line."""
        self._newest = values
        shown = [
            Cell(f"{_objective(values)} {values[_objective(values)]:6.3f}"),
            Cell(f"lr {values['learning_rate']:.1e}", 1),
            Cell(f"{values['pairs_per_second']:7,.0f} pairs/s", 2),
        ]
        if self._bar is not None:
            newest = "  ".join(cell.text for cell in shown)
            self._bar.describe(f"{self._place(epoch).text}  ", newest)
        else:
            self._print(self._line([self._place(epoch), Cell(f"step {step:7,}", 3), *shown]))

    def validation(self, event: Validation) -> None:
        """Print the epoch's line and a few captions."""
        self._clear_bar()
        cells = [self._place(event.epoch)]
        if self._newest:
            name = _objective(self._newest)
            label = "train" if name == "loss" else name
            cells.append(Cell(f"{label} {self._newest[name]:6.3f}", 3))
        cells += [
            Cell(f"{label} {value:6.3f}", rank)
            for rank, (label, value) in enumerate(_scores(event.values))
        ]
        if "pairs_per_second" in self._newest:
            cells.append(Cell(f"{self._newest['pairs_per_second']:7,.0f} pairs/s", 6))
        seconds = time.monotonic() - self._epoch_started
        cells.append(Cell(duration(seconds), 2))
        cells += [Cell("* best")] if event.is_best else []
        self._print(self._line(cells))
        self._print_samples(event.samples[:SHOWN_SAMPLES])
        self._epoch_started = time.monotonic()

    def say(self, text: str) -> None:
        """Print a text, without breaking the bar."""
        self._clear_bar()
        self._print(text)

    def close(self, outcome: Outcome) -> None:
        """Print where everything is and what to type next."""
        self._clear_bar()
        run_dir = self._config.run_dir
        ending = "Done" if outcome.finished else "Stopped"
        self._print(f"\n{ending} in {duration(outcome.seconds)}.")
        rows = [
            ("last", str(run_dir / "last")),
            ("numbers", f"{run_dir / 'metrics.jsonl'}, {run_dir / 'curves.png'}"),
        ]
        if outcome.best:
            scores = "  ".join(f"{label} {value:.3f}" for label, value in _scores(outcome.best))
            epoch = f"epoch {outcome.best['epoch']:.0f}"
            rows.insert(0, ("best", f"{run_dir / 'best'}  ({epoch}: {scores})"))
        self._print_table([*rows, *outcome.notes])
        self._print("\nGo on with:")
        if not outcome.finished:
            self._print("  the same command and --RESUME_CHECKPOINT_PATH auto")
        if outcome.best:
            best = shlex.quote(str(run_dir / "best"))
            self._print(f"  python generate.py --checkpoint {best} --image PHOTO.jpg")
            self._print(f"  python evaluate.py --checkpoint {best}")
        for command in outcome.commands:
            self._print(f"  {command}")

    @property
    def _columns(self) -> int:
        if not self._stream.isatty():
            return LOG_FILE_COLUMNS
        return shutil.get_terminal_size().columns

    @property
    def _has_bar(self) -> bool:
        return self._stream.isatty() and self._columns >= BAR_COLUMNS

    def _place(self, epoch: int) -> Cell:
        epochs = self._facts.epochs if self._facts else self._config.NUM_EPOCHS
        return Cell(f"epoch {epoch:{len(str(epochs))}}/{epochs}")

    def _line(self, cells: list[Cell]) -> str:
        """The cells side by side, the least important left out until they fit."""
        while len(text := "  ".join(cell.text for cell in cells)) > self._columns:
            least = max(cells, key=lambda cell: cell.rank)
            if least.rank == 0:
                break
            cells = [cell for cell in cells if cell is not least]
        return text.rstrip()

    def _print_table(self, rows: Iterable[tuple[str, str]]) -> None:
        for label, text in rows:
            self._print_folded(f"  {label:<10}  ", text)

    def _print_samples(self, samples: Sequence[CaptionedPicture]) -> None:
        names = [one_line(sample.image.stem)[:PICTURE_NAME_COLUMNS] for sample in samples]
        width = max(map(len, names), default=0)
        for name, sample in zip(names, samples, strict=True):
            self._print_folded(f"    {name:<{width}}  ", sample.caption or "(empty)")

    def _print_folded(self, first: str, text: str) -> None:
        """Print `text` behind `first`, its further lines below its first."""
        lines = textwrap.wrap(
            text,
            self._columns,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,
            break_on_hyphens=False,
        )
        self._print("\n".join(lines))

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _clear_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


_SCORES = (
    ("validation_loss", "val"),
    ("CIDEr", "CIDEr"),
    ("BLEU-4", "BLEU-4"),
    ("ROUGE-L", "ROUGE-L"),
    ("METEOR", "METEOR"),
)
"""What is worth a place on the epoch's line, the most important first."""


def _scores(values: Values) -> list[tuple[str, float]]:
    """Label and value of those that are shown, in their order."""
    return [(label, values[name]) for name, label in _SCORES if values.get(name) is not None]


def _objective(values: Values) -> str:
    """What the values of a step call that which is trained for."""
    return "reward" if "reward" in values else "loss"


def _data(config: "Config", facts: RunFacts) -> str:
    if config.STREAM:
        stream = mask_urls(config.STREAM)
        return f"{stream}, {facts.train_captions:,} captions an epoch; {config.DATASET}"
    return (
        f"{config.DATASET}: {facts.train_pictures:,} pictures with "
        f"{facts.train_captions:,} captions"
    )


def _few_steps(config: "Config", facts: RunFacts) -> list[tuple[str, str]]:
    """A line on a run that is too short to learn much, which a small set in large steps makes."""
    steps = facts.epochs * facts.steps_per_epoch
    if steps >= FEW_STEPS:
        return []
    return [
        (
            "few steps",
            f"{counted(steps, 'step')} in all may teach little; a BATCH_SIZE below "
            f"{config.BATCH_SIZE:,} or more NUM_EPOCHS make more",
        )
    ]


def _cut_captions(config: "Config", facts: RunFacts) -> list[tuple[str, str]]:
    """A line on captions of which the end is never learnt, if there are any."""
    if not facts.cut_captions:
        return []
    whose = "validation captions" if config.STREAM else "captions"
    return [
        (
            "cut",
            f"{facts.cut_captions:,} {whose} are longer than MAX_SEQ_LEN {config.MAX_SEQ_LEN} and "
            f"lose their end; --MAX_SEQ_LEN {facts.longest_caption} holds the longest",
        )
    ]


def _model(config: "Config") -> str:
    return one_line(mask_urls(config.INIT_CHECKPOINT_PATH))


def _encoder(config: "Config") -> str:
    if config.ENCODER_TRAINED_BLOCKS == 0:
        return f"{config.ENCODER_MODEL_NAME}, frozen"
    if config.ENCODER_TRAINED_BLOCKS < 0:
        return f"{config.ENCODER_MODEL_NAME}, trained whole"
    return f"{config.ENCODER_MODEL_NAME}, last {config.ENCODER_TRAINED_BLOCKS} blocks trained"


def count_text(number: int) -> str:
    """12,345,678 -> "12.3 M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """75.2 -> "1:15"; 3,725 -> "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

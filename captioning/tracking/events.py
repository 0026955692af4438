"""What a training run tells: `run_log.RunLog` hands it to files, screen and Weights & Biases."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from captioning.sources.records import CaptionedPicture

Values = Mapping[str, float]
"""Measured numbers by name, e.g. `{"loss": 2.31, "learning_rate": 4.2e-4}`."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is trained, on what, where; known once data and model are there."""

    device: str
    """`Runtime.description`."""
    trained_parameters: int
    frozen_parameters: int
    """Those of a frozen encoder."""
    train_pictures: int
    """0 for a stream, of which nobody knows."""
    train_captions: int
    """Captions of an epoch."""
    validation_pictures: int
    scored_tokens: str
    """By which tokens their captions are scored, in words; "" where they are coco-caption's."""
    vocabulary: int
    """Entries of the tokenizer."""
    tokens_per_word: float = 0.0
    """Of the captions, where the tokenizer was not made of them; else 0."""
    cut_captions: int = 0
    """Training captions (validation captions for a stream) longer than MAX_SEQ_LEN."""
    longest_caption: int = 0
    """Ids of the longest of them."""
    steps_per_epoch: int
    """Of the running epoch."""
    epochs: int
    self_critical_epochs: int = 0
    """The last of the epochs."""
    epoch: int = 0
    """The running one, from 0."""
    step_in_epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The outcome of one validation."""

    step: int
    epoch: int
    values: Values
    """`validation_loss` and whatever caption metrics were computed."""
    samples: tuple[CaptionedPicture, ...] = ()
    """A few pictures, the same each time."""
    caption_lengths: tuple[int, ...] = ()
    """Words of each caption that the model gave."""
    attention_strip: Path | None = None
    """Picture of what each word of one sample looked at."""
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    seconds: float
    finished: bool
    """False where it was stopped before its last epoch."""
    best: Values = field(default_factory=dict)
    """Step, epoch and values of the best validation; empty where there was none."""
    notes: tuple[tuple[str, str], ...] = ()
    """Where further things are, as (label, place)."""
    commands: tuple[str, ...] = ()
    """What else is worth typing next."""

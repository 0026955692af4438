"""Where training stands: what a run that goes on needs besides weights and moments."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from captioning.system.errors import UserError
from captioning.system.files import read_json

STATE = "trainer_state.json"
OLDER_NAME = re.compile(r"step-\d{9,}")


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where training stands; with weights and moments, all that the next step depends on."""

    step: int = 0
    """Updates made."""
    epoch: int = 0
    """The running epoch, from 0."""
    step_in_epoch: int = 0
    """Updates made in it."""
    best_score: float | None = None
    best_loss: float | None = None
    """Validation loss of the best, which decides between equal scores."""
    best_step: int = 0
    loss_sums: list[float] = field(default_factory=list)
    """Loss since the last line of metrics.jsonl, of each process."""
    loss_tokens: int = 0
    """Tokens since the last line of metrics.jsonl."""
    trained_seconds: float = 0.0
    joules: float = 0.0
    """Energy, where the hardware has a meter."""
    micro_batch_size: int = 0
    """Captions computed at a time where less fitted into memory than asked for, or 0."""
    data_fingerprint: str = ""
    data_position: str = ""
    """Where a stream stands: what `TrainingSteps.position` gave."""
    wandb_run_id: str = ""

    def is_improved_by(self, score: float, loss: float) -> bool:
        """Whether a validation beats the best so far; of equal scores the lower loss does."""
        if self.best_score is None or score != self.best_score:
            return self.best_score is None or score > self.best_score
        return self.best_loss is not None and loss < self.best_loss


ADDED_LATER = ("loss_sums", "micro_batch_size", "data_position", "best_loss")
"""What the first checkpoints did not have yet; their runs had it at its default."""


def older_name(folder: Path) -> Path | None:
    """What a checkpoint is called when a newer one takes its place."""
    try:
        return folder.with_name(f"step-{read_state(folder / STATE).step:09}")
    except UserError:  # there is none yet, or it is damaged and not worth keeping
        return None


def read_state(path: Path) -> TrainState:
    """Read the state of a checkpoint, of an older version of the program too.

    Raises `UserError` naming what is damaged, or unknown to this version.
    """
    values = _as_named_now(read_json(path))
    known = {one.name for one in fields(TrainState)}
    if unknown := values.keys() - known:
        raise UserError(
            f"{path} holds {', '.join(sorted(unknown))}, which this version of the program does "
            "not know. Go on with the version that wrote it."
        )
    if missing := known - values.keys():
        raise UserError(f"{path} is damaged: {', '.join(sorted(missing))} is missing.")
    for one in fields(TrainState):
        if not _fits(values[one.name], cast(Any, one.type)):
            raise UserError(f"{path} is damaged: its {one.name} is {values[one.name]!r}.")
    return TrainState(**values)


def _as_named_now(values: dict[str, Any]) -> dict[str, Any]:
    """The state of an older version as this one has it."""
    defaults = TrainState()
    values = {name: getattr(defaults, name) for name in ADDED_LATER} | values
    if "loss_sum" in values:  # there was one process
        values["loss_sums"] = [values.pop("loss_sum")]
    return values


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, *get_args(kind)) for item in value)
    return isinstance(value, kind)

"""Where training stands: what a run that goes on needs besides weights and moments."""

import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin

from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.rules import Rule, at_least, between

STATE = "trainer_state.json"
OLDER_NAME = re.compile(r"step-\d{9,}")
COUNT = Annotated[int, between(0, 2**62)]
AMOUNT = Annotated[float, at_least(0)]
RUN_ID = Rule(lambda text: re.fullmatch(r"[\w.-]{0,128}", text), "letters, digits, - and _")


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where training stands; with weights and moments, all that the next step depends on."""

    step: COUNT = 0
    """Updates made."""
    epoch: COUNT = 0
    """The running epoch, from 0."""
    step_in_epoch: COUNT = 0
    """Updates made in it."""
    best_score: float | None = None
    best_loss: float | None = None
    """Validation loss of the best, which decides between equal scores."""
    best_step: COUNT = 0
    loss_sums: list[float] = field(default_factory=list)
    """Loss since the last line of metrics.jsonl, of each process."""
    loss_tokens: COUNT = 0
    """Tokens since the last line of metrics.jsonl."""
    trained_seconds: AMOUNT = 0.0
    joules: AMOUNT = 0.0
    """Energy, where the hardware has a meter."""
    micro_batch_size: COUNT = 0
    """Captions computed at a time where less fitted into memory than asked for, or 0."""
    data_fingerprint: str = ""
    data_position: str = ""
    """Where a stream stands: what `TrainingSteps.position` gave."""
    wandb_run_id: Annotated[str, RUN_ID] = ""

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
    if get_origin(kind) is Annotated:
        kind, *rules = get_args(kind)
        return _fits(value, kind) and all(rule.holds(value) for rule in rules)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, *get_args(kind)) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind) and not isinstance(value, bool)

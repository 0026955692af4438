"""A run on Weights & Biases, or nowhere: training neither waits for it nor fails with it.

A thread hands everything to the client, which may take as long as it likes. What raises there is
told once, and the run goes on without W&B; `metrics.jsonl` and `curves.png` hold the same numbers.
"""

import json
import netrc
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from captioning.system.errors import UserError
from captioning.system.privacy import shareable
from captioning.tracking.events import Outcome, RunFacts, Validation, Values

if TYPE_CHECKING:
    from config import Config

START_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 120
PICTURE_PIXELS = 320
"""Side of a sample picture as it is sent."""
Action = Callable[[Any], None]
"""What is done with a run of the client."""


def setup_wandb(
    config: "Config", *, run_id: str | None = None, provenance: Mapping[str, Any] | None = None
) -> Any:
    """Start (or with `run_id` go on with) a W&B run of all settings; None where it is disabled.

    Never asks for a key: without one, `auto` is offline and `online` raises `UserError`. A server
    that does not answer makes the run an offline one.
    """
    mode = choose_mode(config.WANDB_MODE)
    if mode == "disabled":
        return None
    record = {"settings": shareable(asdict(config)), **(provenance or {})}
    settings = record.pop("settings")
    os.makedirs(config.run_dir, exist_ok=True)
    import wandb

    def start(mode: Any) -> Any:
        return wandb.init(
            project=config.WANDB_PROJECT,
            entity=config.WANDB_ENTITY or None,
            name=config.WANDB_RUN_NAME or config.run_name,
            id=run_id,
            resume="allow" if run_id else None,
            mode=mode,
            dir=str(config.run_dir),
            config={**settings, "provenance": record},
            settings=wandb.Settings(
                silent=True,
                # Else it sends what is printed, the command line, names of host and user.
                console="off",
                x_disable_meta=True,
                disable_git=True,
                init_timeout=START_TIMEOUT_SECONDS,
                finish_timeout=FINISH_TIMEOUT_SECONDS,
            ),
        )

    try:
        run = start(mode)
    except Exception as error:
        _warn(f"W&B cannot be reached ({_first_line(error)}); this run is logged offline.")
        try:
            wandb.teardown()  # the service still holds the id of the run that did not start
            run = start("offline")
        except Exception as error:
            _warn(f"W&B is off for this run: {_first_line(error)}")
            return None
    # Steps that a resumed run repeats would be dropped by W&B's own counter.
    run.define_metric("*", step_metric="step")
    return run


class WandbLog:
    """Sends a run's numbers, sample captions and pictures to a W&B run, or to none."""

    def __init__(self, run: Any, samples_file: Path) -> None:
        """`samples_file` has the captions of all validations."""
        self._run = run
        self._samples_file = samples_file
        self._waiting: queue.SimpleQueue[Action] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self.run_id: str = run.id if run else ""
        self.place, self.sync_command = "", ""
        if run and run.offline:
            # All parts of a resumed run: they are sent in their order.
            runs = Path(run.settings.sync_dir).parent / f"offline-run-*-{run.id}"
            self.place, self.sync_command = "offline", f"wandb sync {runs}"
        elif run:
            self.place = str(run.url)
        if run:
            self._thread.start()

    def start(self, facts: RunFacts) -> None:
        """Send what is trained, on what, where."""
        self._send(lambda run: run.config.update({"facts": vars(facts)}, allow_val_change=True))

    def step(self, step: int, epoch: int, values: Values) -> None:
        """Send what was measured since the last call."""
        numbers = {f"train/{name}": value for name, value in values.items()}
        self._send(lambda run: run.log({"step": step, "epoch": epoch, **numbers}))

    def validation(self, event: Validation) -> None:
        """Send a validation's numbers, captions and pictures as they are now."""
        if self._run is None:
            return
        try:
            line = self._validation_line(event)
        except Exception as error:
            self._give_up(error)
            return
        self._send(lambda run: run.log(line))
        if event.is_best:
            best = {**event.values, "step": event.step, "epoch": event.epoch}
            self._send(lambda run: _put_best(run, best))

    def close(self, outcome: Outcome) -> None:
        """End the W&B run; leaves it alone where that takes longer than the time-out."""

        def finish(run: Any) -> None:
            _put_best(run, outcome.best)
            run.finish(exit_code=0 if outcome.finished else 1)
            self._run = None

        self._send(finish)
        if self._thread.is_alive():
            self._thread.join(FINISH_TIMEOUT_SECONDS)
        if self._run is not None:
            _warn(
                f"W&B has not taken everything within {FINISH_TIMEOUT_SECONDS} seconds and is left "
                "alone. metrics.jsonl, samples.jsonl and curves.png hold all of it."
            )
            _leave_client()

    def _send(self, action: Action) -> None:
        """Have it done in its turn, if there is a run; returns at once."""
        if self._run is not None:
            self._waiting.put(action)

    def _work(self) -> None:
        """The thread; the first failure ends W&B logging."""
        while self._run is not None:
            action = self._waiting.get()
            try:
                action(self._run)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        _warn(f"W&B logging stopped: {_first_line(error)}. Training goes on without it.")

    def _validation_line(self, event: Validation) -> dict[str, Any]:
        import wandb

        line: dict[str, Any] = {"step": event.step, "epoch": event.epoch}
        line |= {f"validation/{name}": value for name, value in event.values.items()}
        if event.samples:
            pictures = [
                wandb.Image(thumbnail(sample.image), caption=sample.caption, file_type="jpg")
                for sample in event.samples
            ]
            line["samples/pictures"] = pictures
            line["samples/captions"] = self._captions_table(event, pictures)
        if event.caption_lengths:
            longest = max(event.caption_lengths)
            counts = [event.caption_lengths.count(length) for length in range(longest + 1)]
            edges = [length - 0.5 for length in range(longest + 2)]
            line["validation/caption_lengths"] = wandb.Histogram(np_histogram=(counts, edges))
        if event.attention_strip:
            from PIL import Image

            with Image.open(event.attention_strip) as strip:
                line["samples/attention"] = wandb.Image(strip.convert("RGB"))
        return line

    def _captions_table(self, event: Validation, pictures: list[Any]) -> Any:
        """A row a picture, a column an epoch, from all validations so far."""
        import wandb

        captions: dict[int, dict[str, str]] = {}
        with self._samples_file.open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                captions.setdefault(row["epoch"], {})[row["image"]] = row["caption"]
        columns = ["picture", "people", *(f"epoch {epoch}" for epoch in captions)]
        rows = [
            [
                picture,
                "\n".join(sample.references),
                *(said.get(str(sample.image), "") for said in captions.values()),
            ]
            for sample, picture in zip(event.samples, pictures, strict=True)
        ]
        return wandb.Table(columns=columns, data=rows)


def _put_best(run: Any, values: Values) -> None:
    for name, value in values.items():
        run.summary[f"best/{name}"] = value


def _leave_client() -> None:
    """Have the client not wait for its own process, without limit, at the end of ours."""
    import wandb

    with suppress(AttributeError):  # another version of the client: it may still wait
        wandb.setup()._connection._cleanup()


def choose_mode(wanted: str) -> str:
    """What WANDB_MODE means here: online, offline or disabled."""
    if wanted == "auto" and os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        wanted = os.environ["WANDB_MODE"]
    if wanted == "auto":
        return "online" if _has_key() else "offline"
    if wanted == "online" and not _has_key():
        raise UserError(
            "WANDB_MODE is online, but there is no W&B key: run `wandb login`, set WANDB_API_KEY, "
            "or write --WANDB_MODE offline."
        )
    return wanted


def _has_key() -> bool:
    """Whether the client would find a key in the environment or the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path.home()
    files = (os.environ.get("NETRC", ""), str(home / ".netrc"), str(home / "_netrc"))
    path = next((file for file in files if file and os.path.isfile(file)), None)
    if path is None:
        return False
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError) as error:
        _warn(f"{path} cannot be read for a W&B key: {error}")
        return False


def thumbnail(path: Path) -> Any:
    """A picture as W&B shows it in a table: small and square, white where it is not."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    # All of one size, as W&B shows them side by side.
    return ImageOps.pad(upright, (PICTURE_PIXELS, PICTURE_PIXELS), color="white")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _warn(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

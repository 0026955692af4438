"""A run on Weights & Biases, or nowhere: training neither waits for it nor fails with it.

The client hands everything to its own background process. What does raise here is told once, and
the run goes on without W&B; `metrics.jsonl` and `curves.png` hold the same numbers anyway.
"""

import json
import netrc
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from config import Config
from errors import UserError
from run_events import Follower, Outcome, RunFacts, Validation, Values

START_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 120
PICTURE_PIXELS = 320
"""Side of a sample picture as it is sent."""


def setup_wandb(
    config: Config, *, run_id: str | None = None, provenance: Mapping[str, Any] | None = None
) -> Any:
    """Start (or with `run_id` go on with) a W&B run of all settings; None where it is disabled.

    Never asks for a key: without one, `auto` is offline and `online` raises `UserError`. A server
    that does not answer makes the run an offline one.
    """
    mode = choose_mode(config.WANDB_MODE)
    if mode == "disabled":
        return None
    record = {"settings": asdict(config), **(provenance or {})}
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


class WandbLog(Follower):
    """Sends a run's numbers, sample captions and pictures to a W&B run, or to none."""

    def __init__(self, run: Any, samples_file: Path, *, best_folder: Path | None = None) -> None:
        """`samples_file` has the captions of all validations; `best_folder` becomes an artifact."""
        self._run = run
        self._samples_file = samples_file
        self._best_folder = best_folder
        self.run_id: str = run.id if run else ""
        self.place, self.sync_command = "", ""
        if run and run.offline:
            # All parts of a resumed run: they are sent in their order.
            runs = Path(run.settings.sync_dir).parent / f"offline-run-*-{run.id}"
            self.place, self.sync_command = "offline", f"wandb sync {runs}"
        elif run:
            self.place = str(run.url)

    def start(self, facts: RunFacts, step: int) -> None:
        self._try(lambda run: run.config.update({"facts": vars(facts)}, allow_val_change=True))

    def step(self, step: int, epoch: int, values: Values) -> None:
        numbers = {f"train/{name}": value for name, value in values.items()}
        self._try(lambda run: run.log({"step": step, "epoch": epoch, **numbers}))

    def validation(self, event: Validation) -> None:
        self._try(lambda run: self._send_validation(run, event))

    def close(self, outcome: Outcome) -> None:
        def finish(run: Any) -> None:
            for name, value in outcome.best.items():
                run.summary[f"best/{name}"] = value
            if self._best_folder and self._best_folder.is_dir():
                self._send_folder(run, self._best_folder)
            run.finish(exit_code=0 if outcome.finished else 1)

        self._try(finish)

    def _send_folder(self, run: Any, folder: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"best-{run.id}", type="model")
        for path in sorted(folder.iterdir()):
            artifact.add_file(str(path))
        run.log_artifact(artifact)

    def _send_validation(self, run: Any, event: Validation) -> None:
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
            line["samples/attention"] = wandb.Image(str(event.attention_strip))
        run.log(line)
        if event.is_best:
            for name, value in {**event.values, "step": event.step, "epoch": event.epoch}.items():
                run.summary[f"best/{name}"] = value

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

    def _try(self, action: Callable[[Any], None]) -> None:
        """Do it if there is a run; the first failure is told and ends W&B logging."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            _warn(f"W&B logging stopped: {_first_line(error)}. Training goes on without it.")


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

"""Uploads each new best checkpoint to the Hub in the background; training never waits for it.

uploader = BestUploader("user/my-captioner")
uploader.submit(run_dir / "best", metrics)      returns at once
uploader.finish(timeout_seconds=600)            at the end of the run
"""

import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.sharing.repository import (
    check_token,
    checkpoint_files,
    commit_checkpoint,
    commit_message,
    explain,
    is_refusal,
    make_repository,
)

STAGING_NAME = ".uploads"
RETRY_DELAYS_SECONDS = (5.0, 30.0, 120.0)


@dataclass(frozen=True)
class Upload:
    """A checkpoint on its way."""

    staged: Path
    """Its files as they were when it was submitted."""
    source: Path
    message: str


class BestUploader:
    """Uploads one checkpoint at a time; of those that wait, only the newest.

    A failure is retried, then told on standard error with the command that uploads by hand.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool = False,
        retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> None:
        """Raises `UserError` without a token; whether the Hub takes it is found out meanwhile."""
        check_token(repo_id)
        self._repo_id, self._private = repo_id, private
        self._retry_delays_seconds = retry_delays_seconds
        self._changed = threading.Condition()
        self._waiting: Upload | None = None
        self._running: Upload | None = None
        self._failed: Upload | None = None
        self.url = ""
        """The repository, once a checkpoint is there."""
        # A daemon: a server that never answers must not keep the process from ending.
        threading.Thread(target=self._work, name="hub-upload", daemon=True).start()

    def submit(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Upload what `folder` holds now, in place of what still waits; returns at once."""
        with self._changed:
            if not (self._waiting or self._running):
                # What lies there now is of a run that was killed.
                shutil.rmtree(folder.parent / STAGING_NAME, ignore_errors=True)
            try:
                staged = _stage(folder)
            except OSError as error:
                _say(f"{folder} is not uploaded: {error}.")
                return
            if self._waiting:
                _unstage(self._waiting)
            self._waiting = Upload(staged, folder, commit_message(metrics))
            self._changed.notify_all()

    def finish(self, *, timeout_seconds: float) -> bool:
        """Wait, with a progress bar, until the newest has arrived; False if it has not."""
        with self._changed:
            self._wait(timeout_seconds)
            late = self._waiting or self._running
            failed = self._failed
        if late:
            _say(f"The upload to {self._repo_id} has not ended in {timeout_seconds:.0f} s.")
            self._say_command(late)
        return not (late or failed)

    def _wait(self, timeout_seconds: float) -> None:
        """Until nothing is on its way; `self._changed` is held."""
        from tqdm import tqdm

        if not (self._waiting or self._running):
            return
        started = time.monotonic()
        bar = tqdm(
            total=round(timeout_seconds),
            desc=f"uploading to {self._repo_id}, {timeout_seconds:.0f} s at most",
            bar_format="{desc} |{bar}| {elapsed}",
            disable=None,
            leave=False,
        )
        with bar:
            while self._waiting or self._running:
                passed = time.monotonic() - started
                if passed >= timeout_seconds:
                    return
                bar.update(round(passed) - bar.n)
                self._changed.wait(min(timeout_seconds - passed, 1.0))

    def _work(self) -> None:
        """The background thread."""
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # they would break the training's own
        self._make_repository_early()
        while True:
            with self._changed:
                while self._waiting is None:
                    self._changed.wait()
                upload, self._waiting = self._waiting, None
                self._running, self._failed = upload, None
            arrived = self._try_until_newer(upload)
            with self._changed:
                _unstage(upload)
                self._running = None
                self._failed = None if arrived or self._waiting else upload
                self._changed.notify_all()

    def _make_repository_early(self) -> None:
        """So that a refusal is told now and not after hours; each upload tries again anyway."""
        try:
            make_repository(self._repo_id, private=self._private)
        except Exception as error:
            _say(f"Uploads may fail. {explain(error, self._repo_id)}")

    def _try_until_newer(self, upload: Upload) -> bool:
        """Upload, and again after a failure, unless a newer one waits; whether it has arrived."""
        for delay_seconds in (*self._retry_delays_seconds, None):
            try:
                make_repository(self._repo_id, private=self._private)
                self.url = commit_checkpoint(upload.staged, self._repo_id, upload.message)
                return True
            except Exception as error:
                if delay_seconds is None or is_refusal(error):
                    _say(f"Upload failed. {explain(error, self._repo_id)}")
                    self._say_command(upload)
                    return False
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None, delay_seconds)
                if self._waiting:
                    return False
        raise AssertionError("the last try returns")

    def _say_command(self, upload: Upload) -> None:
        private = " --private" if self._private else ""
        folder = shlex.quote(str(upload.source))
        _say(f"Upload it by hand: python hub.py upload {folder} {self._repo_id}{private}")


def _stage(folder: Path) -> Path:
    """A folder of links to a checkpoint's files, which stay when `best` is replaced."""
    # Two levels below the run's folder, where nothing looks for checkpoints to resume from.
    area = folder.parent / STAGING_NAME
    area.mkdir(exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=area))
    for path in checkpoint_files(folder):
        try:
            os.link(path, staged / path.name)
        except OSError:  # a file system without links
            shutil.copyfile(path, staged / path.name)
    return staged


def _unstage(upload: Upload) -> None:
    shutil.rmtree(upload.staged, ignore_errors=True)
    try:
        upload.staged.parent.rmdir()
    except OSError:
        return  # another one waits there


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)

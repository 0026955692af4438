"""Uploads each new best checkpoint to the Hub in the background; training never waits for it.

uploader = BestUploader("user/my-captioner")
uploader.submit(run_dir / "best")               returns at once
uploader.finish(timeout_seconds=600)            at the end of the run
"""

import os
import queue
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from captioning.sharing.published import checkpoint_files, published_files
from captioning.sharing.repository import (
    check_token,
    commit_files,
    commit_message,
    explain,
    is_refusal,
    make_repository,
    metrics_in,
)
from captioning.system.errors import UserError
from captioning.system.progress import Progress, say

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
        left_out: Collection[str],
        retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> None:
        """`left_out` are settings that are not published. Raises `UserError` without a token;
        whether the Hub takes it is found out meanwhile."""
        check_token(repo_id)
        self._repo_id, self._left_out = repo_id, left_out
        self._retry_delays_seconds = retry_delays_seconds
        self._waiting: queue.Queue[Upload] = queue.Queue()
        self._newest: Upload | None = None
        self._has_failed = False
        self.url = ""
        """The repository, once a checkpoint is there."""
        # A daemon, not the client's futures, whose threads Python waits for at exit: a server that
        # never answers must not keep the process from ending.
        threading.Thread(target=self._work, name="hub-upload", daemon=True).start()

    def submit(self, folder: Path) -> None:
        """Upload what `folder` holds now, in place of what still waits; returns at once.

        Where the repository holds it already, nothing is changed there.
        """
        if not self._waiting.unfinished_tasks:
            # What lies there now is of uploads that have ended, or of a run that was killed.
            shutil.rmtree(folder.parent / STAGING_NAME, ignore_errors=True)
        try:
            staged = _stage(folder)
            message = commit_message(metrics_in(staged))
        except (OSError, UserError) as error:
            say(f"{folder} is not uploaded: {str(error).rstrip('.')}.")
            return
        with suppress(queue.Empty):
            self._drop(self._waiting.get_nowait())
        self._newest = Upload(staged, folder, message)
        self._waiting.put(self._newest)

    def finish(self, *, timeout_seconds: float) -> bool:
        """Wait, with a progress bar, until the newest has arrived; False if it has not."""
        if self._newest is None:
            return True
        if not self._has_ended(timeout_seconds):
            say(f"The upload to {self._repo_id} has not ended in {timeout_seconds:.0f} s.")
            self._say_command(self._newest)
            return False
        shutil.rmtree(self._newest.staged.parent, ignore_errors=True)
        return not self._has_failed

    def _has_ended(self, timeout_seconds: float) -> bool:
        """Wait until nothing is on its way."""
        started, shown = time.monotonic(), 0
        with Progress(
            f"uploading to {self._repo_id}, {timeout_seconds:.0f} s at most",
            round(timeout_seconds),
            has_lines=False,
            bar_format="{desc} |{bar}| {elapsed}",
            keeps_bar=False,
        ) as bar:
            while self._waiting.unfinished_tasks:
                passed = time.monotonic() - started
                if passed >= timeout_seconds:
                    return False
                bar.advance(round(passed) - shown)
                shown = round(passed)
                time.sleep(min(timeout_seconds - passed, 0.1))
        return True

    def _work(self) -> None:
        """The background thread."""
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # they would break the training's own
        try:
            # So that a refusal is told now and not after hours; each upload tries again anyway.
            make_repository(self._repo_id)
        except Exception as error:
            say(f"Uploads may fail. {explain(error, self._repo_id)}")
        newer = None
        while True:
            upload = newer or self._waiting.get()
            newer = self._try_until_newer(upload)
            self._drop(upload)

    def _try_until_newer(self, upload: Upload) -> Upload | None:
        """Upload, and again after a failure, unless a newer one comes, which is given."""
        for delay_seconds in (*self._retry_delays_seconds, None):
            try:
                make_repository(self._repo_id)
                files = published_files(upload.staged, self._repo_id, left_out=self._left_out)
                self.url = commit_files(files, self._repo_id, upload.message)
                self._has_failed = False
                return None
            except Exception as error:
                if delay_seconds is None or is_refusal(error):
                    say(f"Upload failed. {explain(error, self._repo_id)}")
                    self._say_command(upload)
                    self._has_failed = True
                    return None
            with suppress(queue.Empty):
                return self._waiting.get(timeout=delay_seconds)
        raise AssertionError("the last try returns")

    def _drop(self, upload: Upload) -> None:
        shutil.rmtree(upload.staged, ignore_errors=True)
        self._waiting.task_done()

    def _say_command(self, upload: Upload) -> None:
        folder = shlex.quote(str(upload.source))
        say(f"Upload it by hand: python hub.py upload {folder} {self._repo_id}")


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

"""How a run is asked to stop: SIGINT (Ctrl-C), SIGTERM (as schedulers send it), SIGHUP (the
terminal has gone; under `nohup` it means nothing).

The first asks for a stop after the running step, the second stops at once. Neither can leave a
half-written file under a good name, because files are renamed when they are whole. Worker processes
leave signals to the process that started them, and end with it.
"""

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import Queue
from types import FrameType

from captioning.system.errors import EXIT_FAILED, EXIT_SIGNAL


class Stopped(BaseException):
    """A stop was asked for, where nothing is lost by leaving the work unfinished."""


class StopRequest:
    """A signal asks for a stop after the running step; a second one stops at once."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        """One that `is_quiet`, as beside other processes, says nothing and hears the first only."""
        self.number = 0
        """The signal that asked, or 0."""
        self._is_quiet = is_quiet

    def check(self) -> None:
        """Raise `Stopped` if a stop was asked for."""
        if self.number:
            raise Stopped

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals within the block."""
        before = {number: signal.signal(number, self._take) for number in stopping_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number and self._is_quiet:
            return  # `torchrun` and the terminal may both have passed the same one on
        if self.number:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_SIGNAL + number)
        self.number = number
        if not self._is_quiet:
            with suppress(RuntimeError):  # the signal came amid another write to the same stream
                print(
                    "Finishing the step, then saving; once more to stop at once.", file=sys.stderr
                )


def stopping_signals() -> list[signal.Signals]:
    """The signals that ask for a stop; a hang-up only where it is not ignored, as by `nohup`."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    return [number for number in numbers if not _is_ignored_hangup(number)]


def _is_ignored_hangup(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def set_up_worker(worker: int) -> None:
    """Set up a worker process: signals, which reach it too, are the main process's to answer; what
    it cannot hand over ends it, for the main process would wait for that without end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


def _end(error: Exception, item: object) -> None:
    """End this process, whose queue is broken (there is no room in /dev/shm)."""
    with suppress(OSError):
        print(f"A worker cannot hand over what it has read: {error}", file=sys.stderr, flush=True)
    os._exit(EXIT_FAILED)


@atexit.register
def end_workers() -> None:
    """Kill worker processes that are left, else Python would ask them by SIGTERM and wait."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()

"""How a run is asked to stop: SIGINT (Ctrl-C) and SIGTERM (as schedulers send it).

The first asks for a stop after the running step, the second stops at once. Neither can leave a
half-written file under a good name, because files are renamed when they are whole. Worker processes
leave signals to the process that started them, and end with it.
"""

import atexit
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from captioning.system.errors import EXIT_TERMINATED


class Stopped(BaseException):
    """A stop was asked for, where nothing is lost by leaving the work unfinished."""


class StopRequest:
    """SIGINT or SIGTERM asks for a stop after the running step; a second one stops at once."""

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
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number and self._is_quiet:
            return  # `torchrun` and the terminal may both have passed the same one on
        if self.number:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_TERMINATED)
        self.number = number
        if not self._is_quiet:
            with suppress(RuntimeError):  # the signal came amid another write to the same stream
                print(
                    "Finishing the step, then saving; once more to stop at once.", file=sys.stderr
                )


def leave_signals_to_main(worker: int) -> None:
    """Set up a worker process: a Ctrl-C, which reaches it too, is the main process's to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """Kill worker processes that are left, else Python would ask them by SIGTERM and wait."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()

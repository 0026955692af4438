"""How a run is asked to stop: SIGINT (Ctrl-C) and SIGTERM (as schedulers send it).

The first asks for a stop after the running step, the second stops at once. Neither can leave a
half-written file under a good name, because files are renamed when they are whole.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from errors import EXIT_TERMINATED


class Stopped(BaseException):
    """The first signal, where nothing is lost by leaving the work at once."""


class StopRequest:
    """SIGINT or SIGTERM asks for a stop after the running step; a second one stops at once."""

    def __init__(self) -> None:
        self.number = 0
        """The signal that asked, or 0."""
        self._is_at_once = False

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

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block the first signal raises `Stopped`."""
        self._is_at_once = True
        try:
            yield
        finally:
            self._is_at_once = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_TERMINATED)
        self.number = number
        with suppress(RuntimeError):  # the signal came amid another write to the same stream
            print("Finishing the step, then saving; once more to stop at once.", file=sys.stderr)
        if self._is_at_once:
            raise Stopped

"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TextIO

LINE_SECONDS = 15.0
"""Between lines where there is no terminal."""


class Progress:
    """Counts things to a stream, with things/s and the time left."""

    def __init__(
        self,
        label: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "pictures",
        stream: TextIO | None = None,
        is_shown: bool = True,
        has_lines: bool = True,
        bar_format: str | None = None,
        keeps_bar: bool = True,
    ) -> None:
        """Begin after `done` of `total`, on standard error by default.

        Without `has_lines` nothing is said where there is no terminal. `bar_format` is tqdm's;
        without `keeps_bar` the bar goes at the end.
        """
        self._label, self._total, self._done, self._unit = label, total, done, unit
        self._stream = stream or sys.stderr
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        is_shown = is_shown and total > 0
        is_terminal = self._stream.isatty()
        self._has_lines = is_shown and has_lines and not is_terminal
        if is_shown and is_terminal:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                desc=label,
                unit=f" {unit}",
                file=self._stream,
                dynamic_ncols=True,
                bar_format=bar_format,
                leave=keeps_bar,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Note `count` more."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        is_last = self._done >= self._total
        if self._has_lines and (is_last or now - self._said >= LINE_SECONDS):
            self._said = now
            rate = self._done / max(now - self._began, 1e-9)
            left = "" if is_last else f", {(self._total - self._done) / rate:.0f} s left"
            print(
                f"{self._label}: {self._done:,} of {self._total:,} {self._unit}, {rate:.1f} a "
                f"second{left}",
                file=self._stream,
                flush=True,
            )

    def describe(self, label: str, newest: str) -> None:
        """Write `label` before the bar and the newest numbers behind it."""
        if self._bar is not None:
            self._bar.set_description_str(label, refresh=False)
            self._bar.set_postfix_str(newest)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar off the screen for what is printed within the block."""
        if self._bar is None:
            yield
            return
        with self._bar.external_write_mode():
            yield


def say(text: str) -> None:
    """Print a line on standard error, above whatever bar is there."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)

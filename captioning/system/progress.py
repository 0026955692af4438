"""How far a long piece of work is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

LINE_SECONDS = 15.0
"""Between lines where there is no terminal."""


class Progress:
    """Counts pictures to standard error, with pictures/s and the time left."""

    def __init__(self, label: str, total: int, *, is_shown: bool = True) -> None:
        self._label, self._total, self._done = label, total, 0
        self._began = self._said = time.monotonic()
        self._is_shown = is_shown and total > 0
        self._bar: Any = None
        if self._is_shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=" pictures", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """Note `count` more pictures."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        is_last = self._done >= self._total
        if self._is_shown and (is_last or now - self._said >= LINE_SECONDS):
            self._said = now
            rate = self._done / max(now - self._began, 1e-9)
            left = "" if is_last else f", {(self._total - self._done) / rate:.0f} s left"
            print(
                f"{self._label}: {self._done:,} of {self._total:,} pictures, {rate:.1f} a second"
                f"{left}",
                file=sys.stderr,
                flush=True,
            )

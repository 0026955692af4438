"""The one thread that uses models: what people ask for first, drafts when nobody asks.

A request that still waits is given up as soon as the same window asks for something else of the
same kind. Nothing that runs is broken off; it is short.
"""

import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from captioning.app.drafts import Drafting
from captioning.sources.records import WordHeat


@dataclass(frozen=True)
class Said:
    """A caption, with its words."""

    text: str
    log_probability: float
    """Sum of the log-probabilities of its tokens."""
    confidence: float
    """Geometric mean of their probabilities, 0 to 1."""
    words: Sequence[tuple[WordHeat, float]] = field(default=(), repr=False)
    """Each word with what it looked at, and how sure the model was of it, 0 to 1."""


class Model(Protocol):
    """A captioner, as this page uses it."""

    name: str

    @property
    def usual(self) -> Mapping[str, Any]:
        """How it searches where nobody says otherwise, by the names of `generate.py`'s options."""

    def captions(self, picture: Image.Image, wishes: Mapping[str, str]) -> Sequence[Said]:
        """Captions of a picture, best first, searched for as `wishes` say, by the same names.

        Raises `UserError` for wishes that do not fit.
        """

    def drafts(self, pictures: Sequence[Image.Image]) -> Sequence[tuple[str, float]]:
        """The best caption of each picture, with how sure the model is of it."""


class Desk:
    """Runs what is asked for, one after another."""

    def __init__(self, drafting: Drafting | None = None) -> None:
        """With what is done when nobody asks."""
        self._drafting = drafting
        self._waiting: OrderedDict[str, tuple[Callable[[], Any], Future[Any]]] = OrderedDict()
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def ask(self, key: str, work: Callable[[], Any]) -> Future[Any]:
        """Have `work` done; one that waits under the same `key` is cancelled."""
        future: Future[Any] = Future()
        with self._changed:
            if (older := self._waiting.pop(key, None)) is not None:
                older[1].cancel()
            self._waiting[key] = work, future
            self._changed.notify()
        return future

    def wake(self) -> None:
        """Look again whether there are drafts to make."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End after what runs now; what waits is cancelled."""
        with self._changed:
            self._is_open = False
            for _, future in self._waiting.values():
                future.cancel()
            self._waiting.clear()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._is_open and not self._waiting and not self._has_drafts():
                    self._changed.wait()
                if not self._is_open:
                    return
                asked = self._waiting.popitem(last=False)[1] if self._waiting else None
            if asked is None:
                self._draft()
            elif asked[1].set_running_or_notify_cancel():
                try:
                    asked[1].set_result(asked[0]())
                except Exception as error:
                    asked[1].set_exception(error)

    def _has_drafts(self) -> bool:
        return self._drafting is not None and self._drafting.is_busy

    def _draft(self) -> None:
        assert self._drafting is not None
        try:
            self._drafting.step()
        except Exception as error:
            # Said on the page; all else goes on.
            self._drafting.problem = str(error) or type(error).__name__
            traceback.print_exc()

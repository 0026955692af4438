"""Processes that work together, as `torchrun` starts them: who we are, our share, and one end.

Where one process fails, the others would wait for it until a time-out. So it rings a bell, which
they listen to on the side; they end too, with its exit code, and leave it to it to say what is
wrong.
"""

import heapq
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioning.system.errors import EXIT_FAILED, EXIT_USER_ERROR, UserError

LISTENING_SECONDS = 0.25
"""How often the bell is listened for."""
GRACE_SECONDS = 3.0
"""How long the others wait for the process that failed to say why."""


def is_main_process() -> bool:
    """Whether this is the process that writes, logs and prints, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_one_of_many() -> bool:
    """Whether other processes share the work."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def worker_count(wanted: int) -> int:
    """NUM_WORKERS as a number of processes; -1 is one a core, 8 at most."""
    return min(8, os.cpu_count() or 1) if wanted < 0 else wanted


def partition(weights: Sequence[int] | NDArray[np.int64], parts: int) -> list[list[int]]:
    """Deal things out, the heaviest first, each to the part that is lightest so far.

    Gives the numbers of each part's things in ascending order; a part may be empty.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    piles = [(0, part) for part in range(parts)]
    for number in np.argsort(-np.asarray(weights), kind="stable").tolist():
        weight, part = heapq.heappop(piles)
        dealt[part].append(number)
        heapq.heappush(piles, (weight + int(weights[number]), part))
    return [sorted(numbers) for numbers in dealt]


def shared_store(name: str) -> Any:
    """A store of short texts that the processes share, its keys apart from others' by `name`."""
    import torch.distributed as dist

    is_hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=is_main_process() and not is_hosted,
        wait_for_workers=False,
        multi_tenant=True,
    )
    # Workers that `torchrun` starts again find the same store, with the addresses of the dead.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"{name}/{attempt}", store)  # type: ignore[attr-defined]


class Bell:
    """Rung by the first process that fails; ends the others."""

    def __init__(self, store: Any) -> None:
        """Listen in a thread; `store` is shared by the processes."""
        self._store = store
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def ring(self, code: int) -> None:
        """End the others with `code`; where another process was first, end with its code."""
        self.silence()
        try:
            if self._store.add("ringing", 1) == 1:
                self._store.set("code", str(code))
                return
            code = int(self._store.get("code"))
        except RuntimeError:  # the store is gone, and with it the process that held it
            return
        # Not before the process that was first has spoken, because its end is everybody's.
        threading.Event().wait(GRACE_SECONDS)
        os._exit(code)

    def silence(self) -> None:
        """Stop listening; a thread that still asked the store at exit would abort the process."""
        self._is_over.set()
        self._thread.join(GRACE_SECONDS)

    def _listen(self) -> None:
        while not self._is_over.wait(LISTENING_SECONDS):
            try:
                if not self._store.check(["code"]):
                    continue
                code = int(self._store.get("code"))
            except RuntimeError:
                return
            if not self._is_over.wait(GRACE_SECONDS):
                sys.stderr.flush()
                os._exit(code)


@contextmanager
def ending_together() -> Iterator[None]:
    """Within the block a failure of one process ends all; at its end this one leaves the others."""
    if not is_one_of_many():
        yield
        return
    import torch.distributed as dist

    bell = Bell(shared_store("bell"))
    try:
        yield
    except BaseException as error:
        bell.ring(_exit_code(error))
        raise
    bell.silence()
    if dist.is_initialized():
        dist.destroy_process_group()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return EXIT_USER_ERROR
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return EXIT_FAILED

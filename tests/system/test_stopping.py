"""Which signals ask for a stop, and what a worker does that cannot hand over what it has read."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from captioning.system.errors import UserError
from captioning.system.stopping import StopRequest, set_up_worker, stopping_signals
from captioning.training.guards import plain_faults


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(number)
        assert stop.number == number
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            signal.raise_signal(number)
    ended = caught.value
    is_interrupt = isinstance(ended, KeyboardInterrupt)
    assert is_interrupt or (isinstance(ended, SystemExit) and ended.code == 128 + number)


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stopping_signals()
        with StopRequest().listening():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class Unsendable:
    """Pictures for which there is no room between the processes."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> torch.Tensor:
        class Full(torch.Tensor):
            def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
                raise RuntimeError("unable to allocate shared memory(shm)")

        return torch.zeros(3).as_subclass(Full)


def test_a_worker_that_cannot_hand_over_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    loader: DataLoader[Any] = DataLoader(
        Unsendable(),
        batch_size=None,
        num_workers=1,
        worker_init_fn=set_up_worker,
        multiprocessing_context="fork",
    )
    with (
        pytest.raises(UserError, match=r"room in /dev/shm\. Lower --NUM_WORKERS"),
        plain_faults(tmp_path),
    ):
        list(loader)

"""A process's place among others: its device, its seeds, what it alone does, what all agree on."""

import subprocess
import sys

import pytest
import torch

from captioning.system.errors import UserError
from captioning.system.runtime import Runtime, choose_device, stable_seed
from tests.helpers.one_of_many import OneOfMany, one_of


def test_each_process_and_step_has_random_numbers_of_its_own() -> None:
    def draw(seed: int, step: int, rank: int) -> list[float]:
        one_of(2, rank).seed_step(seed, step)
        return torch.rand(4).tolist()

    drawn = [draw(*place) for place in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0))]
    assert len({tuple(one) for one in drawn}) == 4
    assert draw(1, 2, 1) == drawn[1]
    assert stable_seed(1, 2, 1) == 7277291423512753476


def test_sums_go_on_with_as_many_processes_or_with_others() -> None:
    assert [one_of(2, rank).own_share([3.0, 4.0]) for rank in range(2)] == [3.0, 4.0]
    assert [one_of(3, rank).own_share([3.0, 4.0]) for rank in range(3)] == [7.0, 0.0, 0.0]
    assert one_of(1).own_share([]) == 0.0


def test_what_one_process_does_the_others_do_not() -> None:
    class Beside(OneOfMany):
        def gather(self, items: list[object]) -> list[object]:
            return [*items, "of the main process"][:1]

    calls: list[int] = []
    for rank in (0, 1):
        runtime = one_of(2, rank, Beside)
        assert runtime.is_main == (rank == 0)
        made = runtime.on_main(lambda rank=rank: calls.append(rank))
        assert made == (None if rank == 0 else "of the main process")
    assert calls == [0]


def test_an_interruption_of_another_process_is_raised_here() -> None:
    class Beside(OneOfMany):
        def max_over_processes(self, value: int) -> int:
            return max(value, 2)

    done = []
    with pytest.raises(MemoryError), one_of(2, kind=Beside).raise_in_all(KeyError, MemoryError):
        done.append(1)
    assert done
    with pytest.raises(KeyError), one_of(2).raise_in_all(KeyError, MemoryError):
        raise KeyError


def test_processes_of_a_machine_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for name, value in (("RANK", 6), ("LOCAL_RANK", 2), ("WORLD_SIZE", 8)):
        monkeypatch.setenv(name, str(value))
    runtime = Runtime.create()
    assert runtime == Runtime(torch.device("cuda", 2), torch.bfloat16, 6, 8)
    assert chosen == [runtime.device]
    assert choose_device("cuda:1", 2) == torch.device("cuda", 1)


HOLDS_A_LOADER = """
from torch.utils.data import DataLoader
from captioning.system.stopping import set_up_worker
loader = DataLoader(range(9), num_workers=1, worker_init_fn=set_up_worker)
numbers = iter(loader)
next(numbers)
raise SystemExit(5)
"""


def test_workers_that_set_up_worker_end_with_it() -> None:
    """As where an error is on its way, and holds what had been reading."""
    done = subprocess.run([sys.executable, "-c", HOLDS_A_LOADER], timeout=60)
    assert done.returncode == 5


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="no precision 'half'; write one of: auto, fp32, bf16"):
        Runtime.create("cpu", "half")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_is_freed_is_not_cleared_by_the_system_again() -> None:
    program = """
import resource, torch
from captioning.system.runtime import Runtime
Runtime.create("cpu")
layers = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.SiLU(), torch.nn.Conv2d(64, 8, 1))
pixels = torch.ones(8, 3, 224, 224)
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        layers(pixels)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(found.stdout) < 25, found.stderr  # 192 MiB are 49,288 pages, or 96 huge ones

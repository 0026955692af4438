"""Where a run computes: device, precision, processes, seeds. The only module that knows of ranks.

One process is the same code as many with a world of one. Under `torchrun` each process has its own
device and its share of the work; `gather`, `max_over_processes`, `average` and others speak with
the others. Plain values travel between processors, never by way of a GPU, so that nothing waits for
its device.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captioning.system.errors import UserError
from captioning.system.processes import partition, shared_store

Item = TypeVar("Item")
COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Others may wait long, while one prepares the data; that one has failed they learn otherwise."""


PRECISIONS = ("auto", "fp32", "bf16", "int8")


@dataclass(frozen=True)
class Runtime:
    """The device, the precision and this process's place among the processes."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    """What matrices are multiplied in: float32, or bfloat16 under autocast."""
    rank: int = 0
    world_size: int = 1
    int8: bool = False
    """Whether decoders that only caption multiply with their weights in 8-bit integers."""

    @classmethod
    def create(cls, device: str = "auto", precision: str = "auto") -> "Runtime":
        """Choose and prepare the device; join the other processes where `torchrun` started us."""
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = choose_device(device, local_rank if world_size > 1 else None)
        if precision not in PRECISIONS:
            raise UserError(
                f"there is no precision {precision!r}; write one of: {', '.join(PRECISIONS)}."
            )
        if precision == "int8" and chosen.type != "cpu":
            raise UserError(
                f"--precision int8 is for the CPU, not for {chosen}; write --device cpu"
            )
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
            torch.set_float32_matmul_precision("high")  # TF32
        elif sys.platform == "linux":
            keep_freed_memory()
        if world_size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
            dist.init_process_group(
                backend,
                store=shared_store("work"),
                rank=rank,
                world_size=world_size,
                timeout=COLLECTIVE_TIMEOUT,
            )
        has_bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        use_bf16 = precision == "bf16" or (precision == "auto" and has_bf16)
        dtype = torch.bfloat16 if use_bf16 else torch.float32
        return cls(chosen, dtype, rank, world_size, int8=precision == "int8")

    @property
    def is_main(self) -> bool:
        """Whether this process writes, logs and uploads."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    @property
    def description(self) -> str:
        """The hardware in a few words."""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            threads = torch.get_num_threads()
            name = f"{self.device.type}, {threads} thread{'s' * (threads != 1)}"
        precision = "bf16" if self.dtype is torch.bfloat16 else "fp32"
        precision += ", decoder in int8" * self.int8
        processes = f"{self.world_size} x " if self.world_size > 1 else ""
        return f"{processes}{name}, {precision}"

    @property
    def gpu_uuids(self) -> list[str]:
        """The names by which meters of energy know this process's GPU."""
        if self.device.type != "cuda":
            return []
        return [str(torch.cuda.get_device_properties(self.device).uuid)]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Run matrix products in `dtype`."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def memory_bytes(self) -> int:
        """Most device memory held so far, in bytes; 0 where the device does not tell."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.max_over_processes(0)

    def gather(self, items: list[Item]) -> list[Item]:
        """Items that were shared out as `items[rank::world_size]`, together again in their order.

        Every process gets the whole list.
        """
        if self.world_size == 1:
            return items
        parts: list[list[Item]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, items)
        whole: list[Item] = []
        for i in range(max(map(len, parts))):
            whole += [part[i] for part in parts if i < len(part)]
        return whole

    def max_over_processes(self, value: int) -> int:
        """The largest value of all processes."""
        if self.world_size == 1:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors the mean that they have over all processes."""
        if self.world_size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            mean = self.sum_over_processes(flat) / self.world_size
            parts = torch.split(mean, [tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def replica(self, module: nn.Module) -> nn.Module:
        """A module whose backward passes average the gradients of `module` over all processes.

        Begins with the main process's weights. Alone it is the module itself.
        """
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    @contextlib.contextmanager
    def raise_in_all(self, *interruptions: type[BaseException]) -> Iterator[None]:
        """Each process does its part of some work in the block; an interruption of one, of the
        given types, is raised in all at the block's end."""
        number = 0
        try:
            yield
        except interruptions as error:
            number = 1 + [isinstance(error, kind) for kind in interruptions].index(True)
        if number := self.max_over_processes(number):
            raise interruptions[number - 1]

    def on_main(self, make: Callable[[], Item]) -> Item:
        """What `make` gives in the main process, which alone calls it; every process gets it."""
        return self.gather([make()] if self.is_main else [])[0]

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes; changes `value`."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def shared(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of `items`; `gather` puts results back in order."""
        return items[self.rank :: self.world_size]

    def own_share(self, sums: Sequence[float]) -> float:
        """This process's part of sums that were gathered, by as many processes or by others."""
        if len(sums) == self.world_size:
            return sums[self.rank]
        return sum(sums, 0.0) if self.is_main else 0.0

    def fair_share(self, weights: Sequence[int] | NDArray[np.int64]) -> list[int]:
        """This process's share of weighted things, as their numbers in ascending order.

        Every process gets about the same weight; one may get nothing.
        """
        return partition(weights, self.world_size)[self.rank]

    def seed_step(self, seed: int, step: int) -> None:
        """Make this process's random numbers of a step (dropout) a function of (seed, step)."""
        torch.manual_seed(stable_seed(seed, step, self.rank))


def keep_freed_memory() -> None:
    """Have glibc keep memory that is freed, up to 2 GiB, for what is allocated next.

    Otherwise large tensors are new pages each time, which the system must clear: an EfficientNet
    spends more time on that than on its arithmetic (BENCHMARKS.md, "Features").
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another libc has none
    if mallopt is not None:
        m_mmap_threshold, m_trim_threshold = -3, -1  # <malloc.h>
        # An old glibc refuses more than 32 MiB.
        if mallopt(m_mmap_threshold, 1 << 30) or mallopt(m_mmap_threshold, 1 << 25):
            mallopt(m_trim_threshold, (1 << 31) - 1)


def choose_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """The device of a name; `auto` is cuda, else mps, else cpu. Raises `UserError`."""
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"DEVICE is {name!r}; write auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = device.index if device.index is not None else (local_rank or 0)
        if index >= count:
            raise UserError(
                f"DEVICE is {name!r}, but torch sees {count} CUDA devices here. "
                "Write --DEVICE auto, or install a CUDA build of torch."
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("DEVICE is 'mps', but torch has no MPS here; write --DEVICE auto.")
    if device.type not in ("cpu", "mps"):
        raise UserError(f"DEVICE is {name!r}; write auto, cpu, cuda, cuda:1 or mps.")
    return device


def stable_seed(*numbers: int) -> int:
    """One 63-bit seed of several numbers, the same on every machine."""
    low, high = np.random.SeedSequence(list(numbers)).generate_state(2)
    return int(low) | (int(high) & 0x7FFFFFFF) << 32

"""What captioning took: time, memory and, where meters are, energy.

    measuring = Measuring(device, gpu_uuids)
    ...
    effort = measuring.finish(captions=300)

Memory is the most that the device held, or on a processor the whole process; Linux alone can tell
that of a stretch of time, so elsewhere it is not known.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.tracking.energy import EnergyMeter

if TYPE_CHECKING:
    import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK = "VmHWM:"
"""The line of the most memory that a process held."""
FORGET_PEAK = "5"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What some captions took, from reading pictures to text."""

    captions: int
    seconds: float | None
    """None where it is not known, as of captions that another program wrote."""
    peak_memory_bytes: int | None = None
    memory_of: str = ""
    """Whose memory it is."""
    joules: float | None = None
    energy_sources: tuple[str, ...] = ()

    @property
    def captions_per_second(self) -> float | None:
        """How many a second."""
        return self.captions / self.seconds if self.seconds else None

    @property
    def joules_a_caption(self) -> float | None:
        """Energy of one."""
        return None if self.joules is None else self.joules / self.captions

    def to_json(self) -> dict[str, Any]:
        """What `metrics.json` holds of it."""
        return {"captions_per_second": self.captions_per_second, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Effort":
        """Of what `to_json` gave."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "energy_sources": tuple(known["energy_sources"])})

    def lines(self) -> dict[str, str]:
        """Label and value of what is known, for people."""
        found = {}
        if self.captions_per_second is not None:
            found["captions a second"] = f"{self.captions_per_second:.3g}"
        if self.peak_memory_bytes is not None:
            found["peak memory"] = f"{self.peak_memory_bytes / 2**20:,.0f} MiB {self.memory_of}"
        if self.joules_a_caption is not None:
            sources = ", ".join(self.energy_sources)
            found["energy a caption"] = f"{self.joules_a_caption:.3g} J ({sources})"
        return found


class Measuring:
    """Measures from the moment it is made."""

    def __init__(self, device: "torch.device", gpu_uuids: Iterable[str] = ()) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        self._can_tell = _forget_peak()
        self._energy = EnergyMeter(gpu_uuids)
        self._began = time.perf_counter()

    def finish(self, captions: int) -> Effort:
        """What was taken for so many captions."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
            memory, of = torch.cuda.max_memory_allocated(self._device), "of the GPU"
        else:
            memory, of = (_peak() if self._can_tell else 0), "of the whole process"
        return Effort(
            captions=captions,
            seconds=time.perf_counter() - self._began,
            peak_memory_bytes=memory or None,
            memory_of=of if memory else "",
            joules=self._energy.joules(),
            energy_sources=self._energy.sources,
        )


def _forget_peak() -> bool:
    """Let the process's peak begin anew; gives whether it did."""
    with suppress(OSError):
        CLEAR.write_text(FORGET_PEAK)
        return True
    return False


def _peak() -> int:
    """Most bytes that this process held."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(PEAK):
                return int(line.split()[1]) * 1024
    return 0

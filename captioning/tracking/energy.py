"""Energy that a run takes, from the meters of the hardware; nothing where there are none.

NVIDIA GPUs count it since the driver was loaded (NVML); Intel and AMD processors have a counter
that wraps around (RAPL; on most systems readable by root alone). Both count the whole device, so
other programs on it are counted too.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6


@dataclass
class Counter:
    """One meter: `read` gives microjoules since some moment in the past."""

    name: str
    read: Callable[[], int]
    range_microjoules: int = 0
    """Where the number wraps around to 0; 0 where it never does."""

    def __post_init__(self) -> None:
        self._before = self.read()

    def advance(self) -> float:
        """Joules since the last call."""
        before, self._before = self._before, self.read()
        grown = self._before - before
        return (grown if grown >= 0 else grown + self.range_microjoules) / 1e6


class EnergyMeter:
    """Adds up the energy of GPUs and processors from the moment it is made."""

    def __init__(
        self, gpu_uuids: Iterable[str] = (), *, joules: float = 0.0, powercap: Path = POWERCAP
    ) -> None:
        """Watch these GPUs (`torch.cuda.get_device_properties(i).uuid`) and all processors.

        `joules` is what earlier sessions of the run took.
        """
        self._joules = joules
        self._counters = [*_gpu_counters(gpu_uuids), *_processor_counters(powercap)]

    @property
    def sources(self) -> tuple[str, ...]:
        """What is measured; empty where nothing can be."""
        return tuple(counter.name for counter in self._counters)

    def joules(self) -> float | None:
        """The energy so far; None where nothing is measured.

        Call it every ten minutes or so: a processor's counter may wrap around within half an hour.
        """
        if not self._counters:
            return None
        self._joules += sum(counter.advance() for counter in self._counters)
        return self._joules


def _gpu_counters(uuids: Iterable[str]) -> Iterator[Counter]:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return
    if nvml.nvmlInit_v2() != 0:
        return
    for uuid in map(str, uuids):
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        if nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)) != 0:
            continue

        def read(handle: ctypes.c_void_p = handle, value: ctypes.c_ulonglong = millijoules) -> int:
            # A reading that fails leaves the last one in place.
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value))
            return value.value * 1000

        if read() > 0:
            yield Counter("GPU (NVML)", read)


def _processor_counters(powercap: Path) -> Iterator[Counter]:
    for zone in sorted(powercap.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") > 1:
            continue  # a part of a processor, counted in the whole already
        try:
            wraps_at = int((zone / "max_energy_range_uj").read_text())
            yield Counter("processor (RAPL)", _reader(zone / "energy_uj"), wraps_at)
        except (OSError, ValueError):
            continue


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text())

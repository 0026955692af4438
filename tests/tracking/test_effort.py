"""What captioning took."""

import json
import mmap

import pytest
import torch

from captioning.tracking import effort
from captioning.tracking.effort import Effort, Measuring


def test_memory_is_that_of_the_stretch_measured() -> None:
    if not effort._forget_peak():
        pytest.skip("the system does not tell the peak of a stretch of time")
    before = Measuring(torch.device("cpu"))
    with mmap.mmap(-1, 2**28) as block:  # pages of its own, given back at the end
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    large = before.finish(1)
    small = Measuring(torch.device("cpu")).finish(1)
    assert large.peak_memory_bytes - small.peak_memory_bytes > 2**27
    assert large.memory_of == "of the whole process"


def test_what_is_not_known_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "_forget_peak", lambda: False)
    found = Measuring(torch.device("cpu")).finish(5)
    assert found.peak_memory_bytes is None
    assert "peak memory" not in found.lines()
    assert Effort(captions=5, seconds=None).lines() == {}


def test_it_is_kept_as_json() -> None:
    one = Effort(captions=4, seconds=2.0, joules=8.0, energy_sources=("GPU (NVML)",))
    assert Effort.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.lines() == {"captions a second": "2", "energy a caption": "2 J (GPU (NVML))"}

"""An encoder in parts learns what a whole one learns, in every way that it is trained."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from config import parse_config
from encoder import VisionEncoder
from tests import sharded_steps
from tests.processes import outputs_of, start
from tests.small_runs import arguments

Found = dict[str, dict[str, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def found(place: Path) -> Found:
    """What both kinds of encoder have become, by way of training."""
    process = start([sharded_steps.__file__, place])
    output, problems = outputs_of(process)
    assert process.returncode == 0, output + problems
    return {
        way: {kind: load_file(place / f"{way} {kind}.safetensors") for kind in ("off", "on")}
        for way in sharded_steps.WAYS
    }


@pytest.mark.parametrize("way", sharded_steps.WAYS)
def test_weights_are_the_same_within_rounding(found: Found, way: str) -> None:
    whole, parts = found[way]["off"], found[way]["on"]
    assert whole.keys() == parts.keys()
    atol = 2e-3 if way in ("bf16", "both") else 2e-5
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=atol, msg=name)


def test_recomputed_activations_change_no_weight(found: Found) -> None:
    for kind in ("off", "on"):
        for name, tensor in found["fp32"][kind].items():
            torch.testing.assert_close(found["checkpointing"][kind][name], tensor)


def test_what_is_frozen_does_not_change_by_a_bit(found: Found, place: Path) -> None:
    before = VisionEncoder.from_settings(parse_config(arguments(place))).state_dict()
    for kind in ("off", "on"):
        after = found["last block"][kind]
        changed = {
            name for name, tensor in before.items() if not after[f"encoder.{name}"].equal(tensor)
        }
        assert changed
        assert all("layers.2." in name for name in changed), changed

"""An encoder in parts learns what a whole one learns, in every way that it is trained."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from config import parse_config
from encoder import VisionEncoder
from tests.helpers import sharded_steps
from tests.helpers.processes import outputs_of, start
from tests.helpers.small_runs import arguments

Found = dict[str, dict[str, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def found(place: Path) -> Found:
    """What both kinds of encoder have become, by way of training."""
    process = start(["-m", "tests.helpers.sharded_steps", place])
    output, problems = outputs_of(process)
    assert process.returncode == 0, output + problems
    return {
        way: {kind: load_file(place / f"{way} {kind}.safetensors") for kind in ("off", "on")}
        for way in sharded_steps.WAYS
    }


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all weights together."""
    names = [name for name in one if name.startswith(("model.", "encoder."))]
    flat = [torch.cat([found[name].flatten() for name in names]) for found in (one, other)]
    return float(torch.dist(*flat))


@pytest.mark.parametrize("way", ["fp32", "checkpointing", "last block"])
def test_weights_are_the_same_within_rounding(found: Found, way: str) -> None:
    whole, parts = found[way]["off"], found[way]["on"]
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("way", ["bf16", "both"])
def test_in_half_precision_parts_are_as_near_to_single_as_a_whole_is(
    found: Found, way: str
) -> None:
    exact = found["fp32"]["off"]
    whole, parts = (distance(found[way][kind], exact) for kind in ("off", "on"))
    assert 0 < parts < 1.5 * whole
    torch.testing.assert_close(found[way]["on"]["losses"], exact["losses"], rtol=1e-3, atol=0)


def test_recomputed_activations_change_no_weight(found: Found) -> None:
    for kind in ("off", "on"):
        once, twice = dict(found["fp32"][kind]), dict(found["checkpointing"][kind])
        assert twice.pop("computed") == 2 * once.pop("computed")
        assert all(tensor.equal(twice[name]) for name, tensor in once.items())


def test_what_is_frozen_does_not_change_by_a_bit(found: Found, place: Path) -> None:
    before = VisionEncoder.from_settings(parse_config(arguments(place))).state_dict()
    for kind in ("off", "on"):
        after = found["last block"][kind]
        changed = {
            name for name, tensor in before.items() if not after[f"encoder.{name}"].equal(tensor)
        }
        assert changed
        assert all("layers.2." in name for name in changed), changed

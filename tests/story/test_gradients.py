"""Several processes train as one does: the same gradient, each pair once, as exactly resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optimization
from captioning.system.runtime import Runtime
from dataset import Step, StepDataset
from optimization import BatchTooLargeError, CrossEntropy, Gradients, caption_loss
from tests.helpers.batches import (
    NoiseFeatures,
    PictureNumbers,
    captions_of,
    make_captions,
    make_step,
    vocabulary_model,
)
from tests.helpers.one_of_many import OneOfMany, one_of
from tests.helpers.processes import run_together
from tests.helpers.small_runs import (
    NOT_EXACT,
    differences,
    lines_of,
    run,
    weights_of,
)

SAME = {"DECODER_DROPOUT": 0, "LOG_INTERVAL": 1, "NUM_EPOCHS": 2}
MODES: dict[str, dict[str, object]] = {
    "cached": {},
    "accumulated": {"MICRO_BATCH_SIZE": 7},
    "more processes than pictures": {"BATCH_SIZE": 5, "NUM_EPOCHS": 1},
    "trained encoder": {
        "ENCODER_TRAINED_BLOCKS": -1,
        "ENCODER_LEARNING_RATE": "1e-3",
        "FEATURE_CACHE": "off",
        "CAPTIONS_PER_STEP": 2,
    },
}

ALWAYS = ("trained encoder",)
"""What every run of the tests looks at; the rest is slow."""


@pytest.mark.parametrize("batch_size", [2, 20])
def test_each_pair_is_trained_once_an_epoch_over_all_processes(batch_size: int) -> None:
    _, captions = make_captions([5, 1, 3, 2, 5, 4] * 3)
    plan = captions.plan(batch_size, captions_per_step=2, seed=1)

    def trained(world_size: int) -> Sequence[object]:
        found = []
        for rank in range(world_size):
            runtime = Runtime(torch.device("cpu"), rank=rank, world_size=world_size)
            steps = StepDataset(captions, plan, PictureNumbers(), 5, runtime.fair_share)
            for number in range(len(plan)):
                step = steps[number]
                true = sum(batch.num_tokens for batch in step.batches)
                assert step.num_tokens == true if world_size == 1 else step.num_tokens >= true
                found += [
                    (number, caption)
                    for batch in step.batches
                    for caption in captions_of(batch)
                    if step.weight
                ]
        return sorted(found)

    assert trained(1) == trained(2) == trained(5)
    assert len(trained(3)) == captions.num_captions


def gradient_of(processes: int, steps: StepDataset, rank: int) -> dict[str, Tensor]:
    """What a process has before the average, with an encoder that rests."""
    model, encoder = vocabulary_model(), nn.Linear(2, 2)
    step = steps[0]
    assert isinstance(step, Step)
    loss = Gradients(model, encoder, one_of(processes, rank), CrossEntropy(0.1)).add(step)
    assert encoder.weight.grad is None
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**own, "loss": loss * processes}


@pytest.mark.parametrize("processes", [2, 7])
def test_the_average_over_processes_is_the_gradient_of_one(processes: int) -> None:
    _, captions = make_captions([5, 3, 1, 4, 5, 2])
    plan = captions.plan(20, seed=1)
    assert plan.groups(0).stop < 7  # so that one of seven has none
    alone = gradient_of(1, StepDataset(captions, plan, NoiseFeatures()), 0)
    found = [
        gradient_of(
            processes,
            StepDataset(captions, plan, NoiseFeatures(), 6, one_of(processes, rank).fair_share),
            rank,
        )
        for rank in range(processes)
    ]
    for name, whole in alone.items():
        mean = torch.stack([own[name] for own in found]).mean(0)
        torch.testing.assert_close(mean, whole, rtol=1e-4, atol=1e-5, msg=name)


def test_what_batch_norm_has_seen_is_averaged_over_processes() -> None:
    averaged: list[Tensor] = []

    class Averaging(OneOfMany):
        def average(self, tensors: Sequence[Tensor]) -> None:
            averaged[:] = tensors

    encoder = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3).requires_grad_(False)])
    runtime = one_of(2, kind=Averaging)
    gradients = Gradients(vocabulary_model(), encoder, runtime, CrossEntropy(0))
    averaged.clear()
    gradients.add(make_step())
    trained = encoder[0]
    assert [id(one) for one in averaged] == [id(trained.running_mean), id(trained.running_var)]


def test_memory_that_another_process_lacks_gives_the_step_up_here_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Beside(OneOfMany):
        def max_over_processes(self, value: int) -> int:
            return max(value, 9)

    model, encoder = vocabulary_model(), nn.BatchNorm2d(3)

    def loss(*arguments: Any) -> Tensor:
        assert encoder.running_mean is not None
        encoder.running_mean += 1
        return caption_loss(*arguments)

    monkeypatch.setattr(optimization, "caption_loss", loss)
    gradients = Gradients(model, encoder, one_of(2, kind=Beside), CrossEntropy(0))
    with pytest.raises(BatchTooLargeError) as caught:
        gradients.add(make_step())
    assert caught.value.num_captions == 9
    assert all(parameter.grad is None for parameter in model.parameters())
    assert encoder.running_mean is not None
    assert not encoder.running_mean.any()


@pytest.mark.parametrize(
    "mode",
    [
        name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow, id=name)
        for name in MODES
    ],
)
def test_two_processes_train_as_one_does(place: Path, mode: str) -> None:
    settings = {**SAME, **MODES[mode]}
    one = run(place, RUN_NAME=f"one {mode}", **settings)
    two = run_together(place, RUN_NAME=f"two {mode}", **settings)
    curves = [lines_of(folder / "metrics.jsonl") for folder in (one, two)]
    for alone, together in zip(*curves, strict=True):
        assert together["step"] == alone["step"]
        for name in {"loss", "gradient_norm", "validation_loss"} & alone.keys():
            assert together[name] == pytest.approx(alone[name], rel=2e-5)
    first, second = weights_of(one / "last"), weights_of(two / "last")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_two_processes_give_the_same_run_twice(place: Path) -> None:
    first = run_together(place, RUN_NAME="first")
    second = run_together(place, RUN_NAME="second")
    assert differences(first / "last", second / "last") == []
    one, other = (lines_of(folder / "metrics.jsonl", NOT_EXACT) for folder in (first, second))
    assert one == other


@pytest.mark.slow
def test_an_encoder_in_parts_is_trained_like_a_whole_one(place: Path) -> None:
    settings = {
        **SAME,
        "ENCODER_TRAINED_BLOCKS": -1,
        "ENCODER_LEARNING_RATE": "1e-3",
        "MICRO_BATCH_SIZE": 7,
        "SAVE_INTERVAL": 3,
    }
    whole = run(place, RUN_NAME="not sharded", **settings)
    parts = run_together(place, RUN_NAME="sharded", SHARDING="on", **settings)
    for kind in ("best", "last"):
        names = {path.name for path in (whole / kind).iterdir()}
        assert {path.name for path in (parts / kind).iterdir()} == names
    first, second = weights_of(whole / "last"), weights_of(parts / "last")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=2e-5, msg=name)
    curves = [lines_of(folder / "metrics.jsonl") for folder in (whole, parts)]
    for one, other in zip(*curves, strict=True):
        for name in {"loss", "gradient_norm", "validation_loss", "CIDEr"} & one.keys():
            assert other[name] == pytest.approx(one[name], rel=2e-5)
    longer = {**settings, "NUM_EPOCHS": 3, "RESUME_CHECKPOINT_PATH": "auto", "SHARDING": "on"}
    again = run_together(place, RUN_NAME="sharded", **longer)
    assert lines_of(again / "metrics.jsonl")[-1]["epoch"] == 3
    alone = run(place, RUN_NAME="sharded", **{**longer, "NUM_EPOCHS": 4})
    assert lines_of(alone / "metrics.jsonl")[-1]["epoch"] == 4

"""Recorded passes: the same gradients in one of few shapes; what came twice is recorded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captioning.system.runtime import Runtime
from captioning.training.recording import CudaGraphs
from dataset import NO_TOKEN, Step, StepDataset
from optimization import BatchTooLargeError, CrossEntropy, Gradients, caption_loss
from tests.helpers.batches import TOKENIZER, NoiseFeatures, make_captions
from tests.helpers.models import make_model

CPU = torch.device("cpu")


class Tape:
    """In the place of a CUDA graph: does the recorded call again."""

    def __init__(self, is_full: bool = False, fails_at_end: bool = False) -> None:
        self.calls, self._is_full, self._fails_at_end = 0, is_full, fails_at_end

    def end(self) -> None:
        """As a CUDA graph's end may."""
        if self._fails_at_end:
            raise RuntimeError("operation failed due to a previous error during capture")

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        if self._is_full:
            try:
                raise torch.OutOfMemoryError
            finally:
                self.end()
        self.calls += 1
        value = torch.zeros(())
        return lambda: value.copy_(run()), value


def steps_of(batch_size: int, micro_batch_size: int = 0) -> Sequence[Step]:
    _, captions = make_captions([5, 1, 3, 2, 5, 4, 2] * 3)
    plan = captions.plan(batch_size, seed=1)
    dataset = StepDataset(captions, plan, NoiseFeatures(), micro_batch_size)
    return [step for step in map(dataset.__getitem__, range(len(dataset))) if type(step) is Step]


def model_and_gradients(record: Tape | None = None) -> tuple[Any, Gradients]:
    model = make_model(vocabulary=len(TOKENIZER)).train()
    objective = CrossEntropy(0.1)
    identity: Any = nn.Identity()
    gradients = Gradients(model, identity, Runtime(CPU), objective, records=bool(record))
    if gradients._recorded and record:
        gradients._recorded._record = record
    return model, gradients


def found(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("batch_size", [3, 11, 40])
def test_a_batch_rounded_up_has_the_same_loss_and_gradient(batch_size: int) -> None:
    model = make_model(vocabulary=len(TOKENIZER))
    for step in steps_of(batch_size):
        (batch,) = step.batches
        rounded = batch.rounded_up()
        assert (rounded.targets == NO_TOKEN).sum() == rounded.num_tokens - batch.num_tokens
        assert len(rounded.picture_rows) % 4 == rounded.packing.length % 8 == 0
        slots = rounded.packing.slots
        assert slots is not None
        assert len(set(slots.tolist())) == rounded.num_tokens
        losses, gradients = [], []
        for one in (batch, rounded):
            loss = caption_loss(model, one.content, one, 0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            gradients.append(found(model))
            model.zero_grad()
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_shapes_become_few() -> None:
    _, captions = make_captions([5] * 50)
    plans = (captions.plan(60, seed=seed) for seed in range(20))
    batches = [
        captions.collate_fn(plan, plan.groups(number), NoiseFeatures())
        for plan in plans
        for number in range(len(plan) - 1)
    ]
    assert len({batch.shape for batch in batches}) > 30
    assert len({batch.rounded_up().shape for batch in batches}) <= 8


@pytest.mark.parametrize("micro_batch_size", [0, 7])
def test_recorded_steps_have_the_gradients_of_others(micro_batch_size: int) -> None:
    tape = Tape()
    plain_model, plain = model_and_gradients()
    model, recorded = model_and_gradients(tape)
    for step in [*steps_of(11, micro_batch_size)] * 2:
        loss, expected = recorded.add(step), plain.add(step)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(found(model), found(plain_model), rtol=1e-4, atol=1e-5)
        recorded.drop()
        plain.drop()
    assert tape.calls


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    tape = Tape()
    _, gradients = model_and_gradients(tape)
    one, other = steps_of(11)[:2]
    for step, recorded in ((one, 0), (other, 0), (one, 1), (one, 1), (other, 2)):
        gradients.add(step)
        gradients.drop()
        assert tape.calls == recorded


def test_a_recording_has_memory_of_its_own() -> None:
    model, gradients = model_and_gradients(Tape())
    one, other = (replace(steps_of(11)[0]) for _ in range(2))
    noise = torch.randn_like(one.batches[0].content)
    other = replace(other, batches=[replace(other.batches[0], content=noise)])
    kept = one.batches[0].content.clone()
    for step in (one, one, other, one):
        gradients.drop()
        gradients.add(step)
    assert one.batches[0].content.equal(kept)
    assert other.batches[0].content.equal(noise)
    plain_model, plain = model_and_gradients()
    plain.add(one)
    torch.testing.assert_close(found(model), found(plain_model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fails_at_end", [False, True])
def test_where_memory_is_short_for_a_recording_nothing_is_recorded_any_more(
    *, fails_at_end: bool
) -> None:
    step = steps_of(11)[0]
    model, gradients = model_and_gradients(Tape(is_full=True, fails_at_end=fails_at_end))
    plain_model, plain = model_and_gradients()
    for _ in range(3):
        gradients.drop()
        gradients.add(step)
    assert gradients._recorded is not None
    assert not gradients._recorded.is_recording
    plain.add(step)
    torch.testing.assert_close(found(model), found(plain_model), rtol=1e-4, atol=1e-5)


def test_a_step_that_does_not_fit_gives_the_recordings_memory_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = steps_of(11)[0]
    model, gradients = model_and_gradients(Tape())
    assert gradients._recorded is not None
    for _ in range(2):
        gradients.add(step)
    assert gradients._recorded.recordings

    def too_large(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gradients._recorded, "_run", too_large)
    with pytest.raises(BatchTooLargeError):
        gradients.add(steps_of(12)[0])
    assert not gradients._recorded.is_recording
    assert not gradients._recorded.recordings
    assert not found(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_replays_what_it_recorded() -> None:
    graphs, x = CudaGraphs(), torch.ones(3, device="cuda")
    replay, value = graphs(lambda: 2 * x.sum())
    for number in (1.0, 2.0):
        x.fill_(number)
        replay()
        assert value.item() == 6 * number

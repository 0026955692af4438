"""Schedule, decay, loss per true token, accumulation."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import optimization
from captioning.system.runtime import Runtime
from dataset import NO_TOKEN, Batch, Step
from encoder import VisionEncoder
from optimization import (
    BatchTooLargeError,
    CrossEntropy,
    Gradients,
    Schedule,
    build_optimizer,
    caption_loss,
    set_learning_rate,
    train_step,
)
from tests.helpers.batches import (
    TOKENIZER,
    NoiseFeatures,
    make_captions,
    make_step,
    vocabulary_model,
)
from tests.helpers.models import make_model
from tests.helpers.tiny_encoders import saved

RUNTIME = Runtime(torch.device("cpu"))
SMOOTHED = CrossEntropy(0.1)


def make_optimizer(model: nn.Module, encoder: nn.Module | None = None, **settings: Any) -> Any:
    values = {
        "learning_rate": 1e-2,
        "encoder_learning_rate": 1e-3,
        "weight_decay": 0.1,
        "betas": (0.9, 0.98),
        "eps": 1e-8,
    } | settings
    return build_optimizer(model, encoder or nn.Identity(), **values)


def test_the_schedule_warms_up_then_falls_to_zero() -> None:
    schedule = Schedule(total_steps=1000, warmup_steps=100)
    factors = [schedule.factor(step) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 101)
    assert factors[100] == 1.0 == max(factors)
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert factors[550] == pytest.approx(0.5)
    assert factors[-1] < 1e-5
    assert schedule.factor(5000) == 0.0


def test_warm_up_is_at_most_a_tenth_of_the_run() -> None:
    assert Schedule(total_steps=100, warmup_steps=1000).factor(10) == 1.0


def test_matrices_decay_and_vectors_do_not() -> None:
    model = make_model()
    encoder = nn.Linear(3, 3)
    optimizer = make_optimizer(model, encoder)
    decayed = {p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    kept = {p for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    named = dict(model.named_parameters())
    assert named["decoder.embedding.weight"] in decayed
    assert named["decoder.blocks.0.feed_forward.0.weight"] in decayed
    assert named["decoder.blocks.0.feed_forward.0.bias"] in kept
    assert named["decoder.norm.weight"] in kept
    assert named["projection.positions"] in kept
    assert decayed | kept == {*model.parameters(), *encoder.parameters()}
    assert set_learning_rate(optimizer, 0.5) == 5e-3
    assert {g["lr"] for g in optimizer.param_groups if encoder.weight in set(g["params"])} == {5e-4}


@pytest.mark.parametrize("family", ["clip", "vit", "swin", "dinov2", "convnext", "beit"])
def test_tables_added_to_tokens_do_not_decay(family: str, tmp_path: Path) -> None:
    encoder = VisionEncoder.from_pretrained(saved(tmp_path, family), trained_blocks=-1)
    optimizer = make_optimizer(make_model(), encoder)
    decayed = {p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    maps = (nn.Linear, nn.Conv2d)
    weights = {module.weight for module in encoder.modules() if isinstance(module, maps)}
    assert {p for p in encoder.parameters() if p in decayed} == {
        weight for weight in weights if weight.requires_grad
    }


def test_a_frozen_encoder_is_not_optimised() -> None:
    model, encoder = make_model(), nn.Linear(3, 3).requires_grad_(False)
    optimizer = make_optimizer(model, encoder)
    assert {p for g in optimizer.param_groups for p in g["params"]} == set(model.parameters())


def test_the_loss_is_summed_over_true_tokens() -> None:
    model = vocabulary_model()
    (batch,) = make_step().batches
    logits = model(batch.content, batch.inputs, batch.positions, batch.packing)
    by_hand = -logits.log_softmax(-1)[torch.arange(batch.num_tokens), batch.targets].sum()
    torch.testing.assert_close(caption_loss(model, batch.content, batch, 0.0), by_hand)
    smoothed = 0.9 * by_hand - 0.1 * logits.log_softmax(-1).mean(-1).sum()
    torch.testing.assert_close(caption_loss(model, batch.content, batch, 0.1), smoothed)


def test_a_token_without_a_target_counts_for_nothing() -> None:
    model = vocabulary_model()
    (batch,) = make_step().batches
    targets = batch.targets.clone()
    targets[0] = NO_TOKEN
    fewer = SimpleNamespace(**{**vars(batch), "targets": targets})
    lost = caption_loss(model, batch.content, batch, 0.0) - caption_loss(
        model,
        batch.content,
        fewer,
        0.0,
    )
    logits = model(batch.content, batch.inputs, batch.positions, batch.packing)
    expected = -logits.log_softmax(-1)[0, batch.targets[0]]
    torch.testing.assert_close(lost, expected, rtol=1e-4, atol=1e-4)


def make_gradients(model: Any, objective: Any = SMOOTHED) -> Gradients:
    encoder: Any = nn.Identity()
    return Gradients(model, encoder, RUNTIME, objective)


def run_step(model: Any, step: Step, clip_norm: float = 0.0, **settings: Any) -> Any:
    optimizer = make_optimizer(model, **settings)
    return train_step(make_gradients(model), optimizer, step, clip_norm=clip_norm)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    whole, pieces = vocabulary_model(), vocabulary_model()
    first = run_step(whole, make_step())
    second = run_step(pieces, make_step(micro_batch_size=6))
    assert len(make_step(micro_batch_size=6).batches) > 2
    assert first.count == second.count
    assert first.num_captions == second.num_captions == 20
    torch.testing.assert_close(first.loss_sum, second.loss_sum)
    torch.testing.assert_close(first.gradient_norm, second.gradient_norm)
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_step_without_memory_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = vocabulary_model(), []

    def small_loss(model: Any, features: Any, batch: Batch, label_smoothing: float) -> Any:
        calls.append(batch.num_captions)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return caption_loss(model, features, batch, label_smoothing)

    monkeypatch.setattr(optimization, "caption_loss", small_loss)
    gradients = make_gradients(model)
    optimizer = make_optimizer(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = make_step(micro_batch_size=6)
    with pytest.raises(BatchTooLargeError) as caught:
        train_step(gradients, optimizer, step, clip_norm=1.0)
    assert caught.value.num_captions == calls[2] == step.batches[2].num_captions
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert parameter.grad is None
        assert parameter.equal(old)
    assert not optimizer.state


def test_clipping_bounds_the_gradient_and_reports_it_unclipped() -> None:
    free, clipped = vocabulary_model(), vocabulary_model()
    settings = {"eps": 1e3, "weight_decay": 0.0}  # with a huge eps the update is the gradient
    before = [p.detach().clone() for p in free.parameters()]
    norm = run_step(free, make_step(), **settings).gradient_norm.item()
    reported = run_step(clipped, make_step(), clip_norm=norm / 4, **settings).gradient_norm.item()
    assert reported == pytest.approx(norm, rel=1e-5)

    def moved(model: Any) -> float:
        squares = [
            (p.detach() - b).square().sum().item()
            for p, b in zip(model.parameters(), before, strict=True)
        ]
        return math.sqrt(sum(squares))

    assert moved(clipped) == pytest.approx(moved(free) / 4, rel=1e-2)


def test_it_overfits_eight_pictures() -> None:
    torch.manual_seed(0)
    records, captions = make_captions([1] * 8)
    plan = captions.plan(8)
    batch = captions.collate_fn(plan, plan.groups(0), NoiseFeatures())
    model = vocabulary_model()
    optimizer = make_optimizer(model, learning_rate=1e-2, weight_decay=0.0)
    encoder: Any = nn.Identity()
    gradients = make_gradients(model, CrossEntropy(0.0))
    step = Step([batch], batch.num_tokens, batch.num_captions)
    for _ in range(150):
        result = train_step(gradients, optimizer, step, clip_norm=1.0)
    assert result.loss_sum.item() / batch.num_tokens < 0.01

    from captioning.decoding import SearchOptions
    from pipeline import CaptionPipeline

    pipeline = CaptionPipeline(encoder, model.eval(), TOKENIZER, RUNTIME, 12)
    for options in (SearchOptions(method="greedy"), SearchOptions(method="beam", beam_size=3)):
        found = pipeline.captions(pipeline.features(batch.content), options)
        assert [one[0].text for one in found] == [record.captions[0] for record in records]
        assert min(one[0].confidence for one in found) > 0.9

"""Self-critical training: an unbiased gradient of the expected reward, however it is cut."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captioning.decoding import TokenRules
from captioning.system.runtime import Runtime
from captioning.training.packing import Packing
from captioning.training.reward import CiderReward, Written
from dataset import Batch, Step, StepDataset
from model import CaptionModel
from optimization import Gradients, Objective, SelfCritical, build_optimizer, train_step
from tests.helpers.batches import TOKENIZER, NoiseFeatures, make_captions, vocabulary_model
from tests.helpers.models import make_model

RUNTIME = Runtime(torch.device("cpu"))
END = TOKENIZER.end_id
WORDS = (4, 5)
"""What the smallest vocabulary holds beside the special tokens."""
RULES = TokenRules(start_id=1, end_id=END, max_length=2, forbidden_ids=(0, 1, 3))


class TwoWords:
    """Ids as text: the caption (4, 5) is "4 5"."""

    pad_id, start_id, end_id, unk_id = range(4)

    def decode(self, ids: Sequence[int]) -> str:
        """Words alone."""
        return " ".join(str(i) for i in ids if i > 3)


def worth(written: Written) -> float:
    """An arbitrary reward, which depends on words, their order and the end."""
    return len(written.text) + 2.0 * written.text.startswith("5") + 0.5 * written.ended


def rewards_of(captions: Sequence[Written], _: object) -> NDArray[np.float64]:
    return np.array([worth(one) for one in captions])


def make_objective(reward: Any, samples: int, **settings: Any) -> SelfCritical:
    tokenizer: Any = TwoWords()
    return SelfCritical(reward, tokenizer, RULES, samples, **settings)


def expected_reward(model: CaptionModel, features: Tensor) -> Tensor:
    """The sum over all captions of their probability times their reward."""
    captions = [(END,), *((a, END) for a in WORDS), *((a, b) for a in WORDS for b in WORDS)]
    total = torch.zeros(())
    for caption in captions:
        ids = torch.tensor([1, *caption[:-1]])
        logits = model(features, ids, torch.arange(len(ids)), Packing(1, len(ids)))
        logits[:, [0, 1, 3]] = -math.inf
        likely = logits.log_softmax(-1)[torch.arange(len(caption)), list(caption)].sum()
        text = TwoWords().decode(caption)
        total = total + likely.exp() * worth(Written(text, caption[-1] == END))
    return total


def gradient_of(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def one_picture(times: int, samples: int) -> Step:
    """A step that holds the same picture many times, each with one caption."""
    content = torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(4))
    ones = torch.ones(times, dtype=torch.long)
    batch = Batch(
        picture_rows=torch.arange(times),
        content=content.expand(times, -1, -1),
        inputs=ones,
        targets=ones * END,
        positions=ones * 0,
        packing=Packing(times, 1, torch.arange(times)),
        num_captions=times * samples,
    )
    return Step([batch], batch.num_tokens, batch.num_captions)


def test_the_gradient_is_that_of_the_expected_reward_over_all_captions() -> None:
    model = make_model(vocabulary=6)
    step = one_picture(times=1500, samples=6)
    expected = expected_reward(model, step.batches[0].content[:1])
    torch.autograd.backward(-expected)
    exact = gradient_of(model)
    model.zero_grad()
    torch.manual_seed(1)
    losses = make_objective(rewards_of, 6)(model, step.batches[0].content, step.batches[0], step)
    torch.autograd.backward(losses.share)
    estimate = gradient_of(model)
    assert torch.cosine_similarity(exact, estimate, dim=0) > 0.99
    assert (estimate.norm() / exact.norm()).item() == pytest.approx(1, abs=0.05)
    assert losses.total.item() / step.num_captions == pytest.approx(expected.item(), rel=0.02)


def test_samples_that_are_worth_the_same_teach_nothing() -> None:
    model = make_model(vocabulary=6)
    step = one_picture(times=4, samples=3)
    objective = make_objective(lambda captions, _: np.full(len(captions), 7.0), 3)
    losses = objective(model, step.batches[0].content, step.batches[0], step)
    torch.autograd.backward(losses.share)
    assert gradient_of(model).abs().max() < 1e-6


def test_beams_are_the_likeliest_captions_whatever_the_seed() -> None:
    model = make_model(vocabulary=6)
    step = one_picture(times=1, samples=7)
    losses, gradients = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model.zero_grad()
        objective = make_objective(rewards_of, 7, search="beam")
        losses.append(objective(model, step.batches[0].content, step.batches[0], step))
        torch.autograd.backward(losses[-1].share)
        gradients.append(gradient_of(model))
    captions = [(END,), *((a, END) for a in WORDS), *((a, b) for a in WORDS for b in WORDS)]
    texts = [Written(TwoWords().decode(ids), ids[-1] == END) for ids in captions]
    assert losses[0].total.item() == pytest.approx(sum(map(worth, texts)))  # seven beams find all
    assert gradients[0].equal(gradients[1])
    assert gradients[0].norm() > 0


def cider_objective(records: Any, **settings: Any) -> SelfCritical:
    rules = TokenRules(start_id=1, end_id=END, max_length=11, forbidden_ids=(0, 1, 3))
    reward = CiderReward([record.captions for record in records])
    return SelfCritical(reward, TOKENIZER, rules, samples=4, **settings)


def sampled_step(captions: Any, micro_batch_size: int = 0) -> Step:
    plan = captions.plan(24, seed=1, samples=4)
    step = StepDataset(captions, plan, NoiseFeatures(), micro_batch_size)[0]
    assert isinstance(step, Step)
    return step


def test_a_plan_gives_each_picture_its_samples_and_all_of_its_captions() -> None:
    _, captions = make_captions([5, 3, 1, 4, 5, 2, 0, 9])
    plan = captions.plan(12, seed=1, samples=4)
    assert [len(range(*plan.groups(step).indices(99))) for step in range(len(plan))] == [3, 3, 1]
    assert sorted(plan.pictures) == [0, 1, 2, 3, 4, 5, 7]
    assert sorted(plan.captions) == list(range(29))
    assert [len(one.batches) for one in (sampled_step(captions), sampled_step(captions, 4))] == [
        1,
        6,
    ]


def test_micro_batches_sample_what_the_whole_step_samples() -> None:
    records, captions = make_captions([5, 3, 1, 4, 5, 2])
    found = []
    for micro_batch_size in (0, 8):
        model = vocabulary_model()
        encoder: Any = nn.Identity()
        gradients = Gradients(model, encoder, RUNTIME, cider_objective(records, cross_entropy=0.3))
        torch.manual_seed(3)
        total = gradients.add(sampled_step(captions, micro_batch_size))
        found.append((total, gradient_of(model)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_the_reward_rises() -> None:
    records, captions = make_captions([3] * 6)
    model, encoder = vocabulary_model(), nn.Identity()
    optimizer = build_optimizer(
        model,
        encoder,
        learning_rate=3e-3,
        encoder_learning_rate=0.0,
        weight_decay=0.0,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    objective: Objective = cider_objective(records)
    gradients = Gradients(model, encoder, RUNTIME, objective)
    rewards = []
    for number in range(60):
        torch.manual_seed(number)
        result = train_step(gradients, optimizer, sampled_step(captions), clip_norm=1.0)
        rewards.append(result.loss_sum.item() / result.count)
    assert np.mean(rewards[-10:]) > 2 * np.mean(rewards[:10])
    assert model.training


def test_references_are_read_back_from_the_tokens() -> None:
    records, captions = make_captions([5, 3, 1, 4, 5, 2])
    objective = cider_objective(records)
    (batch,) = sampled_step(captions).batches
    for row, texts in zip(batch.picture_rows, objective._references(batch), strict=True):
        assert {one.text for one in texts} == {
            TOKENIZER.decode(TOKENIZER.encode(text, 12)) for text in records[row].captions
        }


def test_the_end_counts_as_a_word_of_the_reward() -> None:
    reward = CiderReward([["a dog runs"], ["a cat sits"], ["a dog sits"]])
    references = [[Written("a dog runs", True)]]
    whole, cut = (reward([Written("a dog runs", ended)], references)[0] for ended in (True, False))
    assert whole > cut > 0
    assert whole == pytest.approx(10.0)

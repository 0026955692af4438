"""Batches: each pair once, captions with their picture, an order of seed and epoch, no padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captioning.sources.records import Record
from dataset import CaptionDataset, Plan, StepDataset, iterate_steps, plan_epoch
from tests.helpers.batches import TOKENIZER, PictureNumbers, captions_of, make_captions


def groups_of(plan: Plan) -> list[tuple[int, tuple[int, ...]]]:
    bounds = plan.group_starts
    return [
        (int(picture), tuple(plan.captions[bounds[i] : bounds[i + 1]].tolist()))
        for i, picture in enumerate(plan.pictures)
    ]


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=40),
    st.integers(1, 20),
    st.integers(0, 4),
    st.none() | st.integers(0, 3),
    st.integers(0, 3),
)
def test_each_pair_is_dealt_out_once(
    counts: list[int], batch_size: int, together: int, seed: int | None, epoch: int
) -> None:
    plan = plan_epoch(
        counts, batch_size=batch_size, captions_per_step=together, seed=seed, epoch=epoch
    )
    owner = np.repeat(np.arange(len(counts)), counts)
    assert sorted(plan.captions.tolist()) == list(range(sum(counts)))
    for picture, captions in groups_of(plan):
        assert 0 < len(captions) <= min(together or batch_size, batch_size)
        assert {int(owner[caption]) for caption in captions} == {picture}
    for step in range(len(plan)):
        groups = plan.groups(step)
        size = plan.group_starts[groups.stop] - plan.group_starts[groups.start]
        assert 0 < size <= batch_size
    assert len(plan) == 0 or plan.step_starts[-1] == len(plan.pictures)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    counts = [5] * 30

    def order(seed: int | None, epoch: int) -> list[int]:
        return plan_epoch(counts, batch_size=20, seed=seed, epoch=epoch).captions.tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert order(None, 0) == list(range(150))


def test_a_pictures_captions_share_a_step() -> None:
    plan = plan_epoch([5] * 20, batch_size=32, seed=0)
    assert sorted(picture for picture, _ in groups_of(plan)) == list(range(20))
    paired = plan_epoch([5] * 20, batch_size=32, captions_per_step=2, seed=0)
    assert sorted(len(captions) for _, captions in groups_of(paired)) == [1] * 20 + [2] * 40
    # Which captions go together changes from epoch to epoch.
    later = plan_epoch([5] * 20, batch_size=32, captions_per_step=2, seed=0, epoch=1)
    assert {frozenset(c) for _, c in groups_of(paired)} != {
        frozenset(c) for _, c in groups_of(later)
    }


def test_a_batch_holds_each_caption_whole_with_its_picture() -> None:
    records, captions = make_captions([5, 1, 3, 2, 5, 4])
    plan = captions.plan(8, seed=3)
    seen = []
    for step in range(len(plan)):
        batch = captions.collate_fn(plan, plan.groups(step), PictureNumbers())
        assert batch.content.flatten().tolist() == batch.picture_rows.tolist()
        for picture, inputs, targets in captions_of(batch):
            assert inputs[1:] == targets[:-1]
            seen.append((picture, [*inputs, targets[-1]]))
    expected = [
        (picture, TOKENIZER.encode(caption, 12))
        for picture, record in enumerate(records)
        for caption in record.captions
    ]
    assert sorted(seen) == sorted(expected)


def test_no_token_is_padding() -> None:
    _, captions = make_captions([5] * 10)
    plan = captions.plan(50, seed=0)
    batch = captions.collate_fn(plan, plan.groups(0), PictureNumbers())
    assert (batch.targets != TOKENIZER.pad_id).all()
    assert (batch.inputs != TOKENIZER.pad_id).all()
    assert batch.num_tokens == sum(len(inputs) for _, inputs, _ in captions_of(batch))
    assert batch.num_captions == 50


def test_micro_batches_are_the_step_in_pieces() -> None:
    _, captions = make_captions([5] * 12)
    plan = captions.plan(30, seed=1)
    (whole,) = StepDataset(captions, plan, PictureNumbers())[1].batches
    pieces = StepDataset(captions, plan, PictureNumbers(), micro_batch_size=10)[1].batches
    assert [piece.num_captions for piece in pieces] == [10, 10, 10]
    assert [c for piece in pieces for c in captions_of(piece)] == captions_of(whole)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_a_picture_larger_than_a_micro_batch_stands_alone(micro_batch_size: int) -> None:
    _, captions = make_captions([5, 3, 5, 1, 1])
    steps = StepDataset(captions, captions.plan(15), PictureNumbers(), micro_batch_size)
    pieces = steps[0].batches
    alone = [5, 3, 5, 1, 1] if micro_batch_size == 1 else [5, 3, 5, 2]
    assert [piece.num_captions for piece in pieces] == alone


def test_captions_that_are_cut_are_counted() -> None:
    records = [
        Record(Path("a.jpg"), ("a dog", "a dog " * 10)),
        Record(Path("b.jpg"), ("cat " * 9,)),
    ]
    captions = CaptionDataset(records, TOKENIZER, 6, mirrored=records)
    assert captions.num_cut == 2
    assert captions.longest == len(TOKENIZER.encode("a dog " * 10))
    assert CaptionDataset(records, TOKENIZER, captions.longest).num_cut == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_steps_come_in_order_from_where_they_are_asked(num_workers: int) -> None:
    _, captions = make_captions([5] * 40)
    plan = captions.plan(20, seed=1)
    steps = StepDataset(captions, plan, PictureNumbers())
    before = torch.get_rng_state()
    found = [
        step.batches[0].picture_rows.tolist()
        for step in iterate_steps(steps, first=4, num_workers=num_workers)
    ]
    assert found == [plan.pictures[plan.groups(step)].tolist() for step in range(4, len(plan))]
    assert torch.get_rng_state().equal(before)

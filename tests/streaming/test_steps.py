"""Steps of a stream: whole pictures, every sample once a pass, weights, bad samples, exact."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from captioning.sources.images import load_image
from captioning.streaming.shards import find_sources
from captioning.streaming.steps import StreamSettings, StreamSteps, stream_fingerprint
from captioning.system.errors import UserError
from dataset import Step, step_of
from tests.helpers.one_of_many import OneOfMany, one_of
from tests.helpers.streams import (
    captions,
    picture,
    pixels,
    write_parquet,
    write_shards,
    write_tar,
    write_webdataset,
)
from tokenizer import train_tokenizer

SETTINGS = StreamSettings(
    batch_size=12,
    steps_per_epoch=5,
    seed=7,
    captions_per_step=0,
    max_bad_fraction=0.01,
    num_workers=0,
)
TOKENIZER = train_tokenizer([text for n in range(50) for text in captions(n)], 300)


def stream(
    text: str,
    rank: int = 0,
    processes: int = 1,
    position: str = "",
    kind: type[OneOfMany] = OneOfMany,
    **changes: Any,
) -> StreamSteps[Step]:
    runtime = one_of(processes, rank, kind)
    settings = replace(SETTINGS, **changes)
    make = partial(step_of, tokenizer=TOKENIZER, max_length=40, runtime=runtime)
    return StreamSteps(find_sources(text), pixels, make, runtime, settings, position=position)


def numbers(steps: StreamSteps[Step], first: int, stop: int) -> list[int]:
    """The pictures of some steps."""
    found = []
    for step in range(first, stop):
        steps.step(step, 0)
        found += [int(name.rsplit(": ")[-1].removeprefix("row ")) for name in steps.names(0, step)]
    return found


def test_the_captions_of_a_picture_share_a_step(tmp_path: Path) -> None:
    steps = stream(write_shards(tmp_path, shards=3, each=10))
    for number, step in enumerate(steps.iterate(0)):
        (batch,) = step.batches
        assert (step.num_captions, batch.num_captions) == (12, 12)
        assert step.num_tokens == batch.num_tokens
        assert batch.content.shape == (6, 3, 24, 24)
        names = steps.names(0, number)
        for row, name in enumerate(names):
            own = picture(int(name.rsplit(": ")[-1]))
            assert batch.content[row].equal(pixels(load_image(own)))
    assert number == 4


def test_a_micro_batch_is_a_part_of_the_same_step(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    (whole,) = islice(stream(pattern).iterate(0), 1)
    (parts,) = islice(stream(pattern).iterate(0, micro_batch_size=4), 1)
    assert [batch.num_captions for batch in parts.batches] == [4, 4, 4]
    assert torch.cat([batch.content for batch in parts.batches]).equal(whole.batches[0].content)


def test_a_step_that_did_not_fit_is_given_once_more(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    steps, other = stream(pattern), stream(pattern)
    first = next(steps.iterate(0))
    again = next(steps.iterate(0, micro_batch_size=4))
    assert torch.cat([b.content for b in again.batches]).equal(first.batches[0].content)
    assert numbers(steps, 1, 4) == numbers(other, 0, 4)[6:]


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 0), (3, 0), (2, 2)])
def test_each_picture_passes_once_over_all_processes(
    tmp_path: Path, processes: int, workers: int
) -> None:
    pattern = write_shards(tmp_path, shards=6, each=10)
    share = 12 // processes // 2
    passes = 60 // processes // share
    for turn in range(2):
        seen = []
        for rank in range(processes):
            steps = stream(pattern, rank, processes, num_workers=workers)
            numbers(steps, 0, turn * passes)
            seen += numbers(steps, turn * passes, (turn + 1) * passes)
        assert sorted(seen) == list(range(60))


def test_captions_that_do_not_fit_are_for_other_passes(tmp_path: Path) -> None:
    write_webdataset(tmp_path / "a.tar", range(4))
    steps = stream(str(tmp_path / "*.tar"), captions_per_step=1, batch_size=4)
    trained: Counter[str] = Counter()
    for _ in range(4):  # four passes of one step
        trained.update(text for one in steps._fill() for text in one.captions)
    assert trained == {text: 2 for number in range(4) for text in captions(number)}


@pytest.mark.parametrize("processes", [1, 2])
def test_it_goes_on_exactly_from_any_step(tmp_path: Path, processes: int) -> None:
    text = f"{write_shards(tmp_path / 'a')} = 3; {write_shards(tmp_path / 'b', first=100)} = 1"
    whole = [numbers(stream(text, rank, processes), 0, 30) for rank in range(processes)]
    for stop in (1, 4, 17):
        running = [stream(text, rank, processes) for rank in range(processes)]
        before = [numbers(steps, 0, stop) for steps in running]
        saved = [json.loads(steps.position()) for steps in running]
        lanes = [
            [lane for part in zip(*(one["lanes"][source] for one in saved), strict=True)
             for lane in part]
            for source in range(2)
        ]  # fmt: skip
        position = json.dumps({"lanes": lanes, "standings": [s["standings"][0] for s in saved]})
        for rank in range(processes):
            again = stream(text, rank, processes, position)
            assert before[rank] + numbers(again, stop, 30) == whole[rank]


def test_other_processes_go_on_where_each_lane_was(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=6, each=10)
    one = stream(pattern)
    before = numbers(one, 0, 5)
    rest = []
    for rank in range(2):
        steps = stream(pattern, rank, 2, one.position())
        rest += numbers(steps, 5, 10)
    assert sorted(before + rest) == list(range(60))
    with pytest.raises(UserError, match="in 6 lanes, too few for 7 processes"):
        stream(write_shards(tmp_path, shards=7, each=10), 0, 7, one.position())


def test_a_step_is_shared_out_whole_and_every_process_knows_its_size(tmp_path: Path) -> None:
    class Tenfold(OneOfMany):
        def sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
            return value * 10

    pattern = write_shards(tmp_path, shards=5, each=4)
    steps = [
        stream(pattern, rank, 5, kind=Tenfold, captions_per_step=1).step(0, 0) for rank in range(5)
    ]
    own = [batch for step in steps for batch in step.batches]
    assert [batch.num_captions for batch in own] == [2, 2, 3, 2, 3]
    assert [step.num_captions for step in steps] == [10 * batch.num_captions for batch in own]
    assert [step.num_tokens for step in steps] == [10 * batch.num_tokens for batch in own]


def test_other_processes_share_what_has_passed(tmp_path: Path) -> None:
    pattern = bad_shard(tmp_path, bad=3, good=9)
    write_shards(tmp_path, shards=1, each=10)
    one = stream(pattern, max_bad_fraction=0.5)
    numbers(one, 0, 5)
    assert one._standing.bad > 0
    others = [stream(pattern, rank, 2, one.position())._standing for rank in range(2)]
    assert sum(other.bad for other in others) == one._standing.bad
    assert sum(other.drawn for other in others) == one._standing.drawn


def test_sources_are_drawn_anew_by_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.streaming.steps.DRAWS", 12)
    text = f"{write_shards(tmp_path / 'a')}; {write_shards(tmp_path / 'b', first=100)}"
    drawn = [[n < 100 for n in numbers(stream(text, rank, 2), 0, 8)] for rank in range(2)]
    assert len(drawn[0]) == 24
    assert drawn[0] != drawn[1]
    assert drawn[0][:12] != drawn[0][12:]


def test_weights_are_shares_of_the_pictures(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b" / "x.parquet", range(5))
    text = f"{write_shards(tmp_path / 'a', first=100)} = 3; {tmp_path / 'b'} = 1"
    seen = numbers(stream(text), 0, 200)
    share = sum(number < 100 for number in seen) / len(seen)
    assert abs(share - 0.25) < 0.04  # three standard deviations of 1,200 draws
    assert set(range(5)) <= set(seen)


def test_order_depends_on_the_seed(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    assert numbers(stream(pattern), 0, 10) != numbers(stream(pattern, seed=8), 0, 10)


def bad_shard(folder: Path, bad: int, good: int) -> str:
    members = {f"{n}.png": b"broken" for n in range(bad)}
    members |= {f"{n}.txt": b"a dog" for n in range(bad)}
    pairs = list(zip(list(members)[:bad], list(members)[bad:], strict=True))
    flat = [(name, members[name]) for pair in pairs for name in pair]
    for n in range(bad, bad + good):
        flat += [(f"{n}.png", picture(n)), (f"{n}.txt", b"a cat")]
    write_tar(folder / "a.tar", flat)
    return str(folder / "*.tar")


def test_bad_samples_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = bad_shard(tmp_path, bad=3, good=21)
    steps = stream(pattern, batch_size=21, max_bad_fraction=0.5)
    assert sorted(numbers(steps, 0, 1)) == list(range(3, 24))
    assert "STREAM: 1 picture could not be used so far" in capsys.readouterr().err
    numbers(steps, 1, 2)
    assert json.loads(steps.position())["standings"][0]["bad"] in (3, 4, 5, 6)
    again = stream(pattern, position=steps.position())
    assert again._standing.bad == steps._standing.bad


def test_too_many_bad_samples_end_in_a_sentence(tmp_path: Path) -> None:
    steps = stream(bad_shard(tmp_path, bad=20, good=20))
    with pytest.raises(UserError, match=r"more than MAX_BAD_FRACTION 0\.01 allows") as raised:
        numbers(steps, 0, 10)
    assert "11 of the" in str(raised.value)
    assert "its picture is text" in str(raised.value)
    with pytest.raises(UserError, match="MAX_BAD_FRACTION 0 allows"):
        numbers(stream(str(tmp_path / "*.tar"), max_bad_fraction=0.0), 0, 10)
    numbers(stream(str(tmp_path / "*.tar"), max_bad_fraction=0.9), 0, 10)


def test_more_processes_than_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a caption each"):
        stream(write_shards(tmp_path), 0, 3, batch_size=2)


def test_another_set_of_shards_has_another_fingerprint(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    fingerprint = partial(lambda text: stream_fingerprint(find_sources(text)), pattern)
    before = fingerprint()
    assert before == fingerprint()
    (tmp_path / "0005.tar").rename(tmp_path / "0009.tar")
    assert before != fingerprint()

"""The order of a stream: each sample once a pass over all lanes, another order each pass, exact."""

from itertools import islice
from pathlib import Path

import pytest

from captioning.streaming import lanes as stream_lanes
from captioning.streaming.lanes import Lane, LaneSample, Position, lane_count, lanes_of
from captioning.streaming.shards import StreamSource, find_sources
from captioning.system.errors import UserError
from tests.helpers.streams import picture, write_shards, write_tar, write_webdataset


def lanes(pattern: str, count: int = 3, seed: int = 1, **options: object) -> list[Lane]:
    (source,) = find_sources(pattern)
    held_out = options.get("held_out", frozenset())
    return lanes_of(source, count=count, seed=(seed, 0), held_out=held_out)


def keys(given: list[LaneSample]) -> list[str]:
    return [one.sample.name.rsplit(": ")[-1] for one in given]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four samples, so that ten of a shard are three."""
    monkeypatch.setattr(stream_lanes, "BLOCK_SAMPLES", 4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_sample_comes_once_a_pass_over_all_lanes(tmp_path: Path, count: int) -> None:
    pattern = write_shards(tmp_path, shards=7, each=10)
    everything = sorted(f"{number:06d}" for number in range(70))
    own = [len(lane.shards) * 10 for lane in lanes(pattern, count)]
    for passes in range(3):
        seen = [
            key
            for lane, size in zip(lanes(pattern, count), own, strict=True)
            for key in keys(list(islice(lane.samples(), passes * size, (passes + 1) * size)))
        ]
        assert sorted(seen) == everything


@pytest.mark.usefixtures("small_blocks")
def test_order_changes_by_pass_and_by_seed_alone(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=4, each=10)
    (lane,) = lanes(pattern, 1)
    given = keys(list(islice(lane.samples(), 80)))
    first, second = given[:40], given[40:]
    assert sorted(first) == sorted(second)
    assert first != second
    assert given == keys(list(islice(lanes(pattern, 1)[0].samples(), 80)))
    assert given != keys(list(islice(lanes(pattern, 1, seed=2)[0].samples(), 80)))
    assert first != sorted(first)


@pytest.mark.usefixtures("small_blocks")
def test_shards_and_blocks_are_each_in_an_order_of_their_own(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=4, each=10)
    (lane,) = lanes(pattern, 1)
    given = [one.sample.name.rsplit(": ") for one in islice(lane.samples(), 80)]
    passes = given[:40], given[40:]
    first, second = ([shard for shard, _ in one[::10]] for one in passes)
    assert sorted(first) == sorted(second) == sorted(lane.shards)
    assert first != second
    before, after = (
        {shard: [int(key) % 10 for where, key in one if where == shard] for shard in lane.shards}
        for one in passes
    )
    assert all(before[shard] != after[shard] for shard in lane.shards)
    assert len({tuple(order) for order in before.values()}) == 4
    one, other = (Lane(number, lane.shards, lane.seed) for number in (0, 1))
    assert keys(list(islice(one.samples(), 40))) != keys(list(islice(other.samples(), 40)))


def test_lanes_have_shards_by_the_seed() -> None:
    source = StreamSource("x", tuple(map(str, range(20))))
    one, other = (
        [lane.shards for lane in lanes_of(source, count=4, seed=(seed, 0), held_out=())]
        for seed in (1, 2)
    )
    assert sorted(sum(one, ())) == sorted(sum(other, ())) == sorted(source.shards)
    assert one != other


@pytest.mark.usefixtures("small_blocks")
def test_a_lane_goes_on_exactly_after_any_sample(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=2, each=10)
    (lane,) = lanes(pattern, 1)
    whole = list(islice(lane.samples(), 50))
    for taken in range(1, 45):
        after = whole[taken - 1].after
        assert list(islice(lane.samples(after), 5)) == whole[taken : taken + 5], taken


def test_large_pictures_end_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_lanes, "BLOCK_BYTES", 2 * len(picture(0)))
    write_webdataset(tmp_path / "a.tar", range(9))
    (lane,) = lanes(str(tmp_path / "*.tar"), 1)
    ends = [one.after.blocks_end for one in islice(lane.samples(), 9)]
    assert ends == sorted(ends)
    assert max(ends.count(end) for end in ends) <= 3


def test_held_out_pictures_never_come(tmp_path: Path) -> None:
    from hashlib import sha256

    pattern = write_shards(tmp_path, shards=2, each=10)
    held_out = frozenset(sha256(picture(number)).digest() for number in (0, 5, 13))
    (lane,) = lanes(pattern, 1, held_out=held_out)
    seen = keys(list(islice(lane.samples(), 51)))
    assert not {"000000", "000005", "000013"} & set(seen)
    assert len(set(seen)) == 17


def test_a_stream_of_nothing_ends_in_a_sentence(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"readme.md": b"nothing"})
    (lane,) = lanes(str(tmp_path / "*.tar"), 1)
    with pytest.raises(UserError, match="there is nothing to train on in"):
        next(lane.samples())
    with pytest.raises(UserError, match="there is nothing to train on in"):
        next(lane.samples(Position(passes=3)))


def test_a_process_needs_a_shard_of_its_own() -> None:
    source = StreamSource("x", ("1", "2", "3"))
    assert lane_count(source, 1) == 3
    assert lane_count(source, 2) == 2
    assert lane_count(StreamSource("x", tuple(map(str, range(100)))), 4) == 96
    with pytest.raises(UserError, match="3 shards for 4 processes"):
        lane_count(source, 4)

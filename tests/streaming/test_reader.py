"""Reading ahead: the same samples in the same order, however many workers there are."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from torch import Tensor

from captioning.sources.images import load_image
from captioning.streaming.lanes import Position, lanes_of
from captioning.streaming.reader import StreamReader
from captioning.streaming.shards import find_sources
from captioning.system.errors import UserError
from tests.helpers.streams import picture, pixels, write_shards, write_tar


def reader(
    pattern: str,
    workers: int = 0,
    positions: list[Position] | None = None,
    turns: int = 0,
    augmentation: str = "",
) -> StreamReader:
    (source,) = find_sources(pattern)
    lanes = lanes_of(source, count=len(source.shards), seed=(3, 0), held_out=frozenset())
    return StreamReader(
        lanes,
        positions or [Position()] * len(lanes),
        pixels,
        turns=turns,
        num_workers=workers,
        augmentation=frozenset(filter(None, augmentation.split(","))),
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing_and_lanes_take_turns(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=6, each=10)
    alone, two, five = (reader(pattern, workers) for workers in (0, 2, 5))
    shards = []
    for _ in range(150):
        one = alone.take()
        assert one.content is not None
        for other in (two.take(), five.take()):
            assert (other.name, other.after) == (one.name, one.after)
            assert other.content is not None
            assert other.content.equal(one.content)
        shard, key = one.name.rsplit(": ")
        assert one.content.equal(pixels(load_image(picture(int(key)))))
        shards.append(shard)
    assert all(len(set(shards[start : start + 6])) == 6 for start in range(0, 150, 6))


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_exactly_with_other_workers(tmp_path: Path, workers: int) -> None:
    pattern = write_shards(tmp_path, shards=4, each=9)
    whole = reader(pattern)
    names = [whole.take().name for _ in range(60)]
    for taken in (1, 7, 35, 50):
        first = reader(pattern)
        for _ in range(taken):
            first.take()
        again = reader(pattern, workers, first.positions, first.turns)
        assert [again.take().name for _ in range(10)] == names[taken : taken + 10]


def test_a_bad_picture_comes_with_its_problem_and_costs_no_turn(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        {"0.png": b"no picture", "0.txt": b"a dog", "1.png": picture(1), "1.txt": b"a cat"},
    )
    stream = reader(str(tmp_path / "*.tar"))
    found = {}
    for _ in range(2):
        one = stream.take()
        assert stream.positions == [one.after]
        found[one.name.rsplit(": ")[-1]] = one
    assert "its picture is text" in found["0"].problem
    assert found["0"].content is None
    assert found["1"].problem == ""
    assert stream.turns == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_the_main_ones_to_answer(
    tmp_path: Path, number: signal.Signals
) -> None:
    stream = reader(write_shards(tmp_path, shards=1, each=40), workers=1)
    stream.take()
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, number)
    assert len({stream.take().name for _ in range(39)}) == 39


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_the_users_to_mend(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="cannot be read to its end"):
        reader(str(tmp_path / "*.tar"), workers).take()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_pictures_are_altered_anew_in_each_pass_and_exactly_so(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, shards=2, each=10)
    altered = reader(pattern, augmentation="crop,colour")
    plain = reader(pattern)
    whole = [altered.take() for _ in range(40)]
    assert [one.name for one in whole] == [plain.take().name for _ in range(40)]
    by_name: dict[str, list[Tensor]] = {}
    for one in whole:
        assert one.content is not None
        by_name.setdefault(one.name, []).append(one.content)
    assert all(not first.equal(second) for first, second in by_name.values())
    first = reader(pattern, augmentation="crop,colour")
    for _ in range(13):
        first.take()
    again = reader(pattern, 2, first.positions, first.turns, "crop,colour")
    for one in whole[13:30]:
        content = again.take().content
        assert content is not None
        assert content.equal(one.content)


def test_a_mirrored_picture_has_mirrored_captions(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(20):
        text = b"a dog on the left" if number % 2 else b"a sign that says 5"
        members |= {f"{number}.png": picture(number), f"{number}.txt": text}
    write_tar(tmp_path / "a.tar", members)
    stream = reader(str(tmp_path / "*.tar"), augmentation="flip")
    seen = set()
    for _ in range(60):
        one = stream.take()
        number = int(one.name.rsplit(": ")[-1])
        plain = pixels(load_image(picture(number)))
        assert one.content is not None
        is_flipped = one.content.equal(plain.flip(2))
        assert is_flipped is not one.content.equal(plain)
        seen.add((number % 2, is_flipped, one.captions[0]))
    assert seen == {
        (0, False, "a sign that says 5"),
        (1, False, "a dog on the left"),
        (1, True, "a dog on the right"),
    }

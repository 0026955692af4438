"""Reading ahead: the same samples in the same order, however many workers there are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from errors import UserError
from images import load_image
from stream_lanes import Position, lanes_of
from stream_reader import StreamReader
from stream_shards import find_sources
from tests.streams import picture, write_shards, write_tar


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def reader(
    pattern: str, workers: int = 0, positions: list[Position] | None = None, turns: int = 0
) -> StreamReader:
    (source,) = find_sources(pattern)
    lanes = lanes_of(source, count=len(source.shards), seed=(3, 0), held_out=frozenset())
    return StreamReader(
        lanes,
        positions or [Position()] * len(lanes),
        pixels,
        turns=turns,
        num_workers=workers,
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
    found = {one.name.rsplit(": ")[-1]: one for one in (stream.take(), stream.take())}
    assert "its picture is text" in found["0"].problem
    assert found["0"].content is None
    assert found["1"].problem == ""
    assert stream.turns == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_the_users_to_mend(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="cannot be read to its end"):
        reader(str(tmp_path / "*.tar"), workers).take()

"""What a stream gives away: pictures that training leaves out, captions of every part of it."""

from hashlib import sha256
from pathlib import Path

import pytest

from captioning.sources.records import Record, write_records
from captioning.streaming.held_out import held_out_hashes, held_out_source, vocabulary_captions
from captioning.streaming.shards import find_sources
from captioning.system.errors import UserError
from tests.helpers.streams import captions, picture, write_shards, write_tar


def test_pictures_of_both_splits_are_known_by_their_bytes(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        path = tmp_path / split / f"{number}.png"
        path.parent.mkdir()
        path.write_bytes(picture(number))
        write_records(path.parent, [Record(path, ("a dog",))])
    known = {sha256(picture(number)).digest() for number in (1, 2)}
    assert held_out_hashes(tmp_path) == known


def test_the_first_good_pictures_of_each_source_are_held_out_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.streaming.held_out.HELD_OUT_PICTURES", 8)
    write_tar(
        tmp_path / "a" / "0.tar",
        {"0.png": picture(0), "1.png": picture(1), "1.txt": b"a dog", "2.txt": b"no picture"},
    )
    text = f"{write_shards(tmp_path / 'a', first=10)} = 3; {write_shards(tmp_path / 'b', first=90)}"
    source = held_out_source(find_sources(text), 0.1)
    found = source.pictures
    numbers = [1, 10, 11, 12, 13, 14, 90, 91]
    assert [one.read() for one in found] == [picture(number) for number in numbers]
    assert [one.captions for one in found[1:]] == [tuple(captions(n)) for n in numbers[1:]]
    assert [one.split for one in found] == ["test", "validation"] * 4
    assert [out.detail for out in source.left_out] == ["it has no caption", "it has no picture"]


def test_a_small_stream_is_not_held_out_whole(tmp_path: Path) -> None:
    found = held_out_source(find_sources(write_shards(tmp_path, shards=2, each=10)), 0.1).pictures
    assert [one.read() for one in found] == [picture(number) for number in range(4)]
    with pytest.raises(UserError, match="holds too few pictures with captions"):
        held_out_source(find_sources(write_shards(tmp_path / "few", shards=1, each=4)), 0.1)


def test_the_vocabulary_is_of_shards_from_everywhere_but_of_no_held_out_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.streaming.held_out.VOCABULARY_SHARDS", 3)
    monkeypatch.setattr("captioning.streaming.held_out.VOCABULARY_PICTURES", 8)
    a, b = (write_shards(tmp_path / name, first=first) for name, first in (("a", 0), ("b", 100)))
    found = vocabulary_captions(find_sources(f"{a} = 3; {b}"), without=frozenset(captions(21)))
    numbers = [int(text.split()[1]) for text in found[::2]]
    assert numbers == [0, 1, 20, 40, 41, 100, 120, 140]
    assert len(found) == 16

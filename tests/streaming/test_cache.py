"""Features of a stream are kept block by block: the same bits, read once, within their room."""

import gc
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from captioning.sources.images import load_image
from captioning.store.building import RowMaker
from captioning.streaming import lanes as stream_lanes
from captioning.streaming.cache import BlockWriter, StreamFeatures, _room_in
from captioning.streaming.lanes import Position, lanes_of
from captioning.streaming.reader import StreamPicture, StreamReader
from captioning.streaming.shards import find_sources
from captioning.system.errors import UserError
from captioning.system.runtime import Runtime
from tests.helpers.one_of_many import OneOfMany, one_of
from tests.helpers.small_encoder import SmallEncoder
from tests.helpers.streams import picture, write_shards, write_tar

PLENTY = 10**9
CPU = Runtime(torch.device("cpu"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks a shard of ten, on disk before the next is begun."""
    monkeypatch.setattr(stream_lanes, "BLOCK_SAMPLES", 4)
    monkeypatch.setattr("captioning.streaming.cache.BLOCK_SAMPLES", 4)
    monkeypatch.setattr("captioning.streaming.cache.ENCODED_TOGETHER", 3)
    monkeypatch.setattr("captioning.store.building.WAITING_WRITES", 0)


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    return write_shards(tmp_path / "shards", shards=4, each=10)


class Stream:
    """A reader that keeps features in a folder, and what it encodes with."""

    def __init__(
        self,
        pattern: str,
        folder: Path,
        *,
        room: int = PLENTY,
        workers: int = 0,
        positions: list[Position] | None = None,
        turns: int = 0,
        seed: int = 3,
        held_out: frozenset[bytes] = frozenset(),
        encoder: SmallEncoder | None = None,
    ) -> None:
        self.encoder = encoder or SmallEncoder()
        self.features = StreamFeatures(folder, RowMaker(self.encoder, CPU), room)
        (source,) = find_sources(pattern)
        lanes = lanes_of(
            source,
            count=len(source.shards),
            seed=(seed, 0),
            held_out=held_out,
            read=self.features.kept.read,
        )
        self.reader = StreamReader(
            lanes,
            positions or [Position()] * len(lanes),
            self.encoder.preprocessor,
            turns=turns,
            num_workers=workers,
            features=self.features,
        )

    def take(self, count: int) -> list[StreamPicture]:
        return [self.reader.take() for _ in range(count)]


def same(some: list[StreamPicture], others: list[StreamPicture]) -> bool:
    """Whether samples and features are equal, bit for bit."""
    return all(
        (one.name, one.captions, one.after) == (other.name, other.captions, other.after)
        and one.content is not None
        and other.content is not None
        and one.content.equal(other.content)
        for one, other in zip(some, others, strict=True)
    )


def number_of(one: StreamPicture) -> int:
    return int(one.name.rsplit(": ")[-1])


def blocks_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.block"))


def test_features_are_those_of_the_picture(pattern: str, tmp_path: Path) -> None:
    stream = Stream(pattern, tmp_path / "kept")
    for one in stream.take(80):
        pixels = stream.encoder.preprocessor(load_image(picture(number_of(one))))
        expected = stream.encoder(pixels[None])[0]
        assert one.content is not None
        assert (one.content.dtype, one.content.shape) == (torch.float16, (4, 6))
        assert torch.allclose(one.content.float(), expected, atol=0.02)


def test_the_order_is_that_of_a_stream_that_keeps_nothing(pattern: str, tmp_path: Path) -> None:
    (source,) = find_sources(pattern)
    lanes = lanes_of(source, count=4, seed=(3, 0), held_out=frozenset())
    live = StreamReader(lanes, [Position()] * 4, SmallEncoder().preprocessor)
    names = [(one.name, one.after) for one in (live.take() for _ in range(120))]
    kept = Stream(pattern, tmp_path / "kept")
    assert [(one.name, one.after) for one in kept.take(120)] == names


def test_what_has_passed_is_not_read_decoded_or_encoded_again(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Stream(pattern, tmp_path / "kept")
    seen = first.take(120)
    assert first.encoder.encoded == 40  # in the first of three passes
    assert len(blocks_in(tmp_path / "kept")) == 4 * 3

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a shard is read")

    monkeypatch.setattr(stream_lanes, "read_samples", refuse)
    second = Stream(pattern, tmp_path / "kept")
    assert same(second.take(120), seen)
    assert second.encoder.encoded == 0


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("room", [0, 1500, PLENTY])
def test_features_are_the_same_bits_whatever_is_kept(
    pattern: str, tmp_path: Path, room: int, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Stream(pattern, tmp_path / "whole").take(120)
    stream = Stream(pattern, tmp_path / "kept", room=room, workers=workers)
    assert same(stream.take(120), whole)
    kept = sum(path.stat().st_size for path in blocks_in(tmp_path / "kept"))
    assert kept <= room
    assert capsys.readouterr().err.count("FEATURE_CACHE is used up") == (room != PLENTY)
    del stream
    gc.collect()
    assert not list((tmp_path / "kept").glob("*/*.part"))
    again = Stream(pattern, tmp_path / "kept", room=room, seed=4)
    more = {one.name: one.content for one in again.take(40)}
    for one in whole[:40]:
        assert one.content is not None
        assert one.content.equal(more[one.name])


@pytest.mark.parametrize("piece", [1, 16])
def test_the_same_pictures_are_encoded_together_however_they_arrive(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.streaming.reader.PIECE_SAMPLES", piece)
    sizes: list[int] = []

    class Watched(SmallEncoder):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            sizes.append(len(pixels))
            return super().forward(pixels)

    pattern = write_shards(tmp_path / "shards", shards=1, each=10)
    Stream(pattern, tmp_path / "kept", encoder=Watched()).take(10)
    assert sizes == [3, 1, 3, 1, 2]


def test_room_is_for_what_was_there_before_too(pattern: str, tmp_path: Path) -> None:
    Stream(pattern, tmp_path / "kept", room=1500).take(80)
    before = blocks_in(tmp_path / "kept")
    assert before
    Stream(pattern, tmp_path / "kept", room=1500, seed=9).take(80)
    assert blocks_in(tmp_path / "kept") == before


@pytest.mark.parametrize("taken", [1, 6, 23, 39, 55])
def test_it_goes_on_exactly(pattern: str, tmp_path: Path, taken: int) -> None:
    whole = Stream(pattern, tmp_path / "whole").take(100)
    first = Stream(pattern, tmp_path / "kept")
    first.take(taken)
    for folder in ("kept", "lost"):
        again = Stream(
            pattern,
            tmp_path / folder,
            positions=first.reader.positions,
            turns=first.reader.turns,
        )
        assert same(again.take(30), whole[taken : taken + 30])


def test_room_that_the_disk_does_not_have_is_told_at_once(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5 * 10**8))
    with pytest.raises(UserError, match=r"FEATURE_CACHE is 1GB, .* has 0\.5 GB free"):
        Stream(pattern, tmp_path / "kept")


def test_what_a_killed_run_had_begun_is_removed(pattern: str, tmp_path: Path) -> None:
    Stream(pattern, tmp_path / "kept").take(80)
    left = tmp_path / "kept" / "0123" / "tmp.part"
    left.parent.mkdir()
    left.write_bytes(b"half a block")
    Stream(pattern, tmp_path / "kept")
    assert not left.exists()
    assert not list((tmp_path / "kept").glob("*/*.part"))
    assert len(blocks_in(tmp_path / "kept")) == 4 * 3


def test_what_another_run_has_begun_stays(pattern: str, tmp_path: Path) -> None:
    stream = Stream(pattern, tmp_path / "kept")
    (source,) = find_sources(pattern)
    writer = stream.features.writer(source.shards[0], 0)
    (begun,) = (tmp_path / "kept").glob("*/*.part")
    other = get_context("fork").Process(target=_room_in, args=(tmp_path / "kept", 0))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert begun.exists()
    del writer  # which held it


@pytest.mark.parametrize("lost", [[4], [0, 8]])
def test_blocks_that_are_lost_are_made_again(pattern: str, tmp_path: Path, lost: list[int]) -> None:
    whole = Stream(pattern, tmp_path / "kept").take(80)
    for path in blocks_in(tmp_path / "kept"):
        if int(path.stem) in lost:
            path.unlink()
    stream = Stream(pattern, tmp_path / "kept")
    assert same(stream.take(80), whole)
    assert stream.encoder.encoded == sum(4 * min(4, 10 - first) for first in lost)


def test_room_is_shared_by_the_processes_and_looked_for_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockWriter, "publish", lambda self: self.path.touch())

    class Beside(OneOfMany):
        def gather(self, items: list[Any]) -> list[Any]:
            return items or [500]  # what the main process has found

    left = tmp_path / "0123" / "tmp.part"
    left.parent.mkdir()
    left.write_bytes(b"half a block")
    for rank in (1, 0):
        maker = RowMaker(SmallEncoder(), one_of(2, rank, Beside))
        features = StreamFeatures(tmp_path, maker, 500)
        assert left.exists() == (rank == 1)
        for nbytes in (251, 250):
            writer = features.writer(__file__, rank)
            features.keep(writer, nbytes)
            assert writer.path.exists() == (nbytes == 250)


def test_bad_and_held_out_pictures_stay_so(tmp_path: Path) -> None:
    from hashlib import sha256

    members = {"0.png": b"no picture", "0.txt": b"a dog"}
    for number in range(1, 5):
        members |= {f"{number}.png": picture(number), f"{number}.txt": b"a cat"}
    write_tar(tmp_path / "a.tar", members)
    held_out = frozenset([sha256(picture(3)).digest()])
    for encoded in (4, 0):
        stream = Stream(str(tmp_path / "*.tar"), tmp_path / "kept", held_out=held_out)
        found = stream.take(4)
        assert sorted(number_of(one) for one in found) == [0, 1, 2, 4]
        assert stream.encoder.encoded == encoded
        for one in found:
            assert ("its picture is text" in one.problem) is (number_of(one) == 0)
            assert (one.content is None) is (number_of(one) == 0)
    everything = Stream(str(tmp_path / "*.tar"), tmp_path / "kept")
    assert sorted(number_of(one) for one in everything.take(5)) == [0, 1, 2, 3, 4]
    assert everything.encoder.encoded == 0


def test_a_shard_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "shards", shards=1, each=4)
    Stream(pattern, tmp_path / "kept").take(4)
    write_shards(tmp_path / "shards", shards=1, each=4, first=100)
    found = Stream(pattern, tmp_path / "kept").take(4)
    assert sorted(number_of(one) for one in found) == [100, 101, 102, 103]


def test_a_damaged_block_is_named(pattern: str, tmp_path: Path) -> None:
    Stream(pattern, tmp_path / "kept").take(40)
    for path in blocks_in(tmp_path / "kept"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"\.block is damaged. Remove it"):
        Stream(pattern, tmp_path / "kept").take(1)


def test_features_that_are_no_numbers_are_refused(pattern: str, tmp_path: Path) -> None:
    encoder = SmallEncoder()
    torch.nn.init.constant_(encoder.weight, 1e9)
    with pytest.raises(UserError, match=r"small gives features of .*: 0000\d\d that are no"):
        Stream(pattern, tmp_path / "kept", encoder=encoder).take(1)
    assert not blocks_in(tmp_path / "kept")

"""What one of several processes, or one of several parts, has to caption."""

from pathlib import Path

import pytest

from captioning.sources.named_pictures import find_named
from captioning.writing.outputs import Part
from captioning.writing.pictures import ShardEnd, Unread
from captioning.writing.printing import PrintedLines
from captioning.writing.work import Work
from tests.helpers.streams import picture, write_tar, write_webdataset


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with seven pictures and five shards of three."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(7):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number))
    for shard in range(5):
        write_webdataset(tmp_path / "shards" / f"{shard}.tar", range(3 * shard, 3 * shard + 3))
    return tmp_path


def work_of(*names: str, part: str = "", limit: int = 0) -> Work:
    printed = PrintedLines(as_json=False, with_names=True)
    return Work.printed(find_named(names), printed, Part.parse(part), limit)


def numbers(work: Work, rank: int = 0, world_size: int = 1) -> dict[str, int]:
    """The pictures of a process with their numbers."""
    found = list(work.pending(rank, world_size))
    return {one.picture.name: one.number for one in found if isinstance(one, Unread)}


@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (2, 3), (3, 1), (1, 4), (9, 2)])
def test_each_picture_falls_to_one_process_of_one_part_with_the_same_number(
    place: Path, parts: int, processes: int
) -> None:
    whole = numbers(work_of("photos", "shards"))
    assert len(whole) == 7 + 15
    assert list(whole.values())[:7] == list(range(7))
    shares = [
        numbers(work_of("photos", "shards", part=f"{part}/{parts}"), rank, processes)
        for part in range(1, parts + 1)
        for rank in range(processes)
    ]
    assert sum(map(len, shares)) == len(whole)
    assert {name: number for share in shares for name, number in share.items()} == whole


def test_a_shard_ends_after_its_pictures_and_a_damaged_one_leaves_the_others(place: Path) -> None:
    whole = (place / "shards" / "1.tar").read_bytes()
    (place / "shards" / "1.tar").write_bytes(whole[: len(whole) // 2])
    write_tar(place / "shards" / "2.tar", {"a.png": picture(0), "b.txt": b"text"})
    found = list(work_of("shards").pending(0, 1))
    ends = [one.shard for one in found if isinstance(one, ShardEnd)]
    assert ends == [f"shards/{shard}.tar" for shard in range(5)]
    assert isinstance(found[-1], ShardEnd)
    problems = [one.picture.problem for one in found if isinstance(one, Unread)]
    told = [problem for problem in problems if problem]
    assert any("1.tar cannot be read to its end" in problem for problem in told)
    assert "shards/2.tar: b: it has no picture" in told


def test_a_limit_counts_files_and_then_what_is_in_shards(place: Path) -> None:
    assert len(numbers(work_of("photos", "shards", limit=3))) == 3
    assert len(numbers(work_of("photos", "shards", limit=12))) == 12
    assert len(numbers(work_of("shards", limit=4))) == 4

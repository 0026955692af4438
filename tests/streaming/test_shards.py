"""Shards: what is read of tars and Parquet files, what is stepped over, what is refused."""

import io
import pickle
import tarfile
from pathlib import Path

import pytest

from captioning.sources.records import Record, write_records
from captioning.streaming.cache import KeptBlocks
from captioning.streaming.shards import find_sources, parse_stream, read_samples
from captioning.system.errors import UserError
from tests.helpers.streams import (
    captions,
    picture,
    write_parquet,
    write_shards,
    write_tar,
    write_webdataset,
)


class Detonator:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, bytes]]:
        return (Path.write_bytes, (self.path, b""))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["txt", "json", "parquet", "tgz"])
def test_every_kind_of_shard_gives_its_samples_in_order(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        path = write_parquet(tmp_path / "a.parquet", range(20))
    else:
        path = write_webdataset(tmp_path / "a.tar", range(20), as_json=kind == "json")
    if kind == "tgz":
        import gzip

        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    found = list(read_samples(str(path)))
    assert [sample.data for sample in found] == [picture(n) for n in range(20)]
    assert [list(sample.captions) for sample in found] == [captions(n) for n in range(20)]
    assert not any(sample.problem for sample in found)
    for first in (0, 1, 7, 13, 19, 20):
        assert list(read_samples(str(path), first=first)) == found[first:]
    alone = list(read_samples(str(path), with_pictures=False))
    assert [sample.captions for sample in alone] == [sample.captions for sample in found]


def test_nothing_but_pictures_and_captions_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = tarfile.TarFile.extractfile

    def extractfile(archive: tarfile.TarFile, member: tarfile.TarInfo) -> object:
        read.append(member.name)
        return original(archive, member)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", extractfile)
    victim = tmp_path / "written"
    bomb = pickle.dumps(Detonator(victim))
    members = {f"0.{kind}": bomb for kind in ("pyd", "pickle", "pkl", "pth", "pt", "npy", "npz")}
    members |= {f"0.{kind}": b"\x93 no number" for kind in ("cls", "ten", "mp", "cbor", "index")}
    path = write_tar(tmp_path / "a.tar", {"0.png": picture(0), **members, "0.txt": b"a dog"})
    (found,) = read_samples(str(path))
    assert (found.data, found.captions, found.problem) == (picture(0), ("a dog",), "")
    assert read == ["0.png", "0.txt"]
    assert not victim.exists()


def test_names_and_links_in_a_tar_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text("a secret")
    path = tmp_path / "shards" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, content in (("../../evil.png", picture(1)), ("/tmp/evil.txt", b"a dog")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("../../evil.txt")
            link.type, link.linkname = kind, str(outside)
            archive.addfile(link)
    found = list(read_samples(str(path)))
    assert [sample.captions for sample in found] == [(), ("a dog",)]
    assert not any("secret" in str(sample) for sample in found)
    assert sorted(tmp_path.rglob("*")) == [outside, path.parent, path]


def test_what_is_wrong_with_a_sample_is_said_in_its_place(tmp_path: Path) -> None:
    members = {
        "0.png": picture(0), "0.txt": b"a dog",
        "1.png": picture(1),
        "2.txt": b"no picture",
        "3.png": b"", "3.txt": b"a cat",
        "4.png": picture(4), "4.json": b"{ no json",
        "5.png": picture(5), "5.txt": b" \n \n",
    }  # fmt: skip
    found = list(read_samples(str(write_tar(tmp_path / "a.tar", members))))
    assert [sample.problem for sample in found] == [
        "",
        "it has no caption",
        "it has no picture",
        "its picture is empty",
        "it has no caption",
        "it has no caption",
    ]
    assert found[1].name.endswith("a.tar: 1")


def test_a_sample_is_what_has_a_path_up_to_its_first_dot_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captioning.streaming.shards.LARGEST_CAPTIONS_BYTES", 50)
    members = {
        "a/0.PNG": picture(0), "a/0.json": b'{"caption": "a cat"}', "a/0.TXT": b"a dog",
        "a/0.jpg": picture(9),
        "b/0.png": picture(1), "b/0.json": b'{"caption": "a cat"}',
        "b/1.png": picture(2), "b/1.txt": b"x" * 51,
    }  # fmt: skip
    found = list(read_samples(str(write_tar(tmp_path / "a.tar", members))))
    assert [sample.data for sample in found] == [picture(number) for number in range(3)]
    assert [sample.captions for sample in found] == [("a dog",), ("a cat",), ()]
    assert [sample.problem for sample in found] == ["", "", "its .txt is too large (51 bytes)"]


PAIRS = {"x/a.v1": b"a dog", "x/a.v2": b"a cat", "b": b"a cow"}


def write_pairs(path: Path, order: str, members: dict[str, bytes]) -> Path:
    names = sorted(members, key=lambda name: name[::-1]) if order == "unsorted" else sorted(members)
    return write_tar(path, {name: members[name] for name in names})


@pytest.mark.parametrize("order", ["sorted", "unsorted"])
@pytest.mark.parametrize("end", [".txt", ".png.txt", ".json"])
def test_samples_are_paired_as_they_were_written(tmp_path: Path, order: str, end: str) -> None:
    """Also with dots in their names, and whatever lies between their members."""
    members = {f"{key}.png": picture(number) for number, key in enumerate(PAIRS)}
    members |= {
        key + end: b'{"caption": "%s"}' % text if end == ".json" else b"\xef\xbb\xbf" + text
        for key, text in PAIRS.items()
    }
    path = write_pairs(tmp_path / "a.tar", order, members)
    found = {sample.data: sample for sample in read_samples(str(path))}
    assert len(found) == 3
    for number, text in enumerate(PAIRS.values()):
        assert found[picture(number)].captions == (text.decode(),)
    whole = list(read_samples(str(path)))
    assert list(read_samples(str(path), first=1)) == whole[1:]


def test_what_has_no_pair_is_no_sample_of_another(tmp_path: Path) -> None:
    members = {
        "img.1.png": picture(1), "img.1.txt": b"one",
        "img.2.png": picture(2),
        "img.3.txt": b"three",
        "c.png": picture(4), "c.mask.png": picture(5), "c.caption.txt": b"four", "c.ocr.txt": b"x",
        "d.png": picture(6), "d.txt": b"caf\xe9",
    }  # fmt: skip
    for order in ("sorted", "unsorted"):
        path = write_pairs(tmp_path / f"{order}.tar", order, members)
        found = {sample.name.split(": ")[1]: sample for sample in read_samples(str(path))}
        assert {name: (sample.captions, sample.problem) for name, sample in found.items()} == {
            "img.1": (("one",), ""),
            "img.2": ((), "it has no caption"),
            "img.3": (("three",), "it has no picture"),
            "c": (("four",), ""),
            "d": ((), "its .txt is no UTF-8 text"),
        }
        assert found["c"].data == picture(4)


def test_a_tar_that_passes_once_says_what_it_needs(tmp_path: Path) -> None:
    import gzip

    members = {"a.png": picture(0), "b.png": picture(1), "a.txt": b"a dog", "b.txt": b"a cat"}
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(write_tar(tmp_path / "a.tar", members).read_bytes()))
    found = list(read_samples(str(path)))
    assert len(found) == 4
    assert all("must follow one another in this tar" in sample.problem for sample in found)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_shard_that_is_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "tar":
        path = write_webdataset(tmp_path / "a.tar", range(20))
    else:
        path = write_parquet(tmp_path / "a.parquet", range(20))
    whole = path.read_bytes().rstrip(b"\0")
    between_members = whole.rindex(b"000012.png") if kind == "tar" else 100
    for size in (0, len(whole) // 3, len(whole) // 2, len(whole) - 1000, between_members):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"a\.(tar|parquet) cannot be read to its end"):
            list(read_samples(str(path)))


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_webdataset(tmp_path / "a.tar", range(20))
    content = bytearray(path.read_bytes())
    start = content.index(b"000010.png")
    content[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a member has no header"):
        list(read_samples(str(path)))


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.tar cannot be read"):
        list(read_samples(str(tmp_path / "gone.tar")))


def test_a_table_without_captions_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has the columns image, label"):
        list(read_samples(str(tmp_path / "a.parquet")))


def test_all_numbered_columns_of_a_table_are_captions(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"image": [picture(0)], "caption_0": ["a dog"], "caption_1": ["a cat"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (found,) = read_samples(str(tmp_path / "a.parquet"))
    assert found.captions == ("a dog", "a cat")


def test_sources_are_patterns_folders_and_weights(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path / "a b", shards=3)
    write_parquet(tmp_path / "c" / "deep" / "x.parquet", range(3))
    (tmp_path / "c" / "README.md").write_text("no shard")
    one, two = find_sources(f"{pattern} = 3; {tmp_path / 'c'}")
    assert [Path(shard).name for shard in one.shards] == ["0000.tar", "0001.tar", "0002.tar"]
    assert (one.weight, two.weight) == (3.0, 1.0)
    assert two.shards == (str(tmp_path / "c" / "deep" / "x.parquet"),)


def test_tables_without_pictures_beside_tars_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_shards(tmp_path, shards=2)
    pq.write_table(pa.table({"url": ["x"], "caption": ["y"]}), tmp_path / "0000.parquet")
    write_parquet(tmp_path / "0002.parquet", range(3))
    (source,) = find_sources(str(tmp_path))
    assert [Path(shard).name for shard in source.shards] == ["0000.tar", "0001.tar", "0002.parquet"]
    assert "1 Parquet files that hold no pictures are passed over" in capsys.readouterr().err
    (source,) = find_sources(f"{tmp_path}/0000.parquet")
    with pytest.raises(UserError, match="has the columns url, caption"):
        list(read_samples(source.shards[0]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no shards"),
        ("a/*.tar = 0", "write a number above 0"),
        ("a/*.tar = 1.2.3", "write a number above 0"),
        ("nowhere/*.tar", "there are no shards"),
    ],
)
def test_a_stream_that_names_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_sources(text)


def test_a_weight_stands_behind_an_equals_sign() -> None:
    assert parse_stream(" a/x=y/*.tar ; b = 0.5;") == [("a/x=y/*.tar", 1.0), ("b", 0.5)]


def test_a_data_set_of_the_hub_gives_its_training_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` looks into a folder as it looks into a repository."""
    import datasets

    for name in ("train-0.tar", "train-1.tar", "test-0.tar"):
        write_webdataset(tmp_path / name, range(3))
    original, asked = datasets.load_dataset_builder, []

    def find(name: str, revision: str | None) -> object:
        asked.append((name, revision))
        return original(str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset_builder", find)
    (source,) = find_sources("somebody/pictures@v1")
    assert asked == [("somebody/pictures", "v1")]
    assert [Path(shard).name for shard in source.shards] == ["train-0.tar", "train-1.tar"]
    assert len(list(read_samples(source.shards[0]))) == 3


def test_a_data_set_that_the_hub_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="the data set nobody/nothing could not be found"):
        find_sources("nobody/nothing")


def test_a_shard_far_away_is_read_as_it_passes(tmp_path: Path) -> None:
    """An address is opened by `datasets`, here one of fsspec's memory."""
    import fsspec

    content = write_webdataset(tmp_path / "a.tar", range(12)).read_bytes()
    with fsspec.open("memory://far/a.tar", "wb") as file:
        file.write(content)
    (source,) = find_sources("memory://far/a.tar")
    found = list(read_samples(source.shards[0], first=5))
    assert [sample.data for sample in found] == [picture(n) for n in range(5, 12)]


def test_a_prepared_data_set_is_a_source_and_every_training_picture_in_one_part(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "mine"
    records = []
    for number in range(50):
        path = folder / "train" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
        records.append(Record(path, tuple(captions(number))))
    write_records(folder / "train", records)
    (source, other) = find_sources(f"{folder} = 2; {folder}/ = 1")
    assert (source.weight, other.weight, len(source.shards)) == (2, 1, 3)
    found = [sample for shard in source.shards for sample in read_samples(shard)]
    assert {sample.data: sample.captions for sample in found} == {
        record.image.read_bytes(): record.captions for record in records
    }
    assert len(found) == 50
    shard = source.shards[1]
    assert list(read_samples(shard, first=5)) == list(read_samples(shard))[5:]
    alone = read_samples(shard, with_pictures=False)
    assert [one.captions for one in alone] == [one.captions for one in read_samples(shard)]
    kept = KeptBlocks(tmp_path, 1)
    before = kept.path(shard, 0)
    write_records(folder / "train", records[:-1])
    assert kept.path(shard, 0) != before
    (folder / "train" / "1.png").unlink()
    lost = next(iter(read_samples(shard)))
    assert lost.problem == "its picture cannot be read: No such file or directory"

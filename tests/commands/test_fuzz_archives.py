"""Archives and tables of a stranger, damaged where they describe themselves.

What comes of one is its samples or a sentence; nothing else, no hang, no flood of memory.
"""

import functools
import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from captioning.sources.caption_files import read_captions
from captioning.sources.folder_source import files_source
from captioning.sources.origins import READ_ERRORS, hub_source
from captioning.streaming.shards import read_samples
from captioning.system.errors import UserError
from tests.helpers.fuzzing import CASES, HOSTILE, little_memory, no_hang
from tests.helpers.streams import picture

BLOCK = tarfile.BLOCKSIZE


def tar_bytes(format_number: int, headers: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_number) as archive:
        for number in range(3):
            for name, content in (
                (f"{number}{'x' * 120}.png", picture(number)),
                (f"{number}{'x' * 120}.txt", b"a dog"),
            ):
                member = tarfile.TarInfo(name)
                member.size, member.pax_headers = len(content), headers
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def hostile_tars(cases: int) -> Iterator[bytes]:
    """Tars with another field in a header, whose checksum is right again, or another record."""
    generator = random.Random("tar")
    fields = ((100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
    keys = ("size", "path", "mtime", "GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major")
    for _ in range(cases):
        key, value = generator.choice(keys), str(generator.choice(HOSTILE))
        value = value.encode("utf-8", "replace").decode()
        headers = {key: value} if generator.random() < 0.5 else {}
        content = bytearray(
            tar_bytes(generator.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)), headers)
        )
        starts = [at for at in range(0, len(content), BLOCK) if content[at + 257 :][:5] == b"ustar"]
        start, (at, length) = generator.choice(starts), generator.choice(fields)
        header = content[start : start + BLOCK]
        if generator.random() < 0.8:
            letters = (b"7", b"\xff", b"\0", b"x", b"L", b"K", b"S", b"g", b"-")
            header[at : at + length] = generator.choice(letters) * length
        content[start : start + BLOCK] = with_checksum(header)
        yield bytes(content)


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tar.gz"])
def test_a_hostile_tar_is_read_or_refused(tmp_path: Path, cases: int, packed: bool) -> None:
    path = tmp_path / ("shard.tar.gz" if packed else "shard.tar")
    for content in hostile_tars(cases * 5):
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        with no_hang(), little_memory(), suppress(UserError):
            list(read_samples(str(path)))


def zip_bytes(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        captions = {f"{number}.png": ["a dog"] for number in range(3)}
        archive.writestr("captions.json", json.dumps(captions))
        for name in captions:
            archive.writestr(name, picture(len(name)))
    return file.getvalue()


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_hostile_zip_is_read_or_refused(tmp_path: Path, method: int, cases: int) -> None:
    path, content = tmp_path / "pictures.zip", zip_bytes(method)
    generator = random.Random(f"zip {method}")
    heads = [at for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in found(content, mark)]
    for _ in range(cases * 5):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 4))):
            place = generator.choice(heads) + 4 + generator.randrange(60)
            if place < len(damaged):
                damaged[place] = generator.choice((0, 1, 8, 12, 14, 97, 255, damaged[place] ^ 4))
        path.write_bytes(damaged)
        with no_hang(), little_memory(), suppress(UserError):
            for one in files_source(str(path)).pictures:
                with suppress(*READ_ERRORS):
                    one.read()


def found(content: bytes, mark: bytes) -> Iterator[int]:
    at = content.find(mark)
    while at >= 0:
        yield at
        at = content.find(mark, at + 1)


def parquet_bytes(about: bytes | None = None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [{"bytes": picture(number), "path": f"{number}.png"} for number in range(3)]
    table = pa.table({"image": pictures, "caption": ["a dog", "a cat", "a cow"]})
    if about is not None:
        table = table.replace_schema_metadata({b"huggingface": about})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "about",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"info": 5}',
        b'{"info": {"features": [1]}}',
        b'{"info": {"features": {"image": {"_type": "Evil"}}}}',
        b'{"info": {"features": {"image": {"_type": "Image"}, "no": {"_type": "Value"}}}}',
    ],
)
def test_what_a_parquet_file_says_of_itself_is_not_believed(tmp_path: Path, about: bytes) -> None:
    path = tmp_path / "shard.parquet"
    path.write_bytes(parquet_bytes(about))
    assert [sample.captions for sample in read_samples(str(path))] == [
        ("a dog",),
        ("a cat",),
        ("a cow",),
    ]


@pytest.mark.parametrize("cases", CASES)
def test_a_hostile_parquet_file_is_read_or_refused(tmp_path: Path, cases: int) -> None:
    path, content = tmp_path / "shard.parquet", parquet_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    generator = random.Random("parquet")
    for _ in range(cases * 5):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 3))):
            place = len(content) - 8 - generator.randrange(length) - 1
            damaged[place] ^= generator.choice((1, 2, 4, 16, 128, 255))
        path.write_bytes(damaged)
        with no_hang(), little_memory(), suppress(UserError):
            list(read_samples(str(path)))


def bomb_in_tar(folder: Path) -> Path:
    """Three gigabytes of zeros that say that they are the header of what follows."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 3 << 30
    path = folder / "shard.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(2**24))
    return path


def bomb_in_parquet(folder: Path) -> Path:
    """A picture of 100 MB that packs to some kilobytes, in each of many rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = pa.array([bytes(100 << 20)], pa.binary()).take(pa.array([0] * 20))
    path = folder / "shard.parquet"
    table = pa.table({"image": pictures, "caption": ["a dog"] * 20})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)
    return path


@pytest.mark.parametrize(
    "bomb", [bomb_in_tar, pytest.param(bomb_in_parquet, marks=pytest.mark.slow)]
)
def test_what_unpacks_without_end_is_refused(tmp_path: Path, bomb: Callable[..., Path]) -> None:
    path = bomb(tmp_path)
    with little_memory(), pytest.raises(UserError, match="cannot be read to its end: "):
        list(read_samples(str(path)))
    if path.suffix == ".parquet":
        with little_memory(), pytest.raises(UserError, match="unpack to"):
            hub_source([str(tmp_path)])


def test_captions_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    content = b'{"0.png": ["' + b"a" * (80 << 20) + b'"]}'
    path = tmp_path / "captions.json.gz"
    path.write_bytes(gzip.compress(content, 1))
    with little_memory(), pytest.raises(UserError, match="unpack to"):
        read_captions(path)
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("0.png", picture(0))
        archive.writestr("captions.json", content)
    with little_memory(), pytest.raises(UserError, match="too large"):
        files_source(str(path))


@functools.cache
def nested(depth: int) -> bytes:
    """Headers of headers of headers."""
    member = tarfile.TarInfo("x")
    member.type = tarfile.XHDTYPE
    return member.tobuf(tarfile.USTAR_FORMAT) * depth


def test_headers_of_headers_end(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(nested(5_000))
    with pytest.raises(UserError, match="cannot be read to its end: "):
        list(read_samples(str(path)))


def test_a_member_without_end_is_not_stepped_over(tmp_path: Path) -> None:
    member = tarfile.TarInfo("0.bin")
    member.size = 10**15
    path = tmp_path / "shard.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(BLOCK)))
    with no_hang(), pytest.raises(UserError, match=r"says that it has 1,000,000,000,000,000 bytes"):
        list(read_samples(str(path)))

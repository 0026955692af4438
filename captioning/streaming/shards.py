"""Shards of pictures and captions that are read as they pass: WebDataset tars and Parquet files.

    "shards/*.tar"                            files that a pattern names
    "user/name", "user/name@revision"         the training shards of a data set of the Hub
    "folder"                                  all shards in a folder
    "data/flickr8k"                           the training pictures of a prepared data set
    "cc12m/*.tar = 3; coco/*.parquet = 1"     several, with the share of the pictures from each

`datasets` finds a data set's shards and opens them where they lie, so nothing is downloaded whole.
Their content is read here and not by its WebDataset builder, which would decode every member of a
tar (`.pth` by torch, `.npy` ...) and end at the first odd one: of a tar only pictures and captions
are read, the rest is stepped over, nothing is unpacked, and no name in it leads anywhere.
"""

import glob
import gzip
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from captioning.sources.caption_fields import (
    JSON_SUFFIXES,
    TEXT_SUFFIXES,
    caption_columns,
    captions_of,
    clean_caption,
    json_captions,
)
from captioning.sources.image_inputs import SHARD_SUFFIXES
from captioning.sources.images import LARGEST_PICTURE_BYTES
from captioning.sources.origins import READ_ERRORS
from captioning.sources.parquet_files import check_unpacked, stored_picture_column
from captioning.sources.picture_names import PICTURE_SUFFIXES
from captioning.streaming.prepared_parts import file_of, parts_of, read_part
from captioning.system.errors import UserError
from captioning.system.reading import open_regular

LARGEST_CAPTIONS_BYTES = 2**20
REMOTE = "://"
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Members that describe the one after them, and are read whole."""
LONGEST_HEADER = 2**20
LARGEST_MEMBER = 2**33


@dataclass(frozen=True)
class StreamedSample:
    """A picture of a shard and its captions, as they lie there."""

    name: str
    """Shard and key, for messages."""
    data: bytes = field(repr=False)
    """The picture's file."""
    captions: tuple[str, ...]
    digest: bytes = field(repr=False)
    """SHA-256 of `data`."""
    problem: str = ""
    """Why it cannot be used."""
    key: str = ""
    """What the shard calls it; "" where it has no name there."""


@dataclass(frozen=True)
class StreamSource:
    """Some shards, and how much of the stream is to come from them."""

    text: str
    """As the settings name it."""
    shards: tuple[str, ...]
    """Paths or addresses, in order of name."""
    weight: float = 1.0


def parse_stream(text: str) -> list[tuple[str, float]]:
    """The sources of a STREAM setting, `source = weight; ...`, and their weights."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = re.fullmatch(r"(.+?)\s*=\s*([0-9.]+)", part)
        where, weight = match.groups() if match else (part, "1")
        if weight.count(".") > 1 or weight == "." or float(weight) == 0:
            raise UserError(f"STREAM gives {where} the weight {weight}; write a number above 0.")
        found.append((where, float(weight)))
    if not found:
        raise UserError('STREAM names no shards; write for example --STREAM "shards/*.tar"')
    return found


def find_sources(text: str) -> list[StreamSource]:
    """The sources of a STREAM setting with their shards. Raises `UserError` where one has none."""
    return [
        StreamSource(where, tuple(_find_shards(where)), weight)
        for where, weight in parse_stream(text)
    ]


def read_samples(
    shard: str, *, first: int = 0, with_pictures: bool = True, needs_captions: bool = True
) -> Iterator[StreamedSample]:
    """The samples of a shard from number `first` on; without pictures only captions are read.

    A Parquet file must have a column of captions, unless none are needed; a sample that lacks them
    has the problem that it does, and its data all the same. Raises `UserError` for a shard that is
    missing or damaged.
    """
    import pyarrow

    try:
        if file_of(shard) != shard:
            parts = read_part(shard, first, with_pictures=with_pictures)
            yield from (_sample(*part) for part in parts)
            return
        with _open(shard) as file:
            if shard.lower().endswith(".parquet"):
                yield from _read_parquet(file, shard, first, with_pictures, needs_captions)
            else:
                yield from _read_tar(file, shard, first, with_pictures)
    except UserError:
        raise
    except (*READ_ERRORS, tarfile.TarError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{shard} cannot be read to its end: {error or type(error).__name__}. Get a good copy, "
            "or take it out of the stream."
        ) from None


def _find_shards(where: str) -> list[str]:
    if REMOTE in where:
        return [where]
    if Path(where).is_dir():
        found = parts_of(Path(where))
        found = found or [str(path) for path in Path(where).rglob("*") if _is_shard(path.name)]
    else:
        found = [path for path in glob.glob(where, recursive=True) if _is_shard(path)]
    if not found and _is_hub_name(where):
        found = [url for url in _hub_files(where) if _is_shard(url)]
    if not found:
        raise UserError(
            f"STREAM: there are no shards ({', '.join(SHARD_SUFFIXES)}) at {where}; give a "
            "pattern in quotes, a folder, a prepared data set, or a data set of the Hub."
        )
    return sorted(_with_pictures(found))


def _with_pictures(shards: list[str]) -> list[str]:
    """Shards without the tables that lie beside tars and hold no pictures, as img2dataset leaves
    them there."""
    import pyarrow.parquet

    def is_table_alone(shard: str) -> bool:
        if not shard.lower().endswith(".parquet") or REMOTE in shard:
            return False
        try:
            return stored_picture_column(pyarrow.parquet.read_schema(shard)) is None
        except (*READ_ERRORS, pyarrow.ArrowException):
            return False  # what is wrong with it is told when it is read

    kept = [shard for shard in shards if not is_table_alone(shard)]
    if not kept or len(kept) == len(shards):
        return shards
    print(
        f"STREAM: {len(shards) - len(kept):,} Parquet files that hold no pictures are passed over, "
        f"{next(shard for shard in shards if shard not in kept)} among them.",
        file=sys.stderr,
    )
    return kept


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SHARD_SUFFIXES)


def _is_hub_name(where: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", where) is not None and not _is_shard(where)


def _hub_files(where: str) -> list[str]:
    """The addresses of a Hub data set's training files."""
    import datasets

    name, _, revision = where.partition("@")
    try:
        builder = datasets.load_dataset_builder(name, revision=revision or None)
    except Exception as error:  # network, gates, formats: a zoo of types, all the user's to mend
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"STREAM: the data set {name} could not be found: {reason}. Check its name and the "
            "network (`hf auth login` for private ones), or give shards on disk."
        ) from error
    files = builder.config.data_files or {}
    return [str(url) for url in files.get("train") or next(iter(files.values()), [])]


def _open(shard: str) -> IO[bytes]:
    if REMOTE not in shard:
        return open_regular(shard)
    from datasets.utils.file_utils import xopen

    file: IO[bytes] = xopen(shard, "rb")
    return file


def _read_tar(
    file: IO[bytes], shard: str, first: int, with_pictures: bool
) -> Iterator[StreamedSample]:
    """Samples of a tar, in the order in which they begin.

    The members of a sample have a name in common up to the last dot. They are listed before they
    are read, so that they may lie anywhere in the tar; but in one that is packed or far away, which
    passes once, they must follow one another.
    """
    kinds = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *(PICTURE_SUFFIXES if with_pictures else ()))
    if _is_gzip(file, shard):
        # Not tarfile's own: it unpacks a whole block, however large, and copies it again and again.
        file, mode = cast(IO[bytes], gzip.GzipFile(fileobj=file)), "r|"
    else:
        mode = "r:" if file.seekable() else "r|"
    with tarfile.open(fileobj=file, mode=mode, tarinfo=_Header) as archive:  # type: ignore[call-overload]
        members = _members(archive, kinds)
        owned = _put_together(list(members)) if mode == "r:" else _as_they_come(members)
        number, key, parts = -1, "", _Parts("", "", mode)
        for owner, member in owned:
            if owner != key:
                if number >= first:
                    yield parts.sample()
                number, key, parts = number + 1, owner, _Parts(shard, owner, mode)
            if number >= first and (member.key == key or member.is_caption_of(key)):
                parts.take(member, archive)
        if number >= first:
            yield parts.sample()


def _is_gzip(file: IO[bytes], shard: str) -> bool:
    if not file.seekable():
        return shard.lower().endswith((".gz", ".tgz"))
    start = file.read(2)
    file.seek(0)
    return start == b"\x1f\x8b"


class _Member(NamedTuple):
    """A picture or captions in a tar."""

    key: str
    """Its name up to the last dot; of `a.jpg.txt`, which is beside `a.jpg`, too."""
    kind: str
    size: int
    offset: int
    """Where its bytes begin."""

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, and no captions."""
        return self.kind in PICTURE_SUFFIXES

    def is_caption_of(self, key: str) -> bool:
        """Whether it is captions that are called so, as `a.caption.txt` is beside `a.jpg`."""
        words = ("caption", "captions", "text", "txt")
        return not self.is_picture and self.key.removeprefix(f"{key}.").lower() in words


def _put_together(members: list[_Member]) -> Iterator[tuple[str, _Member]]:
    """Members with the key of their sample, those of a sample one after another, samples in the
    order in which they begin.

    Files that make no sample of their own are a further part of one whose key theirs begins with,
    as `a.mask.png` is beside `a.jpg`.
    """
    groups: dict[str, list[_Member]] = {}
    for member in members:
        groups.setdefault(member.key, []).append(member)
    owners = {
        key: next((k for k in _beginnings(key) if k in groups), key)
        if len({member.is_picture for member in group}) == 1
        else key
        for key, group in groups.items()
    }
    samples: dict[str, list[_Member]] = {}
    for key, group in groups.items():
        samples.setdefault(owners[key], []).extend(group)
    for owner, group in samples.items():
        yield from ((owner, member) for member in group)


def _as_they_come(members: Iterable[_Member]) -> Iterator[tuple[str, _Member]]:
    """The same for members that pass once: only what follows a file can be a part of its sample."""
    key = ""
    for member in members:
        if not (key and member.key.startswith(f"{key}.")):
            key = member.key
        yield key, member


def _beginnings(key: str) -> Iterator[str]:
    """`x/a.b.c` -> `x/a`, `x/a.b`."""
    folder, slash, name = key.rpartition("/")
    words = name.split(".")
    for count in range(1, len(words)):
        yield folder + slash + ".".join(words[:count])


class _Header(tarfile.TarInfo):
    """A header whose damage is an error: `tarfile` takes it for the end of the archive, reads as
    many bytes of further headers as they say, or stumbles over what they say."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        """Read a header's 512 bytes."""
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a member has no header ({error})") from None
        if header.size < 0 or (header.type in LONG_HEADERS and header.size > LONGEST_HEADER):
            raise tarfile.ReadError(f"a header says that it has {header.size:,} bytes")
        return header


def _members(archive: tarfile.TarFile, kinds: Sequence[str]) -> Iterator[_Member]:
    """The members of some kinds one after another; `tarfile` remembers none, however many there
    are. Left out are folders, links, devices and hidden files."""
    while (member := archive.next()) is not None:
        if not 0 <= member.size <= LARGEST_MEMBER:  # it would be stepped over for hours
            raise tarfile.ReadError(f"{member.name!r:.80} says that it has {member.size:,} bytes")
        path = PurePosixPath(member.name)
        kind = path.suffix.lower()
        is_file = member.isfile() and not member.issparse() and not path.name.startswith(".")
        if is_file and kind in kinds:
            stem = PurePosixPath(path.stem)
            if kind not in PICTURE_SUFFIXES and stem.suffix.lower() in PICTURE_SUFFIXES:
                stem = PurePosixPath(stem.stem)
            yield _Member(str(path.with_name(stem.name)), kind, member.size, member.offset_data)
        archive.members.clear()  # type: ignore[attr-defined]


class _Parts:
    """What the members of one sample have given so far."""

    def __init__(self, shard: str, key: str, mode: str) -> None:
        self._name, self._key = f"{shard}: {key}", key
        self._advice = (
            "" if mode == "r:" else " (the files of a sample must follow one another in this tar)"
        )
        self._data, self._problem = b"", f"it has no picture{self._advice}"
        self._odd = ""
        self._texts: list[str] = []
        self._from_json: list[str] = []

    def take(self, member: _Member, archive: tarfile.TarFile) -> None:
        """Read a member if it is a picture or captions, and not absurdly large."""
        kind, size = member.kind, member.size
        if member.is_picture and self._data:
            return
        if size > (LARGEST_PICTURE_BYTES if member.is_picture else LARGEST_CAPTIONS_BYTES):
            self._odd = f"its {kind} is too large ({size:,} bytes)"
            return
        header = tarfile.TarInfo(f"{member.key}{kind}")
        header.size, header.offset_data = size, member.offset
        file = archive.extractfile(header)
        data = file.read() if file else b""
        if len(data) < size:
            raise EOFError("it ends in the middle of a file")
        if member.is_picture:
            self._data, self._problem = data, "" if data else "its picture is empty"
        elif kind in TEXT_SUFFIXES:
            try:
                self._texts += _text(data).splitlines()
            except UnicodeDecodeError:
                self._odd = f"its {kind} is no UTF-8 text"
        else:
            self._from_json += json_captions(data)

    def sample(self) -> StreamedSample:
        """The sample; a text file's lines are its captions, else what its JSON names so."""
        texts = [clean_caption(text) for text in self._texts]
        found = texts or self._from_json
        problem = self._odd or self._problem
        if not (problem or any(found)):
            problem = f"it has no caption{self._advice}"
        return replace(_sample(self._name, self._data, found, problem), key=self._key)


def _text(data: bytes) -> str:
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _sample(name: str, data: bytes, captions: Iterable[str], problem: str) -> StreamedSample:
    texts = tuple(text for text in captions if text)
    problem = problem or ("" if texts else "it has no caption")
    return StreamedSample(name, data, texts, sha256(data).digest(), problem)


def _read_parquet(
    file: IO[bytes], shard: str, first: int, with_pictures: bool, needs_captions: bool
) -> Iterator[StreamedSample]:
    """Samples of a Parquet file: its rows, one after another."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file)
    image = stored_picture_column(table.schema_arrow)
    columns = caption_columns(name for name in table.schema_arrow.names if name != image)
    if image is None or (needs_captions and not columns):
        raise UserError(
            f"{shard} has the columns {', '.join(table.schema_arrow.names)}; one of pictures and "
            "one of captions (captions, caption, text ...) are needed."
        )
    read = [image, *columns] if with_pictures else columns
    check_unpacked(table.metadata, file.seek(0, os.SEEK_END))
    start = 0
    for group in range(table.num_row_groups):
        stop = start + table.metadata.row_group(group).num_rows
        if stop > first:
            rows = _rows(table, group, read)
            for number, row in enumerate(islice(rows, max(first - start, 0), None)):
                name = f"{shard}: row {max(first, start) + number}"
                yield _row_sample(name, row.get(image), [row[column] for column in columns])
        start = stop


def _rows(table: Any, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    # One at a time: values that a file holds once may stand in all of its rows.
    batches = table.iter_batches(
        batch_size=1, row_groups=[group], columns=columns, use_threads=False
    )
    for batch in batches:
        yield from batch.to_pylist()


def _row_sample(name: str, picture: Any, texts: list[Any]) -> StreamedSample:
    data = picture.get("bytes") if isinstance(picture, dict) else picture
    data = data if isinstance(data, bytes) else b""
    if len(data) > LARGEST_PICTURE_BYTES:
        return _sample(name, b"", [], f"its picture is too large ({len(data):,} bytes)")
    captions = [text for value in texts for text in captions_of(value) or []]
    if sum(map(len, captions)) > LARGEST_CAPTIONS_BYTES:
        return _sample(name, b"", [], "its captions are too large")
    path = picture.get("path") if isinstance(picture, dict) else None
    sample = _sample(name, data, captions, "" if data else "it has no picture")
    return replace(sample, key=path if isinstance(path, str) else "")

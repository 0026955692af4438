"""A prepared data set as a source of a stream: its training pictures, dealt out in parts.

    data/flickr8k/train/metadata.jsonl#0-of-16      every 16th picture, from the first on

Parts take the place of shards, so that several processes share the pictures out, and lanes mix
them. They are read as `records.py` reads a data set, with the features of no store.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from captioning.sources.images import LARGEST_PICTURE_BYTES
from captioning.sources.records import METADATA_NAME, read_records
from captioning.system.reading import read_regular

PART = re.compile(r"(?P<file>.*)#(?P<number>\d+)-of-(?P<count>\d+)", re.DOTALL)
MOST_PARTS, FEWEST_PICTURES = 16, 16
"""Parts of a data set at most, and pictures of a part at least."""


def parts_of(folder: Path) -> list[str]:
    """The parts of a prepared data set; empty where the folder is none."""
    split = folder / "train"
    if not (split / METADATA_NAME).is_file():
        return []
    count = max(1, min(MOST_PARTS, len(read_records(split)) // FEWEST_PICTURES))
    return [f"{split / METADATA_NAME}#{number}-of-{count}" for number in range(count)]


def file_of(shard: str) -> str:
    """The file behind a part; any other shard is its own."""
    part = PART.fullmatch(shard)
    return part["file"] if part else shard


def read_part(
    shard: str, first: int, *, with_pictures: bool
) -> Iterator[tuple[str, bytes, tuple[str, ...], str]]:
    """Name, file, captions and problem of a part's pictures, from number `first` on."""
    part = PART.fullmatch(shard)
    assert part
    records = read_records(Path(part["file"]).parent)
    for record in records[int(part["number"]) :: int(part["count"])][first:]:
        data, problem = b"", ""
        if with_pictures:
            try:
                data = read_regular(record.image, most_bytes=LARGEST_PICTURE_BYTES)
            except OSError as error:
                problem = f"its picture cannot be read: {error.strerror}"
        yield str(record.image), data, record.captions, problem

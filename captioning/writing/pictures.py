"""What a picture is that waits for its captions: its name, its place, and how it is read.

Files come first, in their order, then the samples of shards as they pass.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from captioning.sources.image_inputs import ImageInput
from captioning.streaming.shards import StreamedSample, read_samples
from captioning.system.errors import UserError
from captioning.system.privacy import mask_urls

NUMBER_BITS = 62
"""Of the number that a sample of a shard has by its name; its draws depend on it."""


class Said(Protocol):
    """A caption."""

    @property
    def text(self) -> str:
        """Its words."""

    @property
    def log_probability(self) -> float:
        """Sum of the log-probabilities of its tokens."""

    @property
    def confidence(self) -> float:
        """Geometric mean of their probabilities."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to caption."""

    number: int
    """Its place among the files that were named, or what its name in a shard gives."""
    name: str
    """What it is called in lines and messages; without secrets of an address."""
    inner_name: str
    """Its name below the folder, archive or shard that holds it."""
    shard: str = ""
    """The shard that it is in, or ""."""
    is_file: bool = False
    """Whether it is a file, beside which another may stand."""
    problem: str = ""
    """Why it cannot be had."""


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """Says that all pictures of a shard have passed."""

    shard: str

    @property
    def number(self) -> int:
        """None that counts."""
        return 0


@dataclass(frozen=True, slots=True)
class Unread:
    """A picture with the way to its content."""

    picture: Picture
    read: Callable[[], Path | bytes] = field(repr=False)
    """Gives what `images.load_image` takes."""

    @property
    def number(self) -> int:
        """Its picture's."""
        return self.picture.number


def file_picture(number: int, one: ImageInput) -> Picture:
    """The picture that was named as `one`, the `number`th."""
    return Picture(number, mask_urls(one.name), one.inner_name, is_file=one.is_file)


def each_picture(
    files: Iterable[tuple[int, ImageInput]], shards: Sequence[str]
) -> Iterator[Unread | ShardEnd]:
    """The pictures of files with their numbers, then those of shards."""
    for number, one in files:
        yield Unread(file_picture(number, one), one.read)
    for shard in shards:
        yield from _of_shard(shard)
        yield ShardEnd(shard)


def _of_shard(shard: str) -> Iterator[Unread]:
    seen: set[str] = set()
    try:
        for row, sample in enumerate(read_samples(shard, needs_captions=False)):
            key = _key(sample, row, seen)
            seen.add(key)
            digest = hashlib.sha256(f"{Path(shard).name}\0{key}".encode(errors="replace")).digest()
            number = int.from_bytes(digest[:8], "big") >> (64 - NUMBER_BITS)
            problem = "" if sample.data else f"{sample.name}: {sample.problem}"
            picture = Picture(number, f"{shard}/{key}", key, shard, problem=problem)
            yield Unread(picture, lambda data=sample.data: data)  # type: ignore[misc]
    except UserError as error:
        yield Unread(Picture(0, shard, "", shard, problem=str(error)), bytes)


def _key(sample: StreamedSample, row: int, seen: set[str]) -> str:
    """What a sample is called in its shard: by its own name where no other has it."""
    own = re.sub(r"^/+", "", sample.key)
    return own if own and own not in seen else f"{row:08d}"

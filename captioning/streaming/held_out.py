"""What a stream gives away before training: held-out pictures, and captions for the vocabulary.

The first pictures of a stream become a prepared data set, `validation` and `test` without `train`.
They pass again in training, where they are known by the hash of their bytes and left out.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from captioning.sources.origins import LeftOut, Source, SourcePicture
from captioning.sources.picture_splits import HELD_OUT
from captioning.sources.records import METADATA_NAME, read_records
from captioning.streaming.shards import StreamedSample, StreamSource, read_samples
from captioning.system.errors import UserError
from captioning.system.files import sha256_of
from captioning.system.privacy import mask_urls

HELD_OUT_PICTURES = 1000
"""First pictures of a stream that are kept from training, half for validation, half for test."""
VOCABULARY_PICTURES = 20_000
"""Pictures whose captions the vocabulary is trained on, at most."""
VOCABULARY_SHARDS = 16
"""Shards of a source that these come from, evenly apart."""


def held_out_source(sources: Sequence[StreamSource], fraction: float) -> Source:
    """The first pictures with captions, of each source its share, for two splits.

    Of a source that has no more than its share, `fraction` is held out for each of the two.
    """
    samples: list[StreamedSample] = []
    odd: list[LeftOut] = []
    for source, most in zip(sources, _shares(sources, HELD_OUT_PICTURES), strict=True):
        found = list(islice(_usable(source.shards, odd), most + 1))
        samples += found[:most] if len(found) > most else found[: round(len(found) * 2 * fraction)]
    names = ", ".join(mask_urls(source.text) for source in sources)
    if len(samples) < 2:
        raise UserError(
            f"STREAM: {names} holds too few pictures with captions: {len(samples)} would be held "
            "out, and validation and test need one each. Give more shards."
        )
    pictures = [
        SourcePicture("", sample.captions, HELD_OUT[number % 2], partial(bytes, sample.data))
        for number, sample in enumerate(samples)
    ]
    return Source(f"the first pictures of {names}", pictures, left_out=tuple(odd))


def held_out_hashes(folder: Path) -> frozenset[bytes]:
    """SHA-256 of every validation and test picture of a prepared data set."""
    return frozenset(
        bytes.fromhex(sha256_of(record.image))
        for split in HELD_OUT
        if (folder / split / METADATA_NAME).exists()
        for record in read_records(folder / split)
    )


def vocabulary_captions(
    sources: Sequence[StreamSource], without: Collection[str] = ()
) -> list[str]:
    """Captions of a sample of the stream, of each source its share; none of those in `without`."""
    found: list[str] = []
    for source, most in zip(sources, _shares(sources, VOCABULARY_PICTURES), strict=True):
        every = -(-len(source.shards) // VOCABULARY_SHARDS)
        shards = source.shards[::every]
        for shard in shards:
            samples = read_samples(shard, with_pictures=False)
            for sample in islice(samples, -(-most // len(shards))):
                found += [caption for caption in sample.captions if caption not in without]
    return found


def _shares(sources: Sequence[StreamSource], count: int) -> list[int]:
    """`count` in parts by weight, at least 1 each."""
    total = sum(source.weight for source in sources)
    return [max(1, round(count * source.weight / total)) for source in sources]


def _usable(shards: Sequence[str], odd: list[LeftOut]) -> Iterator[StreamedSample]:
    """The samples that can be used; the others are added to `odd`."""
    for shard in shards:
        for sample in read_samples(shard):
            if sample.problem:
                kind = "samples of the stream that cannot be used"
                odd.append(LeftOut(sample.name, kind, sample.problem))
            else:
                yield sample

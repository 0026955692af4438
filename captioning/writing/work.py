"""What a command has to caption: its share of the pictures, without those that are captioned."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from captioning.sources.image_inputs import ImageInput
from captioning.sources.named_pictures import NamedPictures
from captioning.system.terminal import counted
from captioning.writing.outputs import Output, Part, Written, open_output
from captioning.writing.pictures import Picture, ShardEnd, Unread, each_picture, file_picture


@dataclass
class Work:
    """Pictures to caption, where their captions go, and what has become of them so far."""

    files: Sequence[tuple[int, ImageInput]]
    """With their numbers among all that were named."""
    shards: Sequence[str]
    output: Output
    limit: int = 0
    """Pictures of shards at most; 0 for all."""
    captioned: int = 0
    broken: int = 0
    skipped: int = 0
    """Pictures that were captioned before."""

    @classmethod
    def printed(cls, named: NamedPictures, output: Output, part: Part, limit: int = 0) -> "Work":
        """A part of the pictures that were named."""
        files = list(enumerate(named.pictures))
        return cls._of(files[: limit or None], [s.name for s in named.shards], output, part, limit)

    @classmethod
    def written(
        cls,
        named: NamedPictures,
        form: Written,
        place: str,
        part: Part,
        *,
        overwrite: bool = False,
        limit: int = 0,
    ) -> "Work":
        """The same, each picture once, for captions that are written. Raises `UserError` where two
        pictures would go to one place, or nothing can be put there."""
        once = {one.name: (number, one) for number, one in enumerate(named.pictures)}
        files, shards = list(once.values())[: limit or None], [one.name for one in named.shards]
        pictures = [file_picture(number, one) for number, one in files]
        output = open_output(form, place, pictures, shards, overwrite=overwrite, part=part)
        return cls._of(files, list(dict.fromkeys(shards)), output, part, limit)

    @classmethod
    def _of(
        cls,
        files: Sequence[tuple[int, ImageInput]],
        shards: Sequence[str],
        output: Output,
        part: Part,
        limit: int,
    ) -> "Work":
        left = max(0, limit - len(files))
        return cls(part.share(files), part.share(shards if left or not limit else []), output, left)

    def pending(self, rank: int, world_size: int) -> Iterator[Unread | ShardEnd]:
        """What one of several processes has to caption, and the ends of its shards.

        It has every so many-th file, and shards of its own.
        """
        files, shards = self.files[rank::world_size], self.shards[rank::world_size]
        taken = 0
        for one in each_picture(files, shards):
            if isinstance(one, Unread):
                taken += one.picture.shard != ""
                if self.limit and taken > self.limit:
                    return
                if not one.picture.problem and self.output.has(one.picture):
                    self.skipped += 1
                    continue
            yield one

    def tell(self) -> None:
        """Say on standard error what became of the pictures."""
        if self.output.description:
            before = f"; {self.skipped:,} were before" if self.skipped else ""
            pictures = counted(self.captioned, "picture")
            print(f"{pictures} captioned: {self.output.description}{before}.", file=sys.stderr)
            if self.skipped and not (self.captioned or self.broken):
                print("--overwrite captions them again.", file=sys.stderr)
        total = self.captioned + self.broken
        if self.broken and total + self.skipped > 1:
            print(f"{self.broken} of {total} pictures could not be captioned.", file=sys.stderr)

    def note(self, results: Sequence[tuple[Picture | ShardEnd, object]]) -> list[str]:
        """Put captions where they go; gives what is wrong with the pictures that have none.

        `results` are the pictures of a batch, each with its captions or what is wrong with it.
        """
        good = [(one, found) for one, found in results if isinstance(found, list)]
        problems = [found for _, found in results if isinstance(found, str) and found]
        refused = self.output.write(good)  # type: ignore[arg-type]
        for one, _ in results:
            if isinstance(one, ShardEnd):
                self.output.end_shard(one.shard)
        self.captioned += len(good) - len(refused)
        self.broken += len(problems) + len(refused)
        return [*problems, *refused.values()]

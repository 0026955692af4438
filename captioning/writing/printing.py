"""Captions as lines of standard output, and what is told of them beside."""

import io
import sys
from collections.abc import Iterator, Sequence

from captioning.system.terminal import json_line, one_line
from captioning.writing.pictures import Picture, Said


class PrintedLines:
    """Prints captions; what was printed before nobody knows."""

    description = ""

    def __init__(self, *, as_json: bool, with_names: bool) -> None:
        """A line a caption, or a JSON line a picture."""
        self._as_json, self._with_names = as_json, with_names
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names of files that are not UTF-8 pass as they are.
            sys.stdout.reconfigure(errors="surrogateescape")

    def open(self) -> None:
        """Nothing has to be opened."""

    def has(self, picture: Picture) -> bool:
        """No."""
        return False

    def write(self, captioned: Sequence[tuple[Picture, Sequence[Said]]]) -> dict[Picture, str]:
        """Print pictures' captions."""
        for picture, captions in captioned:
            name = picture.name if self._with_names or self._as_json else ""
            print("\n".join(lines(name, captions, as_json=self._as_json)))
        sys.stdout.flush()
        return {}

    def end_shard(self, shard: str) -> None:
        """Nothing more is to be done."""

    def finish(self) -> None:
        """Nothing more is to be done."""

    def close(self) -> None:
        """Nothing was locked."""


def lines(name: str, captions: Sequence[Said], *, as_json: bool) -> Iterator[str]:
    """What is printed of a picture: one line as JSON, else a line a caption."""
    if as_json:
        names = ("text", "log_probability", "confidence")
        shown = [{name: getattr(caption, name) for name in names} for caption in captions]
        yield json_line({"image": name, "captions": shown})
        return
    for caption in captions:
        text = one_line(" ".join(caption.text.split()))
        yield f"{one_line(name)}\t{text}" if name else text


class Shortcomings:
    """What was asked for and not given: so many captions, and words in them."""

    def __init__(self, num_captions: int, words: Sequence[str]) -> None:
        """What was asked for."""
        self._wanted, self._words = num_captions, words
        self._first, self._fewer = ("", 0), 0
        self._without: dict[str, int] = {}

    def note(self, name: str, captions: Sequence[Said]) -> None:
        """Look at what was found of a picture."""
        if len(captions) < self._wanted:
            self._first = self._first if self._fewer else (name, len(captions))
            self._fewer += 1
        for word in self._words:
            lacking = sum(word not in caption.text for caption in captions)
            self._without[word] = self._without.get(word, 0) + lacking

    def tell(self) -> None:
        """Say it on standard error."""
        if self._fewer:
            name, count = self._first
            many = f" and of {self._fewer - 1:,} more pictures" if self._fewer > 1 else ""
            print(
                f"Fewer captions than the {self._wanted} of --num-captions: {count} of {name}"
                f"{many}. The search found no others; more beams may (--beam-size).",
                file=sys.stderr,
            )
        for word, count in self._without.items():
            if count:
                print(f"{word!r} found no place in {count:,} captions.", file=sys.stderr)

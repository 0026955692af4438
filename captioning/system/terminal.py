r"""Text from others on a terminal: shown, and never obeyed.

A control character moves the cursor, sets a title, hides what was printed; a bidi override shows
letters in another order than they have; a line end makes a line of its own. In file names, captions
and settings of others they are shown as JSON writes them, `\u001b`, so that JSON stays what it was.
"""

import io
import json
import re

from captioning.system.privacy import mask_urls

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""What moves a cursor or ends a line."""
BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]+")
"""What embeds, overrides or isolates a direction of writing."""
UNSAFE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
IN_TEXT = re.compile(rf"(?![\n\t])[{UNSAFE}]|[\udc80-\udc9f]")
"""What is shown in text; there names may hold bytes that are no UTF-8, but none that control."""
IN_JSON = re.compile(rf"[{UNSAFE}\ud800-\udfff]")
"""The same in JSON, which is UTF-8."""
BAR_MOVES = re.compile(r"(?:[\r\n ]|\x1b\[A)*")
"""What a progress bar writes to get its line back, and nothing else."""


def one_line(text: str) -> str:
    """`text` as a part of a line that it cannot end, begin anew or alter."""
    return IN_TEXT.sub(_as_json, text.replace("\t", "\\t").replace("\n", "\\n"))


def json_line(value: object) -> str:
    """A value as a line of JSON that any terminal can show, and that is what it was."""
    return IN_JSON.sub(_as_json, json.dumps(value, ensure_ascii=False))


def counted(number: int, noun: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def words_of(text: str) -> str:
    """A caption without what no caption needs; runs of control characters become a space."""
    return CONTROL.sub(" ", BIDI.sub("", text)).strip()


class PlainText(io.TextIOWrapper):
    """A text stream on which nothing that is printed moves the cursor, but progress bars."""

    def write(self, text: str) -> int:
        """Write `text`, with what a terminal would obey made visible, and secrets masked."""
        length, text = len(text), mask_urls(text)
        if IN_TEXT.search(text) and not BAR_MOVES.fullmatch(text):
            # A bar begins with a carriage return.
            start = "\r" if text.startswith("\r") else ""
            super().write(start + IN_TEXT.sub(_as_json, text[len(start) :]))
        else:
            super().write(text)
        return length


def _as_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"

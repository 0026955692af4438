"""Captions of a mirrored picture: left and right change places, or the picture is not mirrored.

    mirrored("A dog to the left of a red ball.")   "A dog to the right of a red ball."
    mirrored("A sign that says stop.")             None: a mirror would turn its letters round
    mirrored("The bus has left.")                  None: this left is no side
    mirrored("A boy runs.")                        "A boy runs."

For English. Where it cannot be sure, the answer is no: a flip less is better than a caption that is
wrong.
"""

import re
from collections.abc import Sequence

from captioning.sources.records import Record

_OTHER = {"left": "right", "right": "left"}
_SIDE = re.compile(r"\b(?P<side>left|right)(?P<ending>most|wards?|-hand(?:ed)?|-?side)?\b", re.I)
_BEFORE = re.compile(
    r"\b(?:the|his|her|its|their|our|my|your|far|lower|upper|bottom|top|on|to|facing|faces?|"
    r"turn(?:s|ing)?|look(?:s|ing)?|lean(?:s|ing)?|point(?:s|ing)?|head(?:s|ing)?|mov(?:es?|ing)|"
    r"(?:left|right) (?:and|or))[ -]$",
    re.IGNORECASE,
)
"""Words after which left or right is a side."""
_AFTER = re.compile(
    r" (?:side|hand|arm|leg|foot|feet|eye|ear|shoulder|knee|fist|wing|corner|half|edge|end|part|"
    r"lane|of|and|or)s?\b",
    re.IGNORECASE,
)
"""Words before which it is one."""
_ANY = re.compile(r"left|right", re.IGNORECASE)
_NO_SIDES = re.compile(
    r"bright(?!\w*ly right)|upright|copyright|outright|forthright|fright\w*|cleft|wright", re.I
)
"""Words in which left or right is but letters."""
_UNTURNABLE = re.compile(
    r"[\"“”]|\b(?:say|says|saying|reads|written|words?|letters?|lettering|text|signs?|numbers?|"
    r"numbered|clocks?|\w*clockwise|logos?|label\w*)\b",
    re.IGNORECASE,
)
"""What speaks of writing or of a turn, which a mirror turns round and words do not."""


def mirrored(caption: str) -> str | None:
    """The caption of the mirrored picture; None where there is none for certain."""
    if _UNTURNABLE.search(caption):
        return None
    bare = _NO_SIDES.sub(lambda found: "." * len(found[0]), caption)
    sides = list(_SIDE.finditer(bare))
    is_sure = all(
        one["ending"] or _BEFORE.search(bare, 0, one.start()) or _AFTER.match(bare, one.end())
        for one in sides
    )
    if not is_sure or len(sides) != len(_ANY.findall(bare)):
        return None
    for one in reversed(sides):
        start, end = one.span("side")
        caption = caption[:start] + _like(one["side"]) + caption[end:]
    return caption


def mirrored_records(records: Sequence[Record]) -> tuple[list[Record], list[bool]]:
    """Records with mirrored captions, and which of them may be mirrored: those all of whose
    captions can be. The others stay as they are."""
    found = [mirrored_captions(record.captions) for record in records]
    pairs = zip(records, found, strict=True)
    return (
        [Record(record.image, captions) if captions else record for record, captions in pairs],
        [captions is not None for captions in found],
    )


def mirrored_captions(captions: Sequence[str]) -> tuple[str, ...] | None:
    """The captions of a mirrored picture; None where one cannot be."""
    found = [mirrored(caption) for caption in captions]
    whole = tuple(caption for caption in found if caption is not None)
    return whole if len(whole) == len(found) else None


def _like(side: str) -> str:
    """The other side, in the letters' case of `side`."""
    other = _OTHER[side.lower()]
    return other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other

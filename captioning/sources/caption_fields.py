"""The words of captions data: which columns hold what, what a caption is made of.

Captions files and data sets of the Hub name the same things in many ways; here is what each way
means. Captions stay as they were written, except that surrounding white space goes and that
control characters, line breaks among them, become a space.
"""

import re
from collections.abc import Iterable

from captioning.system.terminal import words_of

IMAGE_NAMES = (
    "file_name", "filename", "image", "image_name", "image_path", "image_file", "image_filename",
    "img", "img_name", "img_path", "filepath", "file_path", "file", "path", "picture", "photo",
    "name", "image_id", "img_id", "id",
)  # fmt: skip
CAPTION_NAMES = (
    "captions", "caption", "sentences_raw", "sentences", "sentence", "raw", "comments", "comment",
    "descriptions", "description", "texts", "text",
)  # fmt: skip
NUMBERED_CAPTION = re.compile(r"(caption|sentence|comment|description|text)_?\d+")
"""Columns such as caption_0 ... caption_4, one caption in each."""

SPLIT_NAMES = {
    "train": "train", "training": "train", "restval": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Names that sources use; `restval` is COCO's rest of the validation pictures, trained on."""


def clean_caption(text: str) -> str:
    """`text` without surrounding white space and marks that alter the direction of writing; runs of
    control characters become a space."""
    return words_of(valid_unicode(text))


def valid_unicode(text: str) -> str:
    """`text` with lone surrogates, which no file can hold, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def captions_of(value: object) -> list[str] | None:
    """The cleaned captions in a value: text, a list of texts or of {"raw": text}; else None.

    Nothing (None, or JSON's null) counts as an empty caption.
    """
    if isinstance(value, list | tuple):
        found = [_caption_of(part) for part in value]
    else:
        found = [_caption_of(value)]
    texts = [text for text in found if text is not None]
    return texts if len(texts) == len(found) else None


def caption_columns(names: Iterable[str]) -> list[str]:
    """Which of `names` hold captions: the likeliest one, or all of caption_0, caption_1 ..."""
    names = list(names)
    known = [name for wanted in CAPTION_NAMES for name in names if _plain(name) == wanted]
    return known[:1] or [name for name in names if NUMBERED_CAPTION.fullmatch(_plain(name))]


def image_column(names: Iterable[str]) -> str | None:
    """Which of `names` holds the picture's file name."""
    names = list(names)
    known = (name for wanted in IMAGE_NAMES for name in names if _plain(name) == wanted)
    return next(known, None)


def split_name(value: object) -> str | None:
    """train, validation or test for what a source calls it; None for anything else."""
    return SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None


def _caption_of(value: object) -> str | None:
    if isinstance(value, dict):
        value = next((value[key] for key in ("raw", "caption", "text") if key in value), False)
    if value is None:
        return ""
    return clean_caption(value) if isinstance(value, str) else None


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")

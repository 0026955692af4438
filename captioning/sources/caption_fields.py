"""The words of captions data: which columns hold what, what a caption is made of.

Captions files and data sets of the Hub name the same things in many ways; here is what each way
means. Captions stay as they were written, except that surrounding white space goes and that
control characters, line breaks among them, become a space.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping

from captioning.system.terminal import words_of

IMAGE_NAMES = (
    "file_name", "filename", "image", "image_name", "image_path", "image_file", "image_filename",
    "img", "img_name", "img_path", "filepath", "file_path", "file", "path", "picture", "photo",
    "name", "image_id", "img_id", "id",
)  # fmt: skip
CAPTION_FAMILIES = (
    ("captions", "caption"),
    ("sentences_raw", "sentences", "raw", "sentence"),
    ("comments", "comment"),
    ("descriptions", "description"),
    ("texts", "text"),
    ("prompts", "prompt"),
)
"""Names of captions columns, the likeliest first; those of one family say the same thing."""
_WORD = r"(caption|sentence|comment|description|text|prompt)s?"
NUMBERED_CAPTION = re.compile(
    rf"{_WORD}(?:[_#.:/(\[]*\d+[)\]]?|_[a-z]|_(?:one|two|three|four|five|first|second|third|fourth|fifth))"
)
"""Columns such as caption_0 ... caption_4, sentence1, "Caption (2)", caption_b: a caption each."""
SPLIT_COLUMNS = ("split", "splits", "split_name", "data_split", "dataset_split")
MAYBE_SPLIT_COLUMNS = ("set", "subset", "partition", "phase", "usage")
"""Columns that name the split where all of their values are names of splits."""

SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train", "restval": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "devel": "validation", "development": "validation", "eval": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
"""Names that sources use; `restval` is COCO's rest of the validation pictures, trained on."""

MARKS = {
    "is_rejected": "rejected", "rejected": "rejected",
    "is_precanned": "precanned", "precanned": "precanned",
}  # fmt: skip
"""Columns in which a data set says itself that a caption is none, and what it calls that."""

TEXT_SUFFIXES = (".txt", ".text", ".caption", ".captions")
"""Files of captions beside a picture, a caption a line."""
JSON_SUFFIXES = (".json", ".jsn")
XMP_SUFFIXES = (".xmp",)
"""Sidecars of photo programs, which hold a description."""

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
"""Names of XMP, as ElementTree writes them."""

_QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(,?)""", re.DOTALL)


class FormatError(ValueError):
    """The content is not captions; the text says what was seen."""


class UncertainError(FormatError):
    """The form is known, and what it says may be several things; the text says what settles it."""


def clean_caption(text: str) -> str:
    """`text` without surrounding white space and marks that alter the direction of writing; runs of
    control characters become a space."""
    return words_of(valid_unicode(text))


def valid_unicode(text: str) -> str:
    """`text` with lone surrogates, which no file can hold, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def captions_of(value: object) -> list[str] | None:
    """The cleaned captions in a value: text, a list of texts or of {"raw": text}; else None.

    Nothing (None, or JSON's null) counts as an empty caption. Text that is a list in JSON's,
    Python's or numpy's notation is that list.
    """
    if isinstance(value, str):
        value = listed(value)
    if isinstance(value, list | tuple):
        found = [_caption_of(part) for part in value]
    else:
        found = [_caption_of(value)]
    texts = [text for text in found if text is not None]
    return texts if len(texts) == len(found) else None


def listed(text: str) -> object:
    """What a cell holds: `["a", "b"]`, `['a', 'b']`, `['a' 'b']` and the like as a list, any other
    text as it is. False for a list that is cut short or badly quoted."""
    outside = text.strip()
    if outside.startswith("array(") and outside.endswith(")"):
        outside = outside[len("array(") : outside.rfind("]") + 1]
    if outside[:1] + outside[-1:] not in ("[]", "()", "{}"):
        return text
    inside = outside[1:-1].strip()
    if inside[:1] not in ("'", '"', "{"):
        return text
    try:
        value = json.loads(outside)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list):
        return value
    found = list(_texts_in(inside))
    is_whole = bool(found) and found[-1][1] == len(inside)
    if is_whole and (outside[0] != "(" or "," in (comma for _, _, comma in found)):
        return [one for one, _, _ in found]
    value = _literal(outside)
    if isinstance(value, list):
        return value
    return False if outside[0] == "[" and inside[-1] in ("'", '"') else text


def json_captions(data: bytes) -> list[str]:
    """The captions of one picture in JSON: text, a list of texts, or an object that names them."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return []
    if not isinstance(values, dict):
        return captions_of(values) or []
    names = caption_columns(name for name in values if isinstance(name, str))
    return [text for name in names for text in captions_of(values[name]) or []]


def xmp_captions(text: str) -> list[str]:
    """The description in an XMP sidecar, in its default language; `ValueError` for what is none."""
    from xml.etree import ElementTree

    if "<!" in re.sub(r"(?s)<!--.*?-->", "", text):
        raise ValueError("it is no XMP: it declares entities or types")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from None
    found = [node.get(DESCRIPTION) for node in root.iter(f"{RDF}Description")]
    texts = {
        str(item.get(LANGUAGE)): item.text
        for node in root.iter(DESCRIPTION)
        for item in node.iter(f"{RDF}li")
    }
    found += [texts.get("x-default", next(iter(texts.values()), None))]
    return [cleaned for text in found if text and (cleaned := clean_caption(text))]


def caption_columns(names: Iterable[str]) -> list[str]:
    """Which of `names` hold captions: all of the likeliest family, numbered ones included."""
    return next(iter(caption_families(names)), [])


def caption_families(names: Iterable[str]) -> list[list[str]]:
    """The columns of captions by family, the likeliest family first."""
    names = list(names)
    families = []
    for family in CAPTION_FAMILIES:
        # sentences_raw, sentences and raw are one thing in several forms; numbered ones are not.
        known = [name for wanted in family for name in names if plain(name) == wanted]
        numbered = [
            name
            for name in names
            if (match := NUMBERED_CAPTION.fullmatch(plain(name))) and match[1] == family[-1]
        ]
        if known or numbered:
            families.append(known[:1] + numbered)
    return families


def image_column(names: Iterable[str]) -> str | None:
    """Which of `names` holds the picture's file name, by the names alone."""
    names = list(names)
    known = (name for wanted in IMAGE_NAMES for name in names if plain(name) == wanted)
    return next(known, None)


def speaks_of_pictures(name: str) -> bool:
    """Whether a column's name says that it holds pictures: photo_nr does, id and name do not."""
    return re.search(r"imag|img|photo|foto|pic|bild|file|path", plain(name)) is not None


def split_column(rows: Iterable[Mapping[str, object]], names: Iterable[str]) -> str | None:
    """Which of `names` holds the split of a row."""
    names = list(names)
    for wanted in SPLIT_COLUMNS:
        for name in names:
            if plain(name) == wanted:
                return name
    rows = list(rows)
    for name in names:
        if plain(name) in MAYBE_SPLIT_COLUMNS and all(split_name(row.get(name)) for row in rows):
            return name
    return None


def split_name(value: object) -> str | None:
    """train, validation or test for what a source calls it, perhaps with a year; None for anything
    else."""
    if not isinstance(value, str):
        return None
    return SPLIT_NAMES.get(re.sub(r"[\s_-]*(19|20)\d\d$", "", value.strip().lower()))


def splits_in(path: str) -> set[str]:
    """The splits that the words of a file's name speak of, or else the split that its folder is
    called: captions_train2017.json, Flickr_8k.devImages.txt, val/metadata.jsonl."""
    *folders, name = path.replace("\\", "/").split("/")
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    found = {split for word in words if (split := split_name(word))}
    return found or {split for folder in folders[-1:] if (split := split_name(folder))}


def plain(name: str) -> str:
    """A column's name in small letters, its words joined by underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def mark_columns(names: Iterable[str]) -> list[str]:
    """Which of `names` say that a caption is none."""
    return [name for name in names if plain(name) in MARKS]


def mark_of(row: Mapping[str, object], columns: Iterable[str]) -> str:
    """What a data set itself calls the caption of a row that is none; "" where it is one."""
    return next((MARKS[plain(name)] for name in columns if _is_true(row.get(name))), "")


def _is_true(value: object) -> bool:
    return value is True or str(value).strip().lower() in ("1", "1.0", "true", "yes", "t")


def _texts_in(inside: str) -> Iterator[tuple[str, int, str]]:
    """The quoted texts that follow one another, where each ends, and the comma behind it."""
    position = 0
    while found := _QUOTED.match(inside, position):
        position = found.end()
        value = _literal(found[1].replace("\n", "\\n"))
        yield value if isinstance(value, str) else found[1][1:-1], position, found[2]


def _literal(text: str) -> object:
    """The value that Python's notation gives, or None."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _caption_of(value: object) -> str | None:
    if isinstance(value, dict):
        value = next((value[key] for key in ("raw", "caption", "text") if key in value), False)
    if value is None:
        return ""
    return clean_caption(value) if isinstance(value, str) else None

"""Which candidate belongs to which references, where two files may call a picture differently.

    pairs = pair(read_candidates("mine.jsonl"), read_references("captions_val2014.json"))
    score_captions(pairs.candidates, pairs.references)

Names that differ in form only are one: 391895, "391895", "000000391895.jpg" and
"COCO_val2014_000000391895.jpg"; a name with folders, or a URL, and the end of it; upper and lower
case. Names that contradict each other (another folder, another suffix) are two. Every candidate
must have references of its own, or nothing is scored.
"""

import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from captioning.metrics.score_files import NamedCaptions, shown
from captioning.sources.picture_names import path_parts
from captioning.system.errors import UserError
from captioning.system.terminal import counted

NUMBER = re.compile(r"(?:coco_(?:train|val|test)\d{4}_|coco_)?0*(\d+)(?:\.0+)?")
"""A picture's number: of any number of digits, as COCO's file names or LAVIS' ids have it."""
SUFFIX = re.compile(r"\.(jpe?g|jpe|png|webp|gif|bmp|tiff?|heic|heif|avif|jp2|jxl)$")
SAME_SUFFIXES = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif", "heif": "heic"}


@dataclass(frozen=True)
class ScorePairs:
    """Candidates with their references, by the candidates' names."""

    candidates: dict[str, str]
    references: dict[str, tuple[str, ...]]
    names: tuple[tuple[str, ...], ...]
    """All that the files call each picture."""
    places: tuple[int, ...]
    """Which of the references given belong to each candidate."""
    with_references: int
    """Pictures that could have been scored; more than there are candidates with `is_partial`."""
    split: str | None = None
    """The split of the references that the candidates are of, where they have several."""
    differing: tuple[str, str] | None = None
    """The first candidate whose references have another name, and that name."""

    @property
    def protocol(self) -> dict[str, object]:
        """What a reader must know of how the two were put together."""
        scored = len(self.candidates)
        facts: dict[str, object] = {}
        if self.split:
            facts["split"] = self.split
        if self.differing:
            facts["names"] = "{!r} is {!r} of the references, and so on".format(*self.differing)
        if scored < self.with_references:
            facts["partial"] = f"{scored:,} of {self.with_references:,} pictures with references"
        return facts

    @property
    def warning(self) -> str | None:
        """What must be said with scores over a part."""
        if len(self.candidates) == self.with_references:
            return None
        return (
            f"Scores over a part: {len(self.candidates):,} of the {self.with_references:,} "
            "pictures with references have a candidate (--partial). They are not to be compared "
            "with scores over all."
        )


def pair(
    candidates: Sequence[NamedCaptions],
    references: Sequence[NamedCaptions],
    *,
    is_partial: bool = False,
) -> ScorePairs:
    """Put each candidate to its references.

    References may be of more pictures with `is_partial`, and where they are of several splits and
    the candidates are one of them. Raises `UserError` with the names that have no partner.
    """
    if not candidates:
        raise UserError("There are no candidates; give at least one caption to score.")
    found = _match(candidates, references)
    splits = {references[place].split for place in found}
    wanted = [one for one in references if one.split in splits]
    if len(wanted) > len(found) and not is_partial:
        taken = set(found)
        missing = [
            one.name
            for place, one in enumerate(references)
            if one.split in splits and place not in taken
        ]
        raise UserError(
            f"{counted(len(missing), 'picture')} with references but no candidate: "
            f"{shown(missing)}. Scores over a part cannot be compared with scores over all: add "
            "candidates, or score those that there are with --partial."
        )
    own = [references[place] for place in found]
    pairs = list(zip(candidates, own, strict=True))
    differing = next(
        ((a.name, b.name) for a, b in pairs if not {*_all_names(a)} & {*_all_names(b)}), None
    )
    is_of_split = len(wanted) < len(references) and len(splits) == 1
    return ScorePairs(
        candidates={one.name: one.captions[0] for one in candidates},
        references={one.name: other.captions for one, other in pairs},
        names=tuple(_all_names(a, b) for a, b in pairs),
        places=tuple(found),
        with_references=len(wanted),
        split=splits.pop() if is_of_split else None,
        differing=differing,
    )


def coco_ids(names: Sequence[str]) -> list[int | str]:
    """What COCO results call pictures: their numbers, where all have one of their own; else names.

    A number is also that of `000000391895.jpg` and `COCO_val2014_000000391895.jpg`.
    """
    numbers = [int(stem) if (stem := _form(name).stem).isdecimal() else None for name in names]
    if None in numbers or len(set(numbers)) < len(names):
        return list(names)
    return [number for number in numbers if number is not None]


def find_pictures(folder: str, names: Iterable[Sequence[str]]) -> list[Path]:
    """The file in `folder` of each picture, by any of its names.

    Raises `UserError` with those that have none.
    """
    from captioning.sources.image_inputs import expand

    if not Path(folder).is_dir():
        raise UserError(f"--image-dir is {folder}; there is no such folder.")
    paths = [Path(one.name) for one in expand([folder])]
    files = [NamedCaptions("", path.relative_to(folder).as_posix(), ()) for path in paths]
    index = _Index([one.file_name for one in files])
    found, missing = [], []
    for own in names:
        hits = {place for name in own for place in index.find(name)}
        found += [paths[place] for place in hits]
        missing += [] if len(hits) == 1 else [own[0]]
    if missing:
        raise UserError(
            f"{counted(len(missing), 'candidate')} without one picture of that name in {folder}: "
            f"{shown(missing)}. Its files are called {shown([one.file_name for one in files])}."
        )
    return found


def _match(candidates: Sequence[NamedCaptions], references: Sequence[NamedCaptions]) -> list[int]:
    """The place among the references of each candidate.

    Files may hold two names of a picture: of the four ways to compare them, one must fit all
    candidates, and what fits must say the same.
    """
    ways = []
    for ours, theirs in itertools.product((0, 1), repeat=2):
        own = [(one.id, one.file_name)[ours] for one in candidates]
        others = [(one.id, one.file_name)[theirs] for one in references]
        if any(own) and any(others):
            ways.append(_one_to_one(own, others))
    whole = [way for way in ways if None not in way]
    if whole and all(way == whole[0] for way in whole):
        return [place for place in whole[0] if place is not None]
    if whole:
        raise UserError(
            "The pictures' ids and file names contradict each other: by one of them candidates "
            "belong to other references than by the other. Leave one of the two out."
        )
    best = min(ways, key=lambda way: way.count(None))
    without = [one.name for one, place in zip(candidates, best, strict=True) if place is None]
    raise UserError(
        f"{counted(len(without), 'candidate')} without references; add references for: "
        f"{shown(without)}. The references are of: {shown([one.name for one in references])}. "
        "Names may differ in form (a number's zeros, folders in front, suffix, case), not in what "
        "they say, and each must fit one picture only."
    )


def _one_to_one(names: Sequence[str], others: Sequence[str]) -> list[int | None]:
    """For each name the place of the only other that it fits and that no other name fits."""
    index = _Index(others)
    hits = [index.find(name) for name in names]
    times = Counter(place for places in hits for place in places)
    return [places[0] if len(places) == 1 and times[places[0]] == 1 else None for places in hits]


class _Index:
    """Names, to be found by names of another form."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.exact: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            self.exact[name].append(place)

    @cached_property
    def by_stem(self) -> dict[str, list[tuple[int, "_Form"]]]:
        """Places and forms of the names of each stem."""
        found: dict[str, list[tuple[int, _Form]]] = defaultdict(list)
        for place, name in enumerate(self.names):
            form = _form(name)
            found[form.stem].append((place, form))
        return found

    def find(self, name: str) -> list[int]:
        """Places of the names that are the same, else of those that say the same."""
        if not name or name in self.exact:
            return self.exact[name] if name else []
        form = _form(name)
        return [place for place, other in self.by_stem.get(form.stem, []) if form.fits(other)]


@dataclass(frozen=True)
class _Form:
    """What a name says."""

    folders: tuple[str, ...]
    stem: str
    suffix: str

    def fits(self, other: "_Form") -> bool:
        """Whether neither says what the other contradicts."""
        if self.suffix and other.suffix and self.suffix != other.suffix:
            return False
        shared = min(len(self.folders), len(other.folders))
        return self.folders[-shared:] == other.folders[-shared:] if shared else True


def _form(name: str) -> _Form:
    where = unquote(urlsplit(name).path) if "://" in name else name  # without the host
    text = unicodedata.normalize("NFC", where).casefold()
    *folders, last = path_parts(text) or ("",)
    match = SUFFIX.search(last)
    stem = last[: match.start()] if match else last
    number = NUMBER.fullmatch(stem)
    suffix = match[1] if match else ""
    return _Form(tuple(folders), number[1] if number else stem, SAME_SUFFIXES.get(suffix, suffix))


def _all_names(*pictures: NamedCaptions) -> tuple[str, ...]:
    names = (name for one in pictures for name in (one.id, one.file_name) if name)
    return tuple(dict.fromkeys(names))

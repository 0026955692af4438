"""GPT-2's vocabulary as a folder keeps it: tokenizer.json, or vocab.json with merges.txt.

The library that reads such files reads far more than a vocabulary: parts that pad to a billion
ids, that replace without end, or that abort the process. So entries, merges and special tokens are
taken out here and checked, and nothing else is handed on.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from captioning.system.errors import UserError
from captioning.system.files import read_json
from captioning.system.reading import JSON_BYTES, read_regular

MOST_SPECIAL = 1_000
LONGEST_SPECIAL = 100
"""Characters of a special token."""
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
CHANGES_TEXT = (
    *("dropout", "continuing_subword_prefix", "end_of_word_suffix"),
    *("byte_fallback", "ignore_merges"),
)
"""Options of BPE that GPT-2 has none of."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


class VocabularyError(ValueError):
    """A vocabulary is not byte-level BPE; the text goes on after "it", with "has" or "lacks"."""


@dataclass(frozen=True)
class Vocabulary:
    """Entries with their ids, merges, and tokens that stand for no text."""

    entries: dict[str, int]
    """Special tokens too; numbered from 0 on."""
    merges: list[tuple[str, str]]
    special: frozenset[str]
    frame: tuple[str, str] | None
    """The special tokens that begin and end a caption; None where the file does not say."""
    is_lower_case: bool = False
    begins_with_space: bool = False
    """Whether text is read as if a space stood before it."""


def read_vocabulary(folder: Path, name: str, *, start_id: int, end_id: int) -> Vocabulary:
    """The vocabulary beside a GPT-2 of `name`, of which two ids begin and end captions.

    Raises `UserError` where there is none, or it is another kind.
    """
    try:
        settings = _json(folder / "tokenizer_config.json")
        added = _added(folder, settings)
        if (folder / "tokenizer.json").is_file():
            found = vocabulary_of(read_json(folder / "tokenizer.json"), added)
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            entries = numbered(read_json(folder / "vocab.json"), added)
            merges = checked_merges(_lines(folder / "merges.txt"), entries)
            begins_with_space = settings.get("add_prefix_space") is True
            found = Vocabulary(
                entries, merges, frozenset(added), None, begins_with_space=begins_with_space
            )
        else:
            raise UserError(
                f"{name} has no vocabulary beside its weights: neither tokenizer.json nor "
                "vocab.json with merges.txt. Save its tokenizer there, with save_pretrained."
            )
        by_id = {number: token for token, number in found.entries.items()}
        for number in (start_id, end_id):
            if number not in by_id:
                raise VocabularyError(
                    f"has no entry {number}, which its config names as the start or end of captions"
                )
        frame = by_id[start_id], by_id[end_id]
        special = found.special | (_with_roles(folder, settings) & found.entries.keys())
        return replace(found, special=special.union(frame), frame=frame)
    except VocabularyError as problem:
        raise UserError(
            f"The vocabulary of {name} {problem}. GPT-2's byte-level BPE is read, as "
            "tokenizer.json or as vocab.json with merges.txt."
        ) from None


def vocabulary_of(content: Mapping[str, Any], added: Mapping[str, Any] = NOTHING) -> Vocabulary:
    """The vocabulary in a tokenizer.json, and what is `added` to it elsewhere.

    Raises `VocabularyError`.
    """
    normalizer = content.get("normalizer")
    if normalizer not in (None, {"type": "Lowercase"}):
        raise VocabularyError("has a normalizer that is not Lowercase")
    for part, kind in (("pre_tokenizer", "ByteLevel"), ("decoder", "ByteLevel"), ("model", "BPE")):
        if not isinstance(content.get(part), dict) or content[part].get("type") != kind:
            raise VocabularyError(f"has a {part} that is not {kind}")
    before, model = content["pre_tokenizer"], content["model"]
    odd = [key for key in CHANGES_TEXT if model.get(key)]
    odd += ["use_regex"] if before.get("use_regex", True) is not True else []
    if odd:
        raise VocabularyError(f"has a {odd[0]} that is not GPT-2's")
    entries, merges = model.get("vocab"), model.get("merges")
    if not isinstance(entries, dict) or not isinstance(merges, list):
        raise VocabularyError("has a model without vocab and merges")
    added = {**added, **_added_tokens(content.get("added_tokens", []))}
    every = numbered(entries, added)
    return Vocabulary(
        every,
        checked_merges(merges, every),
        frozenset(added),
        _frame(content.get("post_processor"), added),
        is_lower_case=normalizer is not None,
        begins_with_space=before.get("add_prefix_space") is True,
    )


def numbered(entries: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, int]:
    """All entries with their ids, which count from 0 on; those of bytes among them.

    Raises `VocabularyError`.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    letters = {*ByteLevel.alphabet()}
    every = {**entries, **added}
    for token, number in every.items():
        if type(number) is not int or not (letters.issuperset(token) or token in added):
            raise VocabularyError(f"has the entry {token!r:.80}: {number!r:.80}")
        if entries.get(token, number) != number:
            raise VocabularyError(f"has two numbers for {token!r:.80}")
    if not letters <= every.keys():
        raise VocabularyError("lacks entries of single bytes")
    if sorted(every.values()) != list(range(len(every))):
        raise VocabularyError(f"has {len(every):,} entries that are not numbered from 0 on")
    return every


def checked_merges(merges: Iterable[Any], entries: Mapping[str, int]) -> list[tuple[str, str]]:
    """Merges as pairs of entries that make an entry. Raises `VocabularyError`."""
    pairs = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(pair, list) and [type(one) for one in pair] == [str, str]
        if not is_pair or not {*pair, "".join(pair)} <= entries.keys():
            raise VocabularyError(f"has the merge {merge!r:.80}, which makes no entry")
        pairs.append((pair[0], pair[1]))
    return pairs


def _added_tokens(listed: Any) -> dict[str, Any]:
    """The added tokens of a tokenizer.json with their ids; all of them are special."""
    if not isinstance(listed, list) or len(listed) > MOST_SPECIAL:
        raise VocabularyError(f"has added_tokens that are no list of at most {MOST_SPECIAL:,}")
    found = {}
    for one in listed:
        if not isinstance(one, dict) or one.get("special") is not True:
            raise VocabularyError(f"has the added token {one!r:.80}, which is no special one")
        found[_token(one.get("content"))] = one.get("id")
    return found


def _frame(processor: Any, added: Mapping[str, Any]) -> tuple[str, str] | None:
    """The added tokens that a template puts before and after a text; None where it does not."""
    template = processor.get("single") if isinstance(processor, dict) else None
    if not isinstance(template, list) or len(template) != 3:
        return None
    ends = [
        one["SpecialToken"].get("id")
        for one in (template[0], template[2])
        if isinstance(one, dict) and isinstance(one.get("SpecialToken"), dict)
    ]
    is_frame = len(ends) == 2 and all(isinstance(end, str) and end in added for end in ends)
    return (ends[0], ends[1]) if is_frame else None


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens with their ids that were added to a vocabulary, as older files tell them."""
    found: dict[str, Any] = {}
    listed = settings.get("added_tokens_decoder", {})
    for number, one in listed.items() if isinstance(listed, dict) else ():
        if isinstance(one, dict) and str(number).isdecimal() and len(str(number)) < 10:
            found[_token(one.get("content"))] = int(number)
    older = _json(folder / "added_tokens.json")
    found |= {_token(token): number for token, number in older.items()}
    if len(found) > MOST_SPECIAL:
        raise VocabularyError(f"has {len(found):,} added tokens, and {MOST_SPECIAL:,} are the most")
    return found


def _with_roles(folder: Path, settings: Mapping[str, Any]) -> frozenset[str]:
    """Tokens that the settings give a role."""
    places = (_json(folder / "special_tokens_map.json"), settings)
    named = [of.get(role) for of in places for role in ROLES]
    texts = [one.get("content") if isinstance(one, dict) else one for one in named]
    return frozenset(text for text in texts if isinstance(text, str))


def _token(text: Any) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_SPECIAL or text[0] == "$":
        raise VocabularyError(f"has the added token {text!r:.80}")
    return text


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _lines(path: Path) -> Iterator[str]:
    """The merges of a merges.txt, which begins with its version."""
    try:
        text = read_regular(path, most_bytes=JSON_BYTES).decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from None
    for number, line in enumerate(text.split("\n")):
        if line.strip() and not (number == 0 and line.startswith("#version")):
            yield line.rstrip("\r")

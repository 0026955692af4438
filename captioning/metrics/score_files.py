"""Captions to score, from JSON files of any model.

Candidates: `{"id": "caption"}`, or COCO results `[{"image_id": 1, "caption": "..."}]`.
References: `{"id": ["...", ...]}`, or COCO annotations with `annotations` and `images`.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning.system.errors import UserError

SHOWN_IDS = 5


def check_pairs(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Raise `UserError` with every way in which the two do not fit together."""
    if not candidates:
        raise UserError("There are no candidates; give at least one caption to score.")
    problems = []
    unscorable = [key for key in candidates if key not in references]
    if unscorable:
        problems.append(
            f"{_counted(unscorable, 'candidate')} without references; add references for: "
            f"{_shown(unscorable)}."
        )
    missing = [key for key in references if key not in candidates]
    if missing:
        problems.append(
            f"{_counted(missing, 'picture')} with references but no candidate; scores over a part "
            f"cannot be compared, so add candidates for: {_shown(missing)}."
        )
    empty = [key for key, texts in references.items() if not texts]
    if empty:
        problems.append(f"A picture needs a reference at least; these have none: {_shown(empty)}.")
    if problems:
        raise UserError(*problems)


def read_candidates(path: str | os.PathLike[str]) -> dict[str, str]:
    """One caption a picture; raises `UserError` where the file holds anything else."""
    content = _read_json(path)
    if isinstance(content, list):
        content = _unique(_coco_pairs(content, path), path)
    if not isinstance(content, dict) or "annotations" in content:
        raise UserError(
            f'{path} must hold {{"id": "caption"}} or COCO results '
            f'[{{"image_id": 1, "caption": "..."}}], found {_glimpse(content)}.'
        )
    wrong = [key for key, caption in content.items() if not isinstance(caption, str)]
    if wrong:
        raise UserError(f"{path}: a candidate is one text; it is not for: {_shown(wrong)}.")
    return content


def read_references(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The references of each picture; raises `UserError` where the file holds anything else."""
    content = _read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = _grouped(_coco_pairs(content["annotations"], path))
    elif isinstance(content, list):
        content = _grouped(_coco_pairs(content, path))
    if not isinstance(content, dict):
        raise UserError(
            f'{path} must hold {{"id": ["...", ...]}} or COCO annotations '
            f'{{"annotations": [{{"image_id": 1, "caption": "..."}}]}}, found {_glimpse(content)}.'
        )
    wrong = [
        key
        for key, texts in content.items()
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts)
    ]
    if wrong:
        raise UserError(
            f"{path}: the references of a picture are a list of texts; they are not for: "
            f"{_shown(wrong)}."
        )
    return content


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason}.") from None
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise UserError(f"{path} is not captions in JSON: it is nested too deeply.") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands twice would silently lose its first value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        raise UserError(f"the same id stands more than once: {_shown(twice)}.")
    return content


def _coco_pairs(rows: list[Any], path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """(picture, caption) of COCO's rows; numbers become text, so that 1 and "1" are one."""
    pairs = []
    for number, row in enumerate(rows, start=1):
        whole = isinstance(row, dict) and {"image_id", "caption"} <= row.keys()
        if not whole or not (
            isinstance(row["caption"], str) and isinstance(row["image_id"], int | str)
        ):
            raise UserError(
                f'{path}, row {number}: expected {{"image_id": 1, "caption": "..."}}, '
                f"found {_glimpse(row)}."
            )
        pairs.append((str(row["image_id"]), row["caption"]))
    return pairs


def _unique(pairs: list[tuple[str, str]], path: str | os.PathLike[str]) -> dict[str, str]:
    grouped = _grouped(pairs)
    twice = [key for key, captions in grouped.items() if len(captions) > 1]
    if twice:
        raise UserError(
            f"{path}: a picture has one candidate; these have several: {_shown(twice)}."
        )
    return dict(pairs)


def _grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for key, caption in pairs:
        grouped.setdefault(key, []).append(caption)
    return grouped


def _counted(keys: Collection[str], noun: str) -> str:
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'}"


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_IDS} more" if len(keys) > SHOWN_IDS else ""
    return ", ".join(repr(key) for key in keys[:SHOWN_IDS]) + more


def _glimpse(content: object) -> str:
    text = repr(content)
    return text if len(text) <= 80 else text[:77] + "..."

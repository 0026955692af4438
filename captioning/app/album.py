"""A folder of pictures, and what is said of each: by people, by files beside them, by a model.

A picture is a number, its place in the order of names, as long as the program runs; on disk it is
its name. Of a hundred thousand pictures no more is held than names, drafts and corrections.
"""

import secrets
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioning.app.corrections import Correction, Corrections
from captioning.sources.origins import list_files
from captioning.sources.picture_names import PICTURE_SUFFIXES, is_picture_name
from captioning.system.errors import UserError

FILTERS = ("all", "unreviewed", "edited", "accepted", "flagged")
MOST_NEWS = 500
"""Pictures that are named one by one when something has changed; more are `many`."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What was said of a picture before anybody looked."""

    text: str
    confidence: float | None = None
    """Of the model that said it, 0 to 1; None where nobody knows."""
    is_problem: bool = False
    """Whether the text says why there is no caption."""


class Album:
    """The pictures of a folder by number."""

    def __init__(self, folder: Path, corrections: Corrections) -> None:
        """List the pictures; raises `UserError` where there are none."""
        self.folder, self.corrections = folder, corrections
        self._root = folder.resolve()
        names = (file.name for file in list_files(str(folder)))
        self.names = sorted(name for name in names if is_picture_name(name))
        if not self.names:
            raise UserError(
                f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)}); name a folder that "
                "does (links that lead out of it are not followed)."
            )
        self.number_of = {name: number for number, name in enumerate(self.names)}
        self.stamp = secrets.token_hex(8)
        """Another one each time, so that a page that outlives the program notices."""
        self.drafts: dict[int, Draft] = {}
        self._touched = array("I")
        self._lock = threading.Lock()
        self._ranked: tuple[int, list[int]] = (-1, [])

    def path(self, number: int) -> Path:
        """A picture's file. Raises `UserError` for none, and where it has become a link that leads
        out of the folder."""
        if not 0 <= number < len(self.names):
            raise UserError(f"There is no picture {number} in {self.folder}.")
        path = self.folder / self.names[number]
        if not path.resolve().is_relative_to(self._root):
            raise UserError(f"{path} leads out of the folder, and is not shown.")
        return path

    def add_drafts(self, drafts: Iterable[tuple[int, Draft]]) -> None:
        """Take what was said of pictures, unless something was before."""
        for number, draft in drafts:
            if number not in self.drafts:
                self.drafts[number] = draft
                self.touch(number)

    def touch(self, number: int) -> None:
        """Note that something has changed about a picture."""
        with self._lock:
            self._touched.append(number)

    def news(self, since: int) -> dict[str, Any]:
        """What has changed since the news numbered `since`; 0 for the first call."""
        with self._lock:
            newest = len(self._touched)
            numbers = set(self._touched[since:]) if newest - since <= MOST_NEWS else None
        return {"newest": newest, "changed": sorted(numbers) if numbers is not None else None}

    def item(self, number: int) -> dict[str, Any]:
        """All that is said of a picture."""
        name = self.names[number]
        said, draft = self.corrections[name], self.drafts.get(number)
        problem = draft.text if draft is not None and draft.is_problem else ""
        drafted = draft.text if draft is not None and not problem else ""
        return {
            "number": number,
            "name": name,
            "text": said.text if said.status else drafted,
            "status": said.status,
            "version": said.version,
            "draft": drafted,
            "confidence": draft.confidence if draft is not None else None,
            "problem": problem,
        }

    def order(self, chosen: str = "all", search: str = "") -> Sequence[int]:
        """The pictures of a filter with all words of a search in name or caption: the least
        confident first, then those of which nobody knows, then those without a caption."""
        if chosen not in FILTERS:
            raise UserError(f"There is no filter {chosen!r}; there are {', '.join(FILTERS)}.")
        status = {"all": None, "unreviewed": ""}.get(chosen, chosen)
        words = search.casefold().split()
        found = []
        for number in self._by_confidence():
            said = self.corrections[self.names[number]]
            if status is not None and said.status != status:
                continue
            if words:
                text = f"{self.names[number]} {self._text(number, said)}".casefold()
                if not all(word in text for word in words):
                    continue
            found.append(number)
        return found

    def counts(self) -> dict[str, int]:
        """How many pictures each filter has, by what was said of them."""
        counts = dict.fromkeys(FILTERS, 0)
        for said in self.corrections:
            if said.status and said.name in self.number_of:
                counts[said.status] += 1
        total = len(self.names)
        return {**counts, "all": total, "unreviewed": total - sum(counts.values())}

    def _text(self, number: int, said: Correction) -> str:
        draft = self.drafts.get(number)
        return said.text if said.status or draft is None else draft.text

    def _by_confidence(self) -> list[int]:
        known = len(self.drafts)
        if self._ranked[0] != known:
            self._ranked = (known, sorted(range(len(self.names)), key=self._rank))
        return self._ranked[1]

    def _rank(self, number: int) -> tuple[int, float]:
        draft = self.drafts.get(number)
        if draft is None or draft.is_problem:
            return 2, 0.0
        return (1, 0.0) if draft.confidence is None else (0, draft.confidence)

"""A prepared data set on disk: made once from a source, and then found to be there.

Writes the ImageFolder that `records.py` describes, `problems.tsv` (what was wrong with which
picture) and `prepared.json` (what was made from what, with a fingerprint of the data).
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from captioning.sources.origins import Source, SourcePicture
from captioning.sources.picture_pool import JOURNAL_NAME, POOL_NAME, PooledPicture, fill_pool
from captioning.sources.picture_splits import SplitRequest, assign_splits, find_leaks
from captioning.sources.records import METADATA_NAME, SPLITS, Record, read_records, write_records
from captioning.system.errors import UserError
from captioning.system.files import refuse_links, remove_leftovers, sha256_of, write_text
from captioning.system.reading import JSON_BYTES, read_regular
from captioning.system.terminal import one_line

PREPARED_NAME = "prepared.json"
PROBLEMS_NAME = "problems.tsv"
FORMAT_VERSION = 1
NAMED_IN_MESSAGE = 3


@dataclass(frozen=True)
class Summary:
    """A prepared data set in numbers."""

    pictures: dict[str, int]
    """Pictures of each split that has some."""
    captions: int
    fingerprint: str
    """Hash of pictures, names, captions and splits, for features and checkpoints to quote."""
    source: str
    problems: dict[str, int]
    """Pictures that could not be used, by kind."""
    left_out: int = 0
    """Pictures that the source has in two splits, left out of the one nearer to training."""
    unused: int = 0
    """Picture files without captions."""
    has_own_splits: bool = False
    """Whether splits were drawn here, because the source has none or not all."""
    left_out_by_kind: dict[str, int] = field(default_factory=dict)
    """What the source has and that is left out by no fault, by kind."""
    remarks: list[str] = field(default_factory=list)
    """What was understood of the source and should be known."""

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {one_line(split)}" for split, count in self.pictures.items())
        return f"{counts} pictures with {self.captions:,} captions"


@dataclass(frozen=True)
class Problem:
    """A line of problems.tsv."""

    picture: str
    kind: str
    detail: str = ""


def prepare_folder(
    folder: Path,
    make: Callable[[Path], Summary],
    *,
    settings: dict[str, Any],
    names_source: bool,
) -> Summary:
    """Have the data set in `folder`, which `make` fills unless it is there; prints what it holds.

    `settings` are the `source` and the `splits` of the data set, as JSON. One that is there is
    used as it is, unless the user `names_source` and that is another one than it was made from,
    or its files have changed.
    """
    prepared = read_marker(folder)
    if prepared and (not names_source or prepared[1]["source"] == settings["source"]):
        print(_nothing_to_do(folder, *prepared, settings))
        return prepared[0]
    if (folder / PREPARED_NAME).exists():
        reason = "was made from something else" if prepared else "is no longer whole"
        print(f"{folder} {reason}; it stays until the new one is made.", file=sys.stderr)
    elif folder.exists() and any(folder.iterdir()):
        return _adopt(folder, names_source)
    partial, old = (folder.with_name(folder.name + end) for end in (".partial", ".old"))
    refuse_links(partial)
    if os.path.lexists(old) and not (old / PREPARED_NAME).is_file():
        raise UserError(f"{old} is there and was not made by this command; move it away.")
    with _held(partial):
        summary = make(partial)
        # prepared.json says that the folder is whole.
        content = {"format": FORMAT_VERSION, "settings": settings, "summary": asdict(summary)}
        write_text(partial / PREPARED_NAME, json.dumps(content, indent=2))
        _replace_folder(partial, folder, old)
    print(_report(folder, summary, settings["splits"][0]))
    return summary


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Hold the folder in which a data set is being made; the lock goes with the process.

    Raises `UserError` where another process is at work there.
    """
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(OSError):  # of file systems that cannot lock folders
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"Another process is preparing {partial}; wait for it, or end it and try again."
                ) from None
        remove_leftovers(partial)
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):  # it has another name now, or something in it to go on from
            partial.rmdir()


def read_marker(folder: Path) -> tuple[Summary, dict[str, Any]] | None:
    """The summary and the settings in prepared.json; None where the folder is not whole."""
    try:
        content = json.loads(read_regular(folder / PREPARED_NAME, most_bytes=JSON_BYTES))
        if content["format"] != FORMAT_VERSION:
            return None
        summary = Summary(**content["summary"])
        # The pictures and their metadata file.
        is_whole = all(
            len(os.listdir(folder / split)) > count for split, count in summary.pictures.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (summary, content["settings"]) if is_whole else None


def _nothing_to_do(
    folder: Path, summary: Summary, made: dict[str, Any], asked: dict[str, Any]
) -> str:
    text = f"{folder} is prepared, nothing to do: {summary}."
    if summary.has_own_splits and made["splits"] != asked["splits"]:
        seed, *shares = made["splits"]
        text += (
            f"\nIts splits stay as they were drawn, with RANDOM_SEED {seed} and HELD_OUT_FRACTION "
            f"{max(shares):g}; remove {folder} to draw them anew."
        )
    return text


def _adopt(folder: Path, names_source: bool) -> Summary:
    """A folder that somebody else has put there is used, or left alone."""
    summary = None if names_source else summary_of(folder, "as it was found")
    if not summary or not summary.pictures:
        raise UserError(
            f"{folder} holds files that this command did not write; remove it, or choose another "
            "DATASET or DATA_DIR."
        )
    print(f"{folder} is used as it was found: {summary}.")
    return summary


def _replace_folder(made: Path, folder: Path, old: Path) -> None:
    """Put `made` where `folder` is, which is `old` until it is removed, with everything on the disk
    before the name changes."""
    if hasattr(os, "sync"):
        os.sync()
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(made, folder)
    shutil.rmtree(old, ignore_errors=True)


def _report(folder: Path, summary: Summary, seed: int) -> str:
    lines = [f"{folder}: {summary}, from {summary.source}.", *summary.remarks]
    if summary.has_own_splits:
        lines.append(f"Splits were drawn here, by picture, with RANDOM_SEED {seed}.")
    check = "Split check: no picture, compared by content, is in two splits"
    if summary.left_out:
        check += f"; {summary.left_out:,} that the source has in two were left out of one"
    lines.append(f"{check}.")
    if summary.problems:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.problems.items())
        lines.append(f"Not used: {kinds}; see {folder / PROBLEMS_NAME}.")
    if summary.left_out_by_kind:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.left_out_by_kind.items())
        lines.append(f"Left out: {kinds}; see {folder / PROBLEMS_NAME}.")
    if summary.unused:
        lines.append(f"{summary.unused:,} picture files have no captions and were left aside.")
    return "\n".join(lines)


def write_prepared(
    folder: Path,
    source: Source,
    *,
    seed: int,
    held_out_fraction: float,
    max_bad_fraction: float,
    workers: int,
) -> Summary:
    """Write `source` to `folder`, going on where an interrupted call left it.

    Splits that the source lacks are drawn by `seed`, of `held_out_fraction` each. Raises
    `UserError` when more than `max_bad_fraction` of the pictures cannot be used; then problems.tsv
    lists them, and what was stored waits for the next call.
    """
    names = [picture.name or f"row {index}" for index, picture in enumerate(source.pictures)]
    missing = [_problem(picture.name, picture.problem) for picture in source.pictures]
    _refuse_too_many(folder, missing, len(names), max_bad_fraction)
    plan = [[picture.name, picture.captions, picture.split] for picture in source.pictures]
    pooled = fill_pool(folder, source.pictures, key=_hash([FORMAT_VERSION, plan]), workers=workers)
    problems = [_problem(names[entry.index], entry.problem) for entry in pooled]
    _refuse_too_many(folder, problems, len(names), max_bad_fraction)

    good = [entry for entry in pooled if not entry.problem]
    good, captions = _merge_repeated(source.pictures, good)
    requests = [SplitRequest(entry.sha256, source.pictures[entry.index].split) for entry in good]
    splits = assign_splits(requests, seed=seed, held_out_fraction=held_out_fraction)
    leaks = find_leaks(requests, splits)
    chosen = [
        (split, entry)
        for index, (split, entry) in enumerate(zip(splits, good, strict=True))
        if index not in leaks
    ]
    _write_splits(folder, chosen, captions)
    notes = _notes(source, names, good, captions)
    for index, other in leaks.items():
        detail = f"the same picture as {names[good[other].index]} in {splits[other]}"
        notes.append(Problem(names[good[index].index], f"left out of {splits[index]}", detail))
    found = [problem for problem in problems if problem]
    _write_problems(folder, [*found, *notes])
    (folder / JOURNAL_NAME).unlink()
    hashes = {f"{split}/{entry.name}": entry.sha256 for split, entry in chosen}
    return replace(
        summary_of(folder, source.description, hashes),
        problems=dict(Counter(problem.kind for problem in found)),
        left_out=len(leaks),
        unused=len(source.unused),
        left_out_by_kind=dict(Counter(out.kind for out in source.left_out)),
        remarks=list(source.remarks),
        has_own_splits=any(r.split != s for r, s in zip(requests, splits, strict=True)),
    )


def summary_of(folder: Path, source: str, hashes: dict[str, str] | None = None) -> Summary:
    """What the ImageFolder in `folder` holds; checks that no picture is in two splits.

    `hashes` are those of its pictures by `split/name`; they are computed where not given.
    """
    lines = []
    home: dict[str, str] = {}
    pictures: Counter[str] = Counter()
    for split in SPLITS:
        if not (folder / split / METADATA_NAME).exists():
            continue
        for record in read_records(folder / split):
            name = record.image.relative_to(folder).as_posix()
            sha256 = hashes[name] if hashes else sha256_of(record.image)
            if home.setdefault(sha256, split) != split:
                raise UserError(f"{record.image} is also in {folder / home[sha256]}; take one out.")
            pictures[split] += 1
            lines.append([name, sha256, record.captions])
    captions = sum(len(line[2]) for line in lines)
    return Summary(dict(pictures), captions, _hash(lines), source, {})


def _problem(name: str, text: str) -> Problem | None:
    kind, _, detail = text.partition(": ")
    return Problem(name, kind, detail) if text else None


def _refuse_too_many(
    folder: Path, problems: Sequence[Problem | None], total: int, max_bad_fraction: float
) -> None:
    bad = [problem for problem in problems if problem]
    if len(bad) <= max_bad_fraction * total and len(bad) < total:
        return
    _write_problems(folder, bad)
    kinds = [
        f"{count:,} {kind} ({', '.join(_first_names(bad, kind))})"
        for kind, count in Counter(problem.kind for problem in bad).items()
    ]
    advice = "Mend them"
    if len(bad) < total:
        allowed = -(-len(bad) * 1000 // total) / 1000
        advice += f", or accept them with --MAX_BAD_FRACTION {allowed:g}"
    raise UserError(
        f"{len(bad):,} of {total:,} pictures cannot be used, more than MAX_BAD_FRACTION "
        f"{max_bad_fraction:g} allows: {'; '.join(kinds)}. All are listed in "
        f"{folder / PROBLEMS_NAME}. {advice}."
    )


def _first_names(problems: list[Problem], kind: str) -> list[str]:
    names = [problem.picture for problem in problems if problem.kind == kind]
    return names[:NAMED_IN_MESSAGE] + ["..."] * (len(names) > NAMED_IN_MESSAGE)


def _merge_repeated(
    pictures: Sequence[SourcePicture], entries: list[PooledPicture]
) -> tuple[list[PooledPicture], dict[int, tuple[str, ...]]]:
    """Rows that give one picture again, by name and bytes, become one with all their captions."""
    first: dict[tuple[str, str, str | None], PooledPicture] = {}
    captions: dict[int, tuple[str, ...]] = {}
    for entry in entries:
        picture = pictures[entry.index]
        kept = first.setdefault((entry.sha256, picture.name, picture.split), entry)
        found = tuple(caption for caption in picture.captions if caption)
        captions[kept.index] = captions.get(kept.index, ()) + found
    return list(first.values()), captions


def _write_splits(
    folder: Path,
    chosen: Sequence[tuple[str, PooledPicture]],
    captions: dict[int, tuple[str, ...]],
) -> None:
    for split in SPLITS:
        split_dir = folder / split
        shutil.rmtree(split_dir, ignore_errors=True)
        entries = [entry for entry_split, entry in chosen if entry_split == split]
        for entry in entries:
            split_dir.mkdir(exist_ok=True)
            os.replace(folder / POOL_NAME / entry.name, split_dir / entry.name)
        if entries:
            write_records(
                split_dir,
                (Record(split_dir / entry.name, captions[entry.index]) for entry in entries),
            )
    shutil.rmtree(folder / POOL_NAME)


def _notes(
    source: Source,
    names: list[str],
    good: list[PooledPicture],
    captions: dict[int, tuple[str, ...]],
) -> list[Problem]:
    """What was changed without loss of a picture."""
    notes = []
    for entry in good:
        name = names[entry.index]
        picture = source.pictures[entry.index]
        if "" in picture.captions:
            notes.append(Problem(name, "empty caption", "dropped"))
        if picture.name and entry.name != Path(picture.name).name:
            notes.append(Problem(name, "renamed", entry.name))
        if len(captions[entry.index]) > len(picture.captions):
            notes.append(Problem(name, "repeated", "captions joined"))
    notes += [Problem(out.name, out.kind, out.detail or "left out") for out in source.left_out]
    return notes + [
        Problem(name, "no captions for this file", "left aside") for name in source.unused
    ]


def _write_problems(folder: Path, problems: Sequence[Problem]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["picture\tproblem\tdetail"]
    for problem in problems:
        fields = (problem.picture, problem.kind, problem.detail)
        lines.append("\t".join(map(_as_cell, fields)))
    write_text(folder / PROBLEMS_NAME, "\n".join(lines) + "\n")


def _as_cell(text: str) -> str:
    """A cell of the table; one that a spreadsheet would take for a formula is marked as text."""
    text = " ".join(text.split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
